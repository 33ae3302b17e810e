"""A file is written whole or not at all, and what cannot be used is refused in one sentence."""

import errno
import hashlib
import json
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from synthetic_artifacts import locations, write_artifacts

from utils import artifacts
from utils.artifacts import (ArtifactError, AudioError, atomic_path, is_listed, library_versions, list_pickle, read_json,
                             sha256_of, write_json)
from utils.features import FEATURE_NAMES


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    return path


def test_new_content_replaces_the_old_only_at_the_end(old_file):
    with atomic_path(old_file) as temporary:
        with open(temporary, "w") as file:
            file.write("new")
        assert os.path.dirname(temporary) == str(old_file.parent)  # the same file system, so that renaming is one step
        assert temporary.endswith(".csv")
        assert old_file.read_text() == "old"
    assert old_file.read_text() == "new"
    assert os.listdir(old_file.parent) == ["table.csv"]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_old_file_survives_any_way_out(old_file, error):
    with pytest.raises(error):
        with atomic_path(old_file) as temporary:
            with open(temporary, "w") as file:
                file.write("half")
            raise error
    assert old_file.read_text() == "old"
    assert os.listdir(old_file.parent) == ["table.csv"]


def test_no_file_before_and_none_after_an_error(tmp_path):
    with pytest.raises(ValueError):
        with atomic_path(tmp_path / "new.csv"):
            raise ValueError
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_to_the_new_content(old_file, tmp_path):
    link = tmp_path / "link.csv"
    link.symlink_to(old_file)
    write_json(link, {"a": 1})
    assert link.is_symlink() and old_file.read_text() == link.read_text() == '{\n "a": 1\n}\n'


def test_old_file_survives_when_content_cannot_be_flushed(old_file, monkeypatch):
    def no_space(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(old_file, {"a": 1})
    assert caught.value.filename == str(old_file), "which the system does not say"
    assert old_file.read_text() == "old"
    assert os.listdir(old_file.parent) == ["table.csv"]


def test_an_error_with_words_of_its_own_keeps_them(old_file):
    with pytest.raises(OSError, match="100 requested and 4 written"), atomic_path(old_file):
        raise OSError("100 requested and 4 written")  # as numpy does


def test_content_is_flushed_before_it_gets_its_name(old_file, monkeypatch):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda one, other: (order.append("rename"), replace(one, other)))
    write_json(old_file, {})
    assert order[:2] == ["flush", "rename"]


def test_full_disk_leaves_the_old_file(old_file):
    """A real refused write: the process may write 4,096 bytes to a file and no more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        with pytest.raises(OSError):
            write_json(old_file, list(range(100_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert old_file.read_text() == "old"
    assert os.listdir(old_file.parent) == ["table.csv"]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        assert os.umask(mask) == mask  # still what the user set
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "a.json").st_mode) == mode


def test_missing_folder_is_made(tmp_path):
    write_json(tmp_path / "models" / "new" / "a.json", {"a": [1]})
    assert read_json(tmp_path / "models" / "new" / "a.json", "it") == {"a": [1]}


@pytest.mark.parametrize("content, says", [
    (None, "is missing: run train_ml.py first"), (b"", "is damaged"), (b'{"a": 1', "is damaged"), (b"\xff\xfe", "is damaged")])
def test_unreadable_json_names_the_command(tmp_path, content, says):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_json(path, "train_ml.py")
    assert says in str(caught.value) and "run train_ml.py" in str(caught.value)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_sha256_of(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = bytes(range(256)) * 5000
    (tmp_path / "b").write_bytes(content)
    assert sha256_of(tmp_path / "b") == hashlib.sha256(content).hexdigest()


def test_list_of_pickles_beside_the_code_keeps_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "RELEASED_PICKLES", str(tmp_path / "SHA256SUMS.json"))
    for name, digest in (("b.pkl", "2" * 64), ("a.pkl", "1" * 64), ("b.pkl", "3" * 64)):
        list_pickle(tmp_path / name, digest)
    assert json.loads((tmp_path / "SHA256SUMS.json").read_text()) == {"a.pkl": "1" * 64, "b.pkl": "3" * 64}
    assert is_listed("1" * 64) and is_listed("3" * 64) and not is_listed("2" * 64)


def test_pickles_trained_elsewhere_go_to_the_users_list(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert not is_listed("1" * 64)
    for digest in "12":
        list_pickle(tmp_path / "models" / "a b.pkl", digest * 64)
    assert is_listed("1" * 64) and is_listed("2" * 64) and not is_listed("3" * 64) and not is_listed("")
    assert not (tmp_path / "models").exists()  # a folder of models brings no list


def test_a_users_list_that_cannot_be_written_is_a_note(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    list_pickle(tmp_path / "models" / "a.pkl", "1" * 64)
    assert "--trust-models" in capsys.readouterr().err and not is_listed("1" * 64)


def test_library_versions():
    import numpy

    versions = library_versions("numpy")
    assert versions["numpy"] == numpy.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


STAGE = """
import errno, os, signal, time
from utils.artifacts import *
def main():
    {body}
