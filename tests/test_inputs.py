"""What is analysed, and the bar over it: a named pipe is never opened to measure it."""

import io
import os
import types

import numpy as np
import pytest
import soundfile

from utils import audio, inputs
from utils.audio import SAMPLE_RATE
from utils.dataset import audio_files
from utils.inputs import find_inputs, watch_progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def on_a_terminal(monkeypatch):
    monkeypatch.setattr(inputs, "sys", types.SimpleNamespace(stderr=Terminal()))  # pytest resets the real one before a test


@pytest.fixture
def measured(monkeypatch, on_a_terminal):
    """On a terminal: the paths whose duration was asked for."""
    paths, open_it = [], audio.open_sound_file

    def noted(path):
        paths.append(path)
        return open_it(path)

    monkeypatch.setattr(audio, "open_sound_file", noted)
    return paths


BLOCKS = [np.zeros(SAMPLE_RATE, np.float32), np.zeros(10, np.float32)]


def test_a_file_is_measured_for_the_bar(measured, tmp_path):
    path = str(tmp_path / "a.wav")
    soundfile.write(path, np.concatenate(BLOCKS), SAMPLE_RATE)
    assert [len(block) for block in watch_progress(BLOCKS, path)] == [SAMPLE_RATE, 10]
    assert measured == [path]


@pytest.mark.parametrize("name", [b"recording.raw", b"no utf-8 \xff.wav", b"empty.wav"])
def test_a_bar_never_fails_a_file(on_a_terminal, tmp_path, name):
    """A WAV called .raw, a name that is no text, a file that cannot be read: only the bar's length is unknown at worst."""
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with open(path, "wb") as file:
        if b"empty" not in name:
            soundfile.write(file, np.concatenate(BLOCKS), SAMPLE_RATE, format="WAV")
    assert [len(block) for block in watch_progress(BLOCKS, path)] == [SAMPLE_RATE, 10]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_and_standard_input_are_not(measured, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (str(tmp_path / "pipe.wav"), "-"):
        assert [len(block) for block in watch_progress(BLOCKS, path)] == [SAMPLE_RATE, 10]
    assert measured == []


def test_folders_give_what_lies_below_them_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("c.wav", "b/a.flac", "b/notes.txt"):
        (tmp_path / name).touch()
    found = find_inputs(["-", str(tmp_path / "missing.wav"), str(tmp_path), str(tmp_path / "empty")])
    assert found[:4] == [(path, None) for path in (
        "-", str(tmp_path / "missing.wav"), str(tmp_path / "c.wav"), str(tmp_path / "b" / "a.flac"))]
    assert found[4][0] == str(tmp_path / "empty") and "no audio files in this folder" in found[4][1]


def test_a_file_is_found_once_by_the_path_that_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sounds/a.wav", "sounds/b/c.wav", "other/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sounds/z.wav").symlink_to("a.wav")
    (tmp_path / "link.wav").symlink_to("sounds/b/c.wav")
    (tmp_path / "-").touch()
    everything = ["sounds/a.wav", "sounds/b/c.wav"]
    for given, expected in ((["sounds"], everything), (["sounds", "sounds/a.wav", "./sounds/", "sounds/b"], everything),
                            (["link.wav", "sounds", "other"], ["link.wav", "sounds/a.wav", "other/a.wav"]),
                            (["sounds/z.wav", str(tmp_path / "sounds")], ["sounds/z.wav", str(tmp_path / "sounds/b/c.wav")]),
                            (["gone.wav", "./gone.wav", "-", "./-", "-"], ["gone.wav", "-", "./-"]),
                            (["no\0name", "no\0name"], ["no\0name"])):
        assert find_inputs(given) == [(path, None) for path in expected]


def test_a_folder_that_is_the_one_for_clips_says_so(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").touch()
    ((path, error),) = find_inputs([str(tmp_path)], leave_out=str(tmp_path / "clips"))
    assert path == str(tmp_path) and "lie in the folder of --clips" in error
    (tmp_path / "b.wav").touch()
    assert find_inputs([str(tmp_path)], leave_out=str(tmp_path / "clips")) == [(str(tmp_path / "b.wav"), None)]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read every folder")
def test_a_locked_folder_below_is_reported_and_the_others_are_found(tmp_path):
    for name in ("locked", "open"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.wav").touch()
    (tmp_path / "locked").chmod(0)
    try:
        found = find_inputs([str(tmp_path)])
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert found[0] == (str(tmp_path / "open/a.wav"), None)
    assert found[1][0] == str(tmp_path / "locked") and "this folder cannot be read (Permission denied)" in found[1][1]


def test_a_folder_that_cannot_be_read_is_reported(tmp_path, monkeypatch):
    """As above, also for root: scandir refuses."""
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.wav").touch()
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    expected = str(tmp_path / "locked"), f"{tmp_path}/locked: this folder cannot be read (Permission denied)"
    assert find_inputs([str(tmp_path)]) == [(str(tmp_path / "a.wav"), None), expected]
    assert find_inputs([str(tmp_path / "locked")]) == [expected]


def test_a_folder_that_the_run_itself_fills_is_not_searched(tmp_path):
    for name in ("clips/a.wav", "clips too/b.wav", "c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    expected = [(str(tmp_path / name), None) for name in ("c.wav", "clips too/b.wav")]
    assert find_inputs([str(tmp_path)], leave_out=str(tmp_path / "clips")) == expected
    assert find_inputs([str(tmp_path)], leave_out=str(tmp_path / "link")) == expected
    named = str(tmp_path / "clips/a.wav")
    assert find_inputs([named], leave_out=str(tmp_path / "clips")) == [(named, None)]


def test_hidden_files_are_no_recordings(tmp_path):
    for name in ("a.wav", "._a.wav", ".b.tmp.wav"):
        (tmp_path / name).touch()
    assert audio_files(tmp_path) == [str(tmp_path / "a.wav")]
    assert find_inputs([str(tmp_path / "._a.wav")]) == [(str(tmp_path / "._a.wav"), None)], "unless it is named"
