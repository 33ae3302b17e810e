import errno
import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import types

import pytest

from utils.artifacts import ArtifactError
from utils.journal import Journal, differing_settings, fingerprint_of, parse_lines

SETTINGS = {"threshold": 0.5, "models": {"svm": "ab12", "cnn": "cd34"}}


@pytest.fixture
def recordings(tmp_path):
    """Three small files."""
    paths = []
    for name in ("a.wav", "b.wav", "c.wav"):
        path = tmp_path / name
        path.write_bytes(b"x" * 10)
        paths.append(str(path))
    return paths


def record_of(path, probability=0.25):
    return {"file": path, "probability": probability, "events": [{"start_s": 0.1 + 0.2, "end_s": 2.0}]}


def test_finished_files_come_back_exactly_and_others_do_not(tmp_path, recordings):
    path = tmp_path / "run.journal"
    with Journal(path, SETTINGS) as journal:
        assert journal.find(recordings[0]) is None
        journal.add(recordings[0], record_of(recordings[0], 1 / 3))
    with Journal(path, SETTINGS) as journal:
        assert journal.find(recordings[0]) == record_of(recordings[0], 1 / 3)  # floats survive bit by bit
        assert journal.find(recordings[1]) is None


def test_changed_size_or_time_means_done_again(tmp_path, recordings):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        for path in recordings:
            journal.find(path)
            journal.add(path, record_of(path))
    with open(recordings[0], "ab") as file:
        file.write(b"more")
    os.utime(recordings[1], ns=(1, 1))
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert [journal.find(path) is not None for path in recordings] == [False, False, True]