run_stage(main)
"""


@pytest.mark.parametrize("body, status, stderr", [
    ("return 0", 0, ""),
    ("return 1", 1, ""),
    ("raise ArtifactError('data is missing: run it first')", 1, "error: data is missing: run it first\n"),
    ("raise AudioError('a.wav: no sound')", 1, "error: a.wav: no sound\n"),
    ("raise KeyboardInterrupt", 130, "interrupted; nothing half-written is left\n"),
    ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 143, "interrupted; nothing half-written is left\n"),
    ("raise BrokenPipeError", 141, ""),
    ("raise OSError(errno.ENOSPC, 'No space left on device', 'data/x.npy')", 1, "error: No space left on device: data/x.npy\n"),
    ("raise OSError(errno.EACCES, 'Permission denied', 'models')", 1, "error: Permission denied: models\n"),
    ("import no_such_package.part", 1, "error: this needs the package no_such_package: pip install -r requirements.txt\n"),
])
def test_exit_status_and_one_line_of_a_stage(body, status, stderr):
    finished = subprocess.run([sys.executable, "-c", STAGE.format(body=body)], cwd=REPOSITORY, text=True, capture_output=True)
    assert (finished.returncode, finished.stderr) == (status, stderr)


@pytest.mark.parametrize("script", ["train_cnn.py", "train_cnn_mel.py", "train_cnn_lstm.py"])
def test_training_a_network_without_torch_is_one_line(tmp_path, script):
    """As after the smaller install of the README."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(name='torch')")
    finished = subprocess.run([sys.executable, REPOSITORY / script], cwd=tmp_path, text=True, capture_output=True,
                              env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (finished.returncode, finished.stderr) == (
        1, "error: this needs the package torch: pip install -r requirements.txt\n")


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors as a POSIX shell does")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_a_silent_one(tmp_path, closed):
    body = ("print('out'); print('err', file=sys.stderr); "
            "open('done', 'x').write(sys.stdin.read() + str(os.fstat(2).st_rdev)); return 3")
    code = "import os, sys\nsys.path.insert(0, os.environ['REPOSITORY'])" + STAGE.format(body=body)
    words = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, code]
    finished = subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                              env=os.environ | {"REPOSITORY": str(REPOSITORY)})
    assert finished.returncode == 3
    assert finished.stdout == ("" if " >&-" in f" {closed}" else "out\n")
    assert finished.stderr == ("" if "2>&-" in closed else "err\n")
    nowhere = os.stat(os.devnull).st_rdev
    assert (tmp_path / "done").read_text() == str(nowhere if "2>&-" in closed else 0)  # no other file got descriptor 2


def test_bug_in_a_stage_keeps_its_stack_trace():
    code = STAGE.format(body="return 1 / 0")
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True)
    assert finished.returncode == 1 and "Traceback" in finished.stderr


def test_errors_are_told_apart():
    assert not issubclass(ArtifactError, AudioError) and not issubclass(AudioError, ArtifactError)


# stages and what they find

def edit_manifest(folder, **changes):
    path = folder / "data/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def every_spectrogram(folder, change):
    for path in folder.rglob("*spectrograms.npy"):
        change(path)


DAMAGE = {  # what happened to the artifacts of stage 1 before a later stage reads them, and what the user then sees
    "no table": (lambda made: os.remove(made / "audio_features.csv"), "audio_features.csv is missing: run"),
    "no manifest": (lambda made: os.remove(made / "data/manifest.json"), "manifest.json is missing: run"),
    "torn manifest": (lambda made: os.truncate(made / "data/manifest.json", 50), "manifest.json is damaged"),
    "other settings": (lambda made: edit_manifest(made, settings={}), "was made with other signal settings: run"),
    "truncated table": (lambda made: os.truncate(made / "audio_features.csv", 9000), "audio_features.csv is not the file"),
    "other table": (lambda made: (made / "audio_features.csv").write_text("file,label\n"), "audio_features.csv is not the file"),
    "no spectrograms": (lambda made: every_spectrogram(made, os.remove), "spectrograms.npy is missing: run"),
    "truncated spectrograms": (lambda made: every_spectrogram(made, lambda path: os.truncate(path, 999_999)),
                               "spectrograms.npy is not the file"),
    "no copies": (lambda made: os.remove(made / "data/augmented_features.csv"), "augmented_features.csv is missing: run"),
}
READS_NOT = {"train_ml.py": {"no spectrograms", "truncated spectrograms"}, "train_cnn.py": {"no copies"},
             "train_cnn_lstm.py": {"no copies"}}
BARE_TABLE = {  # train_ml.py takes tables without a manifest too, so it looks at the table before it compares the two
    "truncated table": "audio_features.csv has features that are not numbers: run",
    "other table": "audio_features.csv lacks the columns mfcc1_mean",
}


@pytest.mark.slow
@pytest.mark.parametrize("script", READS_NOT)
@pytest.mark.parametrize("what", DAMAGE)
def test_unfit_artifacts_are_one_sentence_and_status_1(tmp_path, script, what):
    if what in READS_NOT[script]:
        pytest.skip(f"{script} does not read them")
    damage, sentence = DAMAGE[what]
    if script == "train_ml.py":
        sentence = BARE_TABLE.get(what, sentence)
    damage(write_artifacts(tmp_path / "made"))
    finished = subprocess.run([sys.executable, str(REPOSITORY / script), *locations(tmp_path / "made", tmp_path / "models")],
                              text=True, capture_output=True)
    assert finished.returncode == 1 and finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.startswith("error: ") and sentence in finished.stderr and "extract_features.py" in finished.stderr
    assert not list(tmp_path.glob("models/*"))


def test_a_table_of_one_label_cannot_be_learned_from(tmp_path):
    import train_ml

    rng = np.random.default_rng(0)
    rows = [[f"{25 * row}.wav", "non_scream", *rng.standard_normal(len(FEATURE_NAMES))] for row in range(40)]
    pd.DataFrame(rows, columns=["file", "label", *FEATURE_NAMES]).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ArtifactError, match=r"table\.csv: the training split needs clips of both labels"):
        train_ml.main(["--features", str(tmp_path / "table.csv"), "--models", str(tmp_path)])
    assert os.listdir(tmp_path) == ["table.csv"]
