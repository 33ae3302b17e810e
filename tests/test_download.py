"""Downloads against a small HTTP server on this machine; nothing here needs the Internet."""

import csv
import hashlib
import http.server
import io
import os
import re
import socket
import threading
import zipfile

import pytest

import extract_features
from utils import download as module
from utils.artifacts import ArtifactError
from utils.dataset import find_clips
from utils.download import DOWNLOADS, KAGGLE_INSTRUCTION, download

NOISE_OF_LIFE = {
    "FemaleScream/femaleScream-009.wav": b"a" * 5000, "FemaleScream/femaleScream-010.wav": b"b" * 5000,
    "MaleScream/maleScream-001.wav": b"c" * 5000, "Speech/speech-105.wav": b"d" * 5000, "README.md": b"credits",
}
ESC50 = {"audio/1-100032-A-0.wav": os.urandom(100_000), "meta/esc50.csv": b"filename,fold,target,category,esc10,src_file,take\n"
         b"1-100032-A-0.wav,1,0,dog,True,100032,A\n"}


def make_zip(files, top="repository-1a2b"):
    """A GitHub archive: every file below one top folder."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path, data in files.items():
            archive.writestr(f"{top}/{path}" if top else path, data)
    return content.getvalue()


class Server:
    """Serves `files` {path: bytes}; the settings below make it misbehave."""

    def __init__(self):
        self.files = {}
        self.ranges = True  # answers Range requests with 206
        self.lengths = True  # sends Content-Length
        self.break_after = []  # for each request in turn: bytes after which the connection drops
        self.requests = []  # (path, Range header, status)
        handler = type("Handler", (RequestHandler,), {"server_settings": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=[0.01], daemon=True).start()

    def offer(self, name, archive):
        self.files["/" + DOWNLOADS[name][0]] = archive


class RequestHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        settings, content = self.server_settings, self.server_settings.files.get(self.path)
        wanted = self.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and settings.ranges else 0
        status = 404 if content is None else 416 if start >= len(content) else 206 if start else 200
        settings.requests.append((self.path, wanted, status))
        self.send_response(status)
        if status in (404, 416):
            if status == 416:
                self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if settings.lengths:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = settings.break_after.pop(0) if settings.break_after else len(content)
        self.wfile.write(content[start : start + stop])

    def log_message(self, *args):
        """Keep the test output clean."""


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def left_over(folder):
    """Names in the folder, hidden ones included, apart from finished collections and checksums."""
    finished = ("ESC-50-master", "noise-of-life")
    return sorted(name for name in os.listdir(folder) if name not in finished and not name.endswith(".sha256"))


def test_whole_archive_arrives_with_its_checksum(server, tmp_path, capsys):
    archive = make_zip(ESC50)
    server.offer("esc50", archive)
    folder = download("esc50", server.url, tmp_path)
    assert folder == os.path.join(tmp_path, "ESC-50-master")
    assert (tmp_path / "ESC-50-master/audio/1-100032-A-0.wav").read_bytes() == ESC50["audio/1-100032-A-0.wav"]
    digest = hashlib.sha256(archive).hexdigest()
    assert digest in capsys.readouterr().err
    assert (tmp_path / "ESC-50-master.zip.sha256").read_text() == f"{digest}  ESC-50-master.zip\n"
    assert left_over(tmp_path) == []
    clip, = find_clips(folder)
    assert (clip.label, clip.source, clip.group, clip.sound_class) == ("non_scream", "esc50", "esc-100032", "dog")


def test_noise_of_life_gets_labels_and_groups(server, tmp_path):
    server.offer("noise-of-life", make_zip(NOISE_OF_LIFE))
    folder = download("noise-of-life", server.url, tmp_path)
    with open(os.path.join(folder, "clips.csv"), newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {path: (row["label"], row["source"], row["sound_class"], row["group"]) for path, row in rows.items()} == {
        "FemaleScream/femaleScream-009.wav": ("scream", "noise-of-life", "FemaleScream", "nol-FemaleScream-0"),
        "FemaleScream/femaleScream-010.wav": ("scream", "noise-of-life", "FemaleScream", "nol-FemaleScream-1"),
        "MaleScream/maleScream-001.wav": ("scream", "noise-of-life", "MaleScream", "nol-MaleScream-0"),
        "Speech/speech-105.wav": ("non_scream", "noise-of-life", "Speech", "nol-Speech-10"),
    }
    assert all(os.path.isfile(clip.path) for clip in find_clips(folder))


def test_groups_are_those_of_the_reference_table(server, tmp_path, real_audio):
    with open(real_audio / "clips.csv", newline="") as file:
        reference = {row["path"].rsplit("/", 1)[1].split(".")[0]: (row["label"], row["group"], row["sound_class"])
                     for row in csv.DictReader(file) if row["source"] == "noise-of-life"}
    files = {f"{sound_class}/{stem}.wav": b"x" for stem, (_, _, sound_class) in reference.items()}
    server.offer("noise-of-life", make_zip(files))
    clips = find_clips(download("noise-of-life", server.url, tmp_path))
    assert {os.path.basename(c.path)[:-4]: (c.label, c.group, c.sound_class) for c in clips} == reference


def test_interrupted_transfer_is_resumed_by_the_next_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    archive = make_zip(ESC50)
    server.offer("esc50", archive)
    server.break_after = [60_000]
    with pytest.raises(ArtifactError, match=r"continues where it stopped"):
        download("esc50", server.url, tmp_path)
    assert (tmp_path / "ESC-50-master.zip.part").read_bytes() == archive[:60_000]
    download("esc50", server.url, tmp_path)
    assert [(wanted, status) for _, wanted, status in server.requests] == [(None, 200), ("bytes=60000-", 206)]
    assert (tmp_path / "ESC-50-master/audio/1-100032-A-0.wav").read_bytes() == ESC50["audio/1-100032-A-0.wav"]


def test_interrupted_transfer_is_resumed_within_a_call(server, tmp_path):
    server.offer("esc50", make_zip(ESC50))
    server.break_after = [10_000, 20_000]
    download("esc50", server.url, tmp_path)
    assert [wanted for _, wanted, _ in server.requests] == [None, "bytes=10000-", "bytes=30000-"]


def test_server_without_range_support_sends_all_again(server, tmp_path):
    server.offer("esc50", make_zip(ESC50))
    server.ranges, server.break_after = False, [60_000]
    folder = download("esc50", server.url, tmp_path)
    assert [status for _, _, status in server.requests] == [200, 200]
    with open(os.path.join(folder, "audio/1-100032-A-0.wav"), "rb") as file:
        assert file.read() == ESC50["audio/1-100032-A-0.wav"]


def test_server_without_content_length(server, tmp_path):
    server.offer("esc50", make_zip(ESC50))
    server.lengths = False
    assert os.path.isdir(download("esc50", server.url, tmp_path))


def test_complete_part_is_not_fetched_again(server, tmp_path):
    archive = make_zip(ESC50)
    server.offer("esc50", archive)
    (tmp_path / "ESC-50-master.zip.part").write_bytes(archive)
    download("esc50", server.url, tmp_path)
    assert [status for _, _, status in server.requests] == [416]


def test_part_longer_than_the_archive_starts_over(server, tmp_path):
    archive = make_zip(ESC50)
    server.offer("esc50", archive)
    (tmp_path / "ESC-50-master.zip.part").write_bytes(archive + b"more")
    assert os.path.isdir(download("esc50", server.url, tmp_path))
    assert [status for _, _, status in server.requests] == [416, 200]


@pytest.mark.parametrize("damage", ["flipped byte", "not a zip", "truncated"])
def test_damaged_archive_leaves_nothing_and_the_next_call_succeeds(server, tmp_path, damage):
    archive = make_zip(ESC50)
    server.offer("esc50", {"flipped byte": archive[:5000] + bytes([archive[5000] ^ 1]) + archive[5001:],
                           "not a zip": b"<html>sorry</html>", "truncated": archive[:-200]}[damage])
    with pytest.raises(ArtifactError, match=r"damaged .* run the same command again"):
        download("esc50", server.url, tmp_path)
    assert left_over(tmp_path) == [] and not (tmp_path / "ESC-50-master").exists()
    server.offer("esc50", archive)
    assert os.path.isdir(download("esc50", server.url, tmp_path))


@pytest.mark.parametrize("name", ["../outside.wav", "/outside.wav", "top/../../outside.wav", "..\\outside.wav", "C:/outside.wav"])
def test_paths_that_leave_the_folder_are_refused(server, tmp_path, name):
    server.offer("esc50", make_zip({"top/a.wav": b"1", name: b"2"}, top=""))
    target = tmp_path / "here"
    with pytest.raises(ArtifactError, match="unsafe path"):
        download("esc50", server.url, target)
    assert not list(tmp_path.rglob("outside.wav")) and not (target / "ESC-50-master").exists()


def test_links_are_refused(server, tmp_path):
    link = zipfile.ZipInfo("top/link")
    link.external_attr = 0o120777 << 16
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    server.offer("esc50", content.getvalue())
    with pytest.raises(ArtifactError, match="unsafe path"):
        download("esc50", server.url, tmp_path)


def test_missing_archive(server, tmp_path):
    with pytest.raises(ArtifactError, match=r"ESC-50/archive/master.zip cannot be downloaded: the server answers 404"):
        download("esc50", server.url, tmp_path)
    assert len(server.requests) == 1 and left_over(tmp_path) == []


def test_no_network(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        with pytest.raises(ArtifactError, match=r"cannot be downloaded \(.*refused.*\): check the network"):
            download("esc50", f"http://127.0.0.1:{unused.getsockname()[1]}", tmp_path)
    assert left_over(tmp_path) == []


def test_folder_that_is_there_is_used_without_asking_the_server(server, tmp_path, capsys):
    (tmp_path / "noise-of-life").mkdir()
    assert download("noise-of-life", server.url, tmp_path) == os.path.join(tmp_path, "noise-of-life")
    assert server.requests == [] and "is there already" in capsys.readouterr().err


def test_changed_checksum_is_mentioned(server, tmp_path, capsys):
    server.offer("esc50", make_zip(ESC50))
    (tmp_path / "ESC-50-master.zip.sha256").write_text("0" * 64 + "  ESC-50-master.zip\n")
    download("esc50", server.url, tmp_path)
    assert "held another checksum" in capsys.readouterr().err


def test_target_that_cannot_be_written(server, tmp_path):
    server.offer("esc50", make_zip(ESC50))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot store"):
        download("esc50", server.url, tmp_path / "file")


def test_kaggle_prints_an_instruction(capsys):
    assert extract_features.main(["--download", "kaggle"]) == 0
    assert "kagglehub" in KAGGLE_INSTRUCTION and KAGGLE_INSTRUCTION in capsys.readouterr().out