@pytest.mark.parametrize("at", [0, 65_535, 500_000, 999_999])
def test_another_recording_with_the_same_name_size_and_time_is_done_again(tmp_path, at):
    """As recorders without a clock make on every card."""
    path, content = str(tmp_path / "rec001.wav"), bytearray(1_000_000)
    for _ in range(2):
        pathlib.Path(path).write_bytes(content)
        os.utime(path, ns=(1, 1))
        with Journal(tmp_path / "j", SETTINGS) as journal:
            assert journal.find(path) is None or at == 500_000, "in the middle it is not looked at"
            journal.add(path, record_of(path))
            assert journal.find(path) is not None
        content[at] = 1


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_ends_the_journal_but_not_the_run_and_leaves_it_whole(tmp_path, recordings, monkeypatch, short):
    class Full:
        """The journal's file where only 20 bytes more have room."""

        def __init__(self, file):
            self.file = file

        def write(self, content):
            if short:
                return self.file.write(content[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.file, name)

    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add(recordings[0], record_of(recordings[0]))
        assert journal.failure is None
        file, journal.file = journal.file, Full(journal.file)
        journal.add(recordings[1], record_of(recordings[1]))
        assert journal.failure == (f"{tmp_path}/j: cannot be written any more (No space left on device); the run goes on "
                                   "without it")
        journal.file = file  # somebody has made room: nothing more is noted all the same
        journal.add(recordings[2], record_of(recordings[2]))
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert [journal.find(path) is not None for path in recordings] == [True, False, False]
        journal.add(recordings[1], record_of(recordings[1]))
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert [journal.find(path) is not None for path in recordings] == [True, True, False]


def test_file_that_changed_during_its_analysis_is_done_again(tmp_path, recordings):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.find(recordings[0])
        with open(recordings[0], "ab") as file:
            file.write(b"still recording")
        journal.add(recordings[0], record_of(recordings[0]))
        assert journal.find(recordings[0]) is None


def test_failed_files_are_tried_again_and_their_last_record_counts(tmp_path, recordings):
    path = recordings[0]
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert journal.find(path) is None
        journal.add(path, {"file": path, "error": "m4a needs ffmpeg on PATH"})
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert journal.find(path) is None  # the file is the same, but ffmpeg may be there now
        journal.add(path, record_of(path))
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert journal.find(path) == record_of(path)


@pytest.mark.parametrize("cut", range(1, 12))
def test_torn_last_line_costs_that_file_only_and_later_lines_are_sound(tmp_path, recordings, cut):
    path = tmp_path / "j"
    with Journal(path, SETTINGS) as journal:
        for recording in recordings[:2]:
            journal.find(recording)
            journal.add(recording, record_of(recording))
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    with Journal(path, SETTINGS) as journal:
        assert journal.find(recordings[0]) and journal.find(recordings[1]) is None
        journal.add(recordings[1], record_of(recordings[1]))
    assert path.read_bytes() == raw


def test_any_cut_anywhere_gives_a_prefix_of_the_finished_files(tmp_path, recordings):
    path = tmp_path / "j"
    with Journal(path, SETTINGS) as journal:
        for recording in recordings:
            journal.find(recording)
            journal.add(recording, record_of(recording))
    raw = path.read_bytes()
    for cut in [*range(0, len(raw), 29), len(raw)]:
        path.write_bytes(raw[:cut])
        with Journal(path, SETTINGS) as journal:
            assert list(journal.done) == recordings[: max(0, raw[:cut].count(b"\n") - 1)]
        assert path.read_bytes().endswith(b"\n")


def test_other_settings_are_refused_by_name(tmp_path, recordings):
    Journal(tmp_path / "j", SETTINGS).close()
    Journal(tmp_path / "j", {"models": {"cnn": "cd34", "svm": "ab12"}, "threshold": 0.5}).close()  # order is no setting
    with pytest.raises(ArtifactError, match=r"other settings \(models\)"):
        Journal(tmp_path / "j", SETTINGS | {"models": {"svm": "retrained"}})
    with pytest.raises(ArtifactError, match=r"\(threshold, hop\)"):
        Journal(tmp_path / "j", SETTINGS | {"threshold": 0.6, "hop": 1.0})


def test_without_resume_the_old_journal_goes_but_a_foreign_file_stays(tmp_path, recordings):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.find(recordings[0])
        journal.add(recordings[0], record_of(recordings[0]))
    with Journal(tmp_path / "j", SETTINGS | {"threshold": 0.9}, resume=False) as journal:
        assert journal.done == {}
    (tmp_path / "notes.txt").write_text("my notes\n")
    for resume in (True, False):
        with pytest.raises(ArtifactError, match="not a journal"):
            Journal(tmp_path / "notes.txt", SETTINGS, resume=resume)
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"


def test_a_journal_belongs_to_one_run_at_a_time(tmp_path, recordings):
    with Journal(tmp_path / "j", SETTINGS) as journal:
        journal.add(recordings[0], record_of(recordings[0]))
        for resume in (True, False):
            with pytest.raises(ArtifactError, match="another run is writing this journal"):
                Journal(tmp_path / "j", SETTINGS, resume)
        journal.add(recordings[1], record_of(recordings[1]))
    with Journal(tmp_path / "j", SETTINGS) as journal:
        assert list(journal.done) == recordings[:2]
        journal.remove()
        assert not (tmp_path / "j").exists()
        Journal(tmp_path / "j", SETTINGS).close()
    with Journal(tmp_path / "j", SETTINGS) as journal:
        (tmp_path / "j").unlink()
        journal.remove()


def test_a_journal_that_is_removed_while_another_run_opens_it_is_made_again(tmp_path, monkeypatch):
    """The other run has opened the file and not locked it yet."""
    flock, first = fcntl.flock, Journal(tmp_path / "j", SETTINGS)

    def remove_and_lock(file, operation):
        if not first.file.closed:
            first.remove()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with Journal(tmp_path / "j", SETTINGS) as second:
        assert os.path.samestat(os.stat(tmp_path / "j"), os.fstat(second.file.fileno()))


def test_a_journal_without_locks(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    for without in (None, types.SimpleNamespace(LOCK_EX=1, LOCK_NB=2, flock=no_locks)):  # Windows; some network disks
        monkeypatch.setattr("utils.journal.fcntl", without)
        with Journal(tmp_path / "j", SETTINGS) as journal:
            journal.remove()
        assert not (tmp_path / "j").exists()


def test_unwritable_journal_is_one_sentence(tmp_path):
    with pytest.raises(ArtifactError, match="cannot be written"):
        Journal(tmp_path / "no" / "such" / "folder" / "j", SETTINGS)


def test_fingerprint_and_differences():
    assert fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1}) != fingerprint_of({"a": 1, "b": 3})
    assert differing_settings({"a": 1, "b": (1, 2)}, {"a": 2, "b": [1, 2]}) == ["a"]
    assert parse_lines(b'{"a": 1}\n{"b"') == ([{"a": 1}], 9)
    assert parse_lines(b'{"a": 1}\n\0\0\0\n{"b": 1}\n') == ([{"a": 1}], 9)


def test_killed_process_loses_nothing_it_had_finished(tmp_path):
    """kill -9 while a process adds files as fast as it can: every file it reported is there."""
    script = textwrap.dedent("""
        import itertools, sys
        from utils.journal import Journal
        journal = Journal(sys.argv[1], {})
        for i in itertools.count():
            journal.find(f"{i}.wav")
            journal.add(f"{i}.wav", {"file": f"{i}.wav", "padding": "x" * 5000})
            print(i, flush=True)
    """)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path / "j"], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout.readline() == "0\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    reported = [0, *map(int, process.stdout.read().split("\n")[:-1])]
    process.wait()
    with Journal(tmp_path / "j", {}) as journal:
        assert len(reported) - 1 <= len(journal.done) - 1 <= len(reported) + 1
        assert list(journal.done)[: len(reported)] == [f"{i}.wav" for i in reported]
    for line in (tmp_path / "j").read_text().splitlines():
        json.loads(line)
