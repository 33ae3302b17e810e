"""The command line as users and other programs meet it: JSON lines, errors, exit statuses, odd names, printed reports.

Most tests run in this process with a stand-in for the models; the last ones use the trained models, where they are.
"""

import contextlib
import csv
import errno
import gc
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import BrokenExecutor
from datetime import datetime

import numpy as np
import pytest
import soundfile
from conftest import without_time
from stand_in import StandIn
from test_scan import scene

import main as main_script
from utils import command_line, ensemble, events, journal, live
from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE, WINDOW_HOP, WINDOW_S, read_audio
from utils.command_line import run
from utils.event_files import EventTable, StreamClips
from utils.options import build_parser, parse_arguments
from utils.report import Printer, clock, timeline

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
KEYS = {"file", "duration_s", "verdict", "probability", "votes", "models", "events"}
ODD_NAMES = ["with space.wav", "new\nline.wav", "Schrei für Übung.wav", "-dash.wav", "--json.wav", "$(touch x);'\"*&.wav",
             "tab\t\x1b[31m.wav", "日本.wav"]


def write_scene(path, screams=((2.0, 1.0),), seconds=6, rate=SAMPLE_RATE):
    soundfile.write(path, scene(seconds, screams), rate)
    return str(path)


def detect(capfd, *words, ensemble=None, **more):
    """Run main.py's code with a stand-in for the models: (exit status, standard output, standard error)."""
    status = run(main_script.__doc__, main_script.MODELS, [str(word) for word in words], ensemble or StandIn(), **more)
    return status, *capfd.readouterr()


def detect_json(capfd, *words, **more):
    status, out, err = detect(capfd, "--json", *words, **more)
    return status, [json.loads(line) for line in out.splitlines()], err


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def python(*words, stdin=subprocess.DEVNULL, **more):
    return subprocess.run([sys.executable, *map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, stdin=stdin, **more)


# --- the JSON contract ---------------------------------------------------------------------------------------------

def test_json_record(capfd, tmp_path):
    path = write_scene(tmp_path / "a.wav")
    status, (record,), err = detect_json(capfd, "--file", path)
    assert status == 0 and err == ""
    assert set(record) == KEYS
    assert record["file"] == path and record["duration_s"] == 6.0 and record["verdict"] == "scream"
    assert list(record["models"]) == list(main_script.MODELS)
    for vote in record["models"].values():
        assert set(vote) == {"verdict", "probability"}
        assert vote["verdict"] == ("scream" if vote["probability"] >= 0.5 else "non_scream")
    assert record["votes"] == sum(vote["verdict"] == "scream" for vote in record["models"].values())
    (event,) = record["events"]
    assert set(event) == {"start_s", "end_s", "probability", "votes"}
    assert 1.8 < event["start_s"] < event["end_s"] < 3.2


def test_a_recording_without_scream_is_no_error(capfd, tmp_path):
    status, (record,), _ = detect_json(capfd, "--file", write_scene(tmp_path / "a.wav", []))
    assert status == 0
    assert (record["verdict"], record["events"]) == ("non_scream", [])


def test_a_bad_file_does_not_hide_the_others(capfd, tmp_path):
    good = write_scene(tmp_path / "good.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is no sound")
    paths = [str(tmp_path / name) for name in ("missing.wav", "good.wav", "empty.wav", "text.wav", "last.wav")]
    shutil.copy(good, tmp_path / "last.wav")
    status, records, err = detect_json(capfd, "--file", *paths)
    assert status == 1
    assert [record["file"] for record in records] == paths
    assert [set(record) == {"file", "error"} for record in records] == [True, False, True, True, False]
    for record in records:
        if "error" in record:
            assert record["file"] in record["error"]
            assert record["error"] in err
    assert good in [record["file"] for record in records]
    assert err.splitlines()[-1] == "5 files, 0.00 hours, 2 events, 3 failed"


def test_what_is_lost_of_a_damaged_file_stands_in_its_record(capfd, tmp_path):
    whole, cut = tmp_path / "whole.flac", tmp_path / "cut.flac"
    soundfile.write(whole, scene(6, [(2.0, 1.0)]), SAMPLE_RATE)
    cut.write_bytes(whole.read_bytes()[:100_000])
    status, records, err = detect_json(capfd, "--file", whole, cut)
    assert status == 0 and "warnings" not in records[0]
    [warning] = records[1]["warnings"]
    assert warning.startswith(f"{cut}: is damaged or cut off; ") and err.startswith(f"warning: {warning}\n")


def test_folder(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sounds/b.wav", "sounds/a/z.flac", "sounds/a/c.WAV", "sounds/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch() if name.endswith("txt") else write_scene(tmp_path / name)
    status, records, err = detect_json(capfd, "--file", "sounds")
    assert status == 0
    assert [record["file"] for record in records] == ["sounds/b.wav", "sounds/a/c.WAV", "sounds/a/z.flac"]
    assert "3 files, 0.01 hours, 3 events, 0 failed" in err
    assert [r["file"] for r in detect_json(capfd, "--file", "./sounds/a/")[1]] == ["./sounds/a/c.WAV", "./sounds/a/z.flac"]


def test_folder_without_audio_is_an_error(capfd, tmp_path):
    (tmp_path / "empty").mkdir()
    status, (record,), err = detect_json(capfd, "--file", tmp_path / "empty")
    assert status == 1
    assert "no audio files" in record["error"] and record["error"] in err


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names(capfd, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / name)
    assert [r["file"] for r in detect_json(capfd, "--file", name)[1]] == [name]
    status, out, _ = detect(capfd, "--file", name)
    assert status == 0
    assert "\x1b" not in out and "\t" not in out  # a name cannot control the terminal
    (tmp_path / name).write_bytes(b"")
    status, (record,), err = detect_json(capfd, "--file", name)
    assert status == 1 and record["error"] in err and len(err.splitlines()) == 1


def test_name_that_is_not_text(capfd, tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(write_scene(tmp_path / "a.wav"), path)
    status, (record,), _ = detect_json(capfd, "--file", os.fsdecode(path))
    assert status == 0 and os.fsencode(record["file"]) == path
    assert "caf\\udce9.wav" in detect(capfd, "--file", os.fsdecode(path))[1]
    status, _, err = detect(capfd, "--file", os.fsdecode(path), "--plot", tmp_path / "pictures")
    assert status == 0 and err == "" and len(os.listdir(tmp_path / "pictures")) == 1


def test_words_after_two_dashes_are_files(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, records, _ = detect_json(capfd, "--file", "a.wav", "--", "--csv", "-b.wav")
    assert status == 1 and [record["file"] for record in records] == ["a.wav", "--csv", "-b.wav"]


# --- standard input ------------------------------------------------------------------------------------------------

def test_pipe_equals_file(capfd, tmp_path, monkeypatch):
    path = write_scene(tmp_path / "a.wav", [(2.0, 1.0), (11.0, 2.0)], 20)
    (expected,) = detect_json(capfd, "--file", path)[1]
    feed(monkeypatch, pathlib.Path(path).read_bytes())
    status, lines, _ = detect_json(capfd, "--file", "-")
    assert status == 0
    assert lines[-1] == {**expected, "file": "-"}
    assert without_time(lines[:-1]) == [{"file": "-", **event} for event in expected["events"]]
    feed(monkeypatch, pathlib.Path(path).read_bytes()[44:])
    raw = detect_json(capfd, "--file", "-", "--raw-rate", SAMPLE_RATE, "--raw-channels", 1)[1]
    assert raw[-1] == lines[-1] and without_time(raw[:-1]) == without_time(lines[:-1])


def test_pipe_that_is_no_sound(capfd, monkeypatch):
    feed(monkeypatch, b"nonsense, and more of it")
    status, (record,), err = detect_json(capfd, "--file", "-")
    assert status == 1 and record["file"] == "-" and record["error"] in err


def test_report_of_a_pipe(capfd, tmp_path, monkeypatch):
    feed(monkeypatch, pathlib.Path(write_scene(tmp_path / "a.wav", seconds=20)).read_bytes())
    _, out, _ = detect(capfd, "--file", "-")
    assert out.startswith("event 2.0") or out.startswith("event 1.9")
    assert "standard input   20.00 s" in out


# --- options -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words", [
    ["--nonsense"], ["--file"], ["--file", ""], ["--threshold", "2"], ["--threshold", "x"], ["--exit-threshold", "-1"],
    ["--threshold", "0.5", "--exit-threshold", "0.6"], ["--min-votes", "7"], ["--min-votes", "0"],
    ["--min-duration", "-1"], ["--max-gap", "nan"],
    ["--padding", "-1"], ["--hop", "0"], ["--hop", "9"], ["--jobs", "0"], ["--threads", "0"], ["--raw-rate", "16000"],
    ["--file", "-", "--raw-channels", "2"], ["--file", "-", "--raw-rate", "-5"], ["--live", "--file", "a.wav"],
    ["--device", "tpu"], ["--on-event", "echo"], ["--file", "-", "--on-event", "no-such-program-here"],
    ["--file", "-", "--raven"], ["--file", "-", "a.wav", "--clips", "x"], ["--file", "-", "a.wav", "--jobs", "2"],
    ["--csv", "no/such/folder/x.csv", "--file", "a.wav"], ["--js", "--file", "a.wav"],
    ["--file", "-", "--resume"], ["--live", "--resume"], ["--second-look", "0.3", "--threshold", "0.5"],
    ["--on-start", "echo"], ["--file", "-", "--on-start", "no-such-program-here"],
    ["--csv", os.devnull, "--resume", "--file", "a.wav"], ["--csv", "-", "--file", "a.wav"], ["--csv", "/dev/fd/987"],
    ["--no-contrast", "--threshold", "0.5"], ["--no-contrast", "--min-votes", "2"],
    ["--second-look", "0.3", "--min-votes", "3"], ["--second-look", "0.4", "--no-contrast"], ["--second-look", "2"],
])
def test_bad_options_give_2(capfd, words):
    with pytest.raises(SystemExit) as stop:
        detect(capfd, *words)
    out, err = capfd.readouterr()
    assert stop.value.code == 2 and out == "" and "error:" in err


def test_a_recording_without_file_gets_a_hint(capfd):
    for words, hint in ((["clip.wav"], True), (["--json", "a.wav", "b.wav"], True), (["--nonsense"], False)):
        with pytest.raises(SystemExit):
            detect(capfd, *words)
        assert ("recordings go behind --file" in capfd.readouterr().err) == hint


def test_options_reach_the_events(capfd, tmp_path):
    path = write_scene(tmp_path / "a.wav", [(2.0, 0.5), (9.0, 3.0)], 15)

    def n_events(*words):
        return len(detect_json(capfd, "--file", path, *words)[1][0]["events"])

    assert n_events() == 2
    assert n_events("--min-duration", 2) == 1
    assert n_events("--max-gap", 10) == 1
    assert n_events("--threshold", 1) == 0
    assert n_events("--padding", 4) == 1
    assert n_events("--hop", 0.5) == 2
    unpadded, padded = (detect_json(capfd, "--file", path, "--padding", s)[1][0]["events"][0] for s in (0, 0.5))
    assert padded["start_s"] == pytest.approx(unpadded["start_s"] - 0.5)


def test_help_and_errors_do_not_load_the_models():
    script = ("import sys, main\ntry: main.main(sys.argv[1:])\n"
              "except SystemExit: print({'numpy', 'torch', 'sklearn', 'librosa', 'pandas', 'matplotlib'} & set(sys.modules))")
    for word in ("--help", "--nonsense"):
        assert python("-c", script, word).stdout.endswith("set()\n")


# --- what people read ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("votes, probability, words, stands_out", [
    (1, 0.41, [], True), (3, 0.49, [], True), (3, 0.5, [], False), (4, 0.2, [], False), (1, 0.41, ["--min-votes", "1"], False)])
def test_an_event_without_a_majority_says_why(votes, probability, words, stands_out):
    args = parse_arguments(build_parser("", StandIn.names), ["--file", "a.wav", *words])
    event = {"start_s": 1.0, "end_s": 2.0, "probability": probability, "votes": votes}
    assert Printer(args, StandIn(), 1).event_line(event).endswith("   stands out of the noise") == stands_out


def test_report(capfd, tmp_path):
    status, out, err = detect(capfd, "--file", write_scene(tmp_path / "a.wav", [(3.0, 1.5)]))
    assert status == 0 and err == ""
    assert "SCREAM   probability" in out and "6 of 6 votes" in out
    for name in main_script.MODELS:
        assert f"  {name} " in out
    assert "1 recording, 6.00 s: analysed in" in out
    assert "\033[" not in out  # no colour outside a terminal
    (line,) = [line for line in out.splitlines() if line.startswith("  0 s ")]
    drawn = line.removeprefix("  0 s ").removesuffix(" 6.00 s")
    assert len(drawn) == 60
    assert drawn.index("█") == pytest.approx(30, abs=2) and drawn.rindex("█") == pytest.approx(45, abs=2)


def test_many_files_get_one_line_each(capfd, tmp_path):
    for index in range(7):
        write_scene(tmp_path / f"{index}.wav", [(2.0, 1.0)] if index == 3 else [])
    _, out, err = detect(capfd, "--file", tmp_path)
    assert len(out.splitlines()) == 7
    assert [line.startswith("SCREAM") for line in out.splitlines()] == [index == 3 for index in range(7)]
    assert err == "7 files, 0.01 hours, 1 event, 0 failed\n"


def test_timeline():
    assert timeline([], 10, "#", "-", 10) == "----------"
    assert timeline([{"start_s": 2, "end_s": 5}], 10, "#", "-", 10) == "--###-----"
    assert timeline([{"start_s": 0, "end_s": 0.01}, {"start_s": 9.99, "end_s": 10}], 10, "#", "-", 10) == "#--------#"
    assert timeline([{"start_s": 0, "end_s": 1}], 1, "#", "-", 5) == "#####"


def test_a_missing_model_is_said_plainly(capfd, tmp_path):
    why = "models/cnn_lstm_model.pth is missing: run python train_cnn_lstm.py first"
    ensemble = StandIn(names=main_script.MODELS[:5], missing={"cnn_lstm": why})
    status, (record,), err = detect_json(capfd, "--file", write_scene(tmp_path / "a.wav"), ensemble=ensemble)
    assert status == 0 and list(record["models"]) == list(main_script.MODELS[:5])
    assert "Five of six models vote" in err and why in err
    status, out, _ = detect(capfd, "--file", tmp_path / "a.wav", ensemble=ensemble)
    assert "Five of six models vote" in out and why in out and "5 of 5 votes" in out


def test_a_missing_noise_level_is_said_plainly(capfd, tmp_path):
    """Without noise.json short clips in noise are judged otherwise."""
    ensemble = StandIn()
    path = write_scene(tmp_path / "a.wav")
    assert "noise.json" not in detect_json(capfd, "--file", path, ensemble=ensemble)[2]
    ensemble.noise = None
    assert detect_json(capfd, "--file", path, ensemble=ensemble)[2] == (
        "noise.json is missing in models, so short clips are judged as if there were no noise in them: run python train_ml.py\n")


def test_without_arguments_the_bundled_clips(capfd, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    status, out, _ = detect(capfd)
    assert status == 0
    assert "synthesised" in out.splitlines()[0]
    for name in ("scream", "speech", "siren"):
        assert f"data/examples/{name}.wav   3.00 s" in out


def test_no_models_is_one_sentence(tmp_path):
    for script in ("main.py", "inference_svm.py"):
        done = python(script, "--models", tmp_path)
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and "train_" in done.stderr and len(done.stderr.splitlines()) == 1


# --- other outputs -------------------------------------------------------------------------------------------------

def test_outputs_for_other_programs(capfd, tmp_path):
    path = write_scene(tmp_path / "a.wav")
    words = ["--csv", tmp_path / "events.csv", "--audacity", "--raven", "--clips", tmp_path / "clips"]
    assert detect_json(capfd, "--file", path, tmp_path / "missing.wav", *words, "--plot", tmp_path / "plots")[0] == 1
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 2
    assert (tmp_path / "a.wav.audacity.txt").is_file() and (tmp_path / "a.wav.selections.txt").is_file()
    assert [os.path.splitext(name)[1] for name in os.listdir(tmp_path / "clips")] == [".wav"]
    assert [os.path.splitext(name)[1] for name in os.listdir(tmp_path / "plots")] == [".png"]


def test_pipe_runs_a_command_and_fills_a_table(capfd, tmp_path, monkeypatch):
    feed(monkeypatch, pathlib.Path(write_scene(tmp_path / "a.wav")).read_bytes())
    command = f"{sys.executable} -c \"open(r'{tmp_path}/heard', 'w').write('{{start}}')\""
    _, lines, _ = detect_json(capfd, "--file", "-", "--on-event", command, "--csv", tmp_path / "events.csv")
    assert (tmp_path / "heard").read_text() == f"{lines[0]['start_s']:.3f}"
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 2


def test_scores_of_every_window(capfd, tmp_path, monkeypatch):
    """A table per recording, of files and of a pipe, whose highest row has the votes and the models of the record."""
    path = write_scene(tmp_path / "a.wav", [(2.0, 1.0)], 15)
    (record,) = detect_json(capfd, "--file", path, "--scores", tmp_path / "scores")[1]
    feed(monkeypatch, pathlib.Path(path).read_bytes())
    detect_json(capfd, "--file", "-", "--scores", tmp_path / "scores")
    of_file, of_pipe = sorted((tmp_path / "scores").iterdir())
    assert of_file.name.startswith("a_") and of_pipe.name == "standard_input.scores.csv"
    assert of_file.read_text() == of_pipe.read_text()
    header, *rows = list(csv.reader(of_file.open()))
    assert header[-6:] == list(record["models"]) and len(rows) == 10
    highest = dict(zip(header, max(rows, key=lambda row: float(row[header.index("probability")]))))
    assert min(float(highest["probability"]), record["probability"]) > 0.9 and int(highest["votes"]) == record["votes"]
    assert all(float(highest[name]) == model["probability"] for name, model in record["models"].items())
    assert [float(row[0]) for row in rows[:3]] == pytest.approx([0, WINDOW_HOP / SAMPLE_RATE, 2 * WINDOW_HOP / SAMPLE_RATE],
                                                                abs=6e-4)


def test_one_command_at_the_start_and_one_at_the_end(capfd, tmp_path, monkeypatch):
    feed(monkeypatch, pathlib.Path(write_scene(tmp_path / "a.wav", [(2.0, 8.0)], 15)).read_bytes())
    commands = [f"{sys.executable} -c \"open(r'{tmp_path}/{name}', 'w').write('{{start}} {{end}} {{time}}')\""
                for name in ("begun", "ended")]
    _, lines, _ = detect_json(capfd, "--file", "-", "--on-start", commands[0], "--on-event", commands[1])
    (start_s, known_s, began), (same_s, end_s, time) = ((tmp_path / name).read_text().split() for name in ("begun", "ended"))
    assert float(start_s) == float(same_s) == lines[0]["start_s"] and float(known_s) < float(end_s) == lines[0]["end_s"]
    assert began == time == lines[0]["time"] and datetime.fromisoformat(began) <= datetime.now().astimezone()


def test_a_monitor_that_starts_again_keeps_its_table(capfd, tmp_path, monkeypatch):
    table, content = tmp_path / "events.csv", pathlib.Path(write_scene(tmp_path / "a.wav")).read_bytes()
    for _ in range(2):
        feed(monkeypatch, content)
        assert detect(capfd, "--file", "-", "--csv", table)[0] == 0
    header, *rows = (line.split(",") for line in table.read_text().splitlines())
    assert len(rows) == 2 and header.count("time") == 1
    assert all(datetime.fromisoformat(row[header.index("time")]).tzinfo for row in rows)
    with open(table, "rb+") as file:  # as a crash in the middle of a row leaves it
        file.truncate(table.stat().st_size - 20)
    feed(monkeypatch, content)
    detect(capfd, "--file", "-", "--csv", table)
    assert [len(line.split(",")) for line in table.read_text().splitlines()][-1] == len(header)
    for there in ("something else\n", "\nmore of it\n", table.read_text().replace("hop_s", "hop"), "a,b\n1,2\n"):
        table.write_text(there)
        feed(monkeypatch, content)
        with pytest.raises(ArtifactError, match=r"events\.csv: holds something else"):
            detect(capfd, "--file", "-", "--csv", table)
        assert table.read_text() == there


@pytest.mark.parametrize("name", ["a.wav", "b.WAV", "link.csv", "folder"])
def test_a_table_never_replaces_a_recording(capfd, tmp_path, name):
    path = write_scene(tmp_path / "a.wav")
    (tmp_path / "link.csv").symlink_to(path)
    (tmp_path / "folder").mkdir()
    before = {entry.name: entry.is_file() and entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(SystemExit) as stop:
        detect(capfd, "--file", path, "--csv", tmp_path / name)
    assert stop.value.code == 2 and f"--csv {tmp_path / name}: " in capfd.readouterr().err
    assert {entry.name: entry.is_file() and entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_a_second_run_into_the_same_table_is_refused(capfd, tmp_path):
    for name in "ab":
        write_scene(tmp_path / f"{name}.wav")
    words, refused = ("--file", tmp_path, "--csv", tmp_path / "events.csv"), []

    class Meanwhile(StandIn):
        def score(self, windows):
            if not refused:
                refused.append(StandIn())
                with pytest.raises(ArtifactError, match=r"events\.csv\.journal: another run is writing"):
                    detect(capfd, *words, ensemble=refused[0])
            return super().score(windows)

    assert detect(capfd, *words, ensemble=Meanwhile())[0] == 0
    assert refused[0].n_scored == 0 and len((tmp_path / "events.csv").read_text().splitlines()) == 3
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav", "events.csv"]


def test_a_run_that_analysed_nothing_leaves_the_table_as_it_was(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("sounds")
    write_scene("sounds/a.wav")
    assert detect(capfd, "--file", "sounds", "--csv", "keep.csv", "--resume")[0] == 0
    kept = pathlib.Path("keep.csv").read_bytes()
    os.rename("sounds/a.wav", "a.wav")  # the folder is empty for now
    for words in (["typo"], ["typo", "other"], ["sounds", "--resume"]):
        status, _, err = detect(capfd, "--file", *words, "--csv", "keep.csv")
        assert status == 1 and "keep.csv: stays as it was, for no recording could be analysed\n" in err
        assert pathlib.Path("keep.csv").read_bytes() == kept
    assert detect(capfd, "--file", "typo", "--csv", "new.csv")[0] == 1 and pathlib.Path("new.csv").read_text().count("\n") == 1
    assert detect(capfd, "--file", "typo", "a.wav", "--csv", "keep.csv")[0] == 1
    assert pathlib.Path("keep.csv").read_bytes() != kept


def test_a_table_replaces_nothing_but_a_table_of_files(capfd, tmp_path, monkeypatch):
    path, there, ensemble = write_scene(tmp_path / "a.wav"), tmp_path / "there", StandIn()
    feed(monkeypatch, pathlib.Path(path).read_bytes())
    assert detect(capfd, "--file", "-", "--csv", tmp_path / "stream.csv")[0] == 0
    for content, why in ((b"my notes\n", "something else than a table of events"), (b"\n\nmore notes", "something else"),
                         ((tmp_path / "stream.csv").read_bytes(), "the events of a stream, which would be lost"),
                         (b"\0" * 200_000, "something else")):
        there.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"there: holds {why}"):
            detect(capfd, "--file", path, "--csv", there, ensemble=ensemble)
        assert there.read_bytes() == content and ensemble.n_scored == 0
    for content in (b"", b"file,start_s,end_s,duration_s,probability,votes,models\r\n"):
        there.write_bytes(content)
        assert detect(capfd, "--file", path, "--csv", there)[0] == 0 and len(there.read_text().splitlines()) == 2


def test_a_table_goes_into_a_pipe_as_it_is(capfd, tmp_path):
    """As --csv /dev/stdout: what is no regular file is written to, never replaced, and has no journal beside it."""
    paths, fifo = [write_scene(tmp_path / name) for name in ("a.wav", "b.wav")], tmp_path / "fifo"
    os.mkfifo(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()), daemon=True)
    reader.start()
    assert detect(capfd, "--file", *paths, "--csv", fifo)[0] == 0
    reader.join(10)
    assert len(read[0].splitlines()) == 3 and fifo.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "b.wav", "fifo"]


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no names for open descriptors here")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "link"])
def test_a_table_goes_into_the_file_that_an_open_descriptor_leads_to(tmp_path, name):
    path, kept = write_scene(tmp_path / "a.wav"), tmp_path / "kept.txt"
    (tmp_path / "link").symlink_to("/dev/stdout")
    kept.write_text("a long line that was there before\n")
    inode = kept.stat().st_ino
    for words in (["--file", path, path + "x"], ["--file", "-"]):
        before = kept.read_text()
        with open(kept, "a") as out, open(path) as sound:
            done = subprocess.run([sys.executable, "-c", WATCH, *words, "--csv", tmp_path / name], cwd=REPOSITORY, stdin=sound,
                                  stdout=out, stderr=out)
        assert done.returncode == (words[1] == path) and kept.stat().st_ino == inode
        assert kept.read_text().startswith(before)
        new = kept.read_text().removeprefix(before)
        assert new.count("\nfile,start_s,") + new.startswith("file,start_s,") == 1
        assert new.count(f"\n{words[1]},") == 1 and "6.00 s" in new
    assert sorted(os.listdir(tmp_path)) == ["a.wav", "kept.txt", "link"]


def test_a_table_that_cannot_be_written_any_more_ends_no_watch(capfd, tmp_path, monkeypatch):
    path = write_scene(tmp_path / "a.wav", [(2.0, 1.0), (12.0, 1.0), (22.0, 1.0)], 30)
    feed(monkeypatch, pathlib.Path(path).read_bytes())
    write = EventTable.write

    def full_from_the_second_on(table, file, events):
        if events[0]["start_s"] > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, file, events)

    monkeypatch.setattr(EventTable, "write", full_from_the_second_on)
    command = f"{sys.executable} -c \"open(r'{tmp_path}/heard', 'a').write('x')\""
    status, lines, err = detect_json(capfd, "--file", "-", "--on-event", command, "--csv", tmp_path / "events.csv")
    assert status == 1 and len(lines) == 4 and len(lines[-1]["events"]) == 3
    assert err.count("events.csv: cannot be written any more (No space left on device)") == 1
    assert (tmp_path / "heard").read_text() == "xxx" and len((tmp_path / "events.csv").read_text().splitlines()) == 2


WATCH = """
import sys
sys.path[:0] = [{folder!r}, {repository!r}]
from stand_in import StandIn
from utils.artifacts import run_stage
from utils.command_line import run

run_stage(lambda: run("", StandIn.names, sys.argv[1:], StandIn()))
""".format(folder=str(REPOSITORY / "tests"), repository=str(REPOSITORY))
needs_a_full_disk = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@pytest.mark.parametrize("use", ["--csv", "--clips", "--on-event", "--on-start", None])
def test_a_watch_goes_on_where_its_events_have_another_use(tmp_path, use):
    args = parse_arguments(build_parser("", StandIn.names), ["--file", "-", *([use, f"{tmp_path}/x" if "--c" in use else "echo"]
                                                                             if use else [])])
    assert Printer(args, StandIn(), 1).goes_on == bool(use)


def watch(folder, *words, gone=False, **streams):
    """A process that hears three screams on standard input and writes into /dev/full, or where nobody reads (gone)."""
    path = write_scene(folder / "stream.wav", [(2.0, 1.0), (12.0, 1.0), (22.0, 1.0)], 30)
    reader, writer = os.pipe()
    os.close(reader)
    with open(path, "rb") as stream, open("/dev/full", "wb") as full, open(writer, "wb") as nobody:
        streams = {"stdout": nobody if gone else full, "stderr": subprocess.PIPE} | streams
        return subprocess.run([sys.executable, "-c", WATCH, "--file", "-", *map(str, words)], cwd=REPOSITORY, text=True,
                              stdin=stream, **streams)


@needs_a_full_disk
@pytest.mark.parametrize(("gone", "why", "form"), [(False, "No space left on device", ["--json"]), (True, "Broken pipe", [])])
def test_a_watch_goes_on_without_standard_output(tmp_path, gone, why, form):
    command = f"{sys.executable} -c \"open(r'{tmp_path}/heard', 'a').write('x')\""
    done = watch(tmp_path, *form, "--on-event", command, "--csv", tmp_path / "events.csv", gone=gone)
    assert (done.returncode, done.stderr) == (
        1, f"error: standard output cannot be written any more ({why}); listening goes on without it\n")
    assert (tmp_path / "heard").read_text() == "xxx" and len((tmp_path / "events.csv").read_text().splitlines()) == 4
    (tmp_path / "heard").unlink()
    done = watch(tmp_path, *form, "--on-start", command, gone=gone)
    assert done.returncode == 1 and (tmp_path / "heard").read_text() == "xxx"


@needs_a_full_disk
def test_a_watch_goes_on_when_standard_error_is_lost_too(tmp_path):
    command = f"{sys.executable} -c \"open(r'{tmp_path}/heard', 'a').write('x'); raise SystemExit(3)\""
    done = watch(tmp_path, "--on-event", command, stderr=subprocess.STDOUT)
    assert done.returncode == 1 and (tmp_path / "heard").read_text() == "xxx"


@needs_a_full_disk
def test_without_another_use_of_its_events_a_watch_ends_with_its_output(tmp_path):
    done = watch(tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written (No space left on device)\n")
    done = watch(tmp_path, "--json", gone=True)
    assert (done.returncode, done.stderr) == (141, "")


def test_events_are_cut_out_of_a_stream(capfd, tmp_path, monkeypatch):
    truth = [(3.0, 1.0), (14.0, 1.5)]
    path = write_scene(tmp_path / "a.wav", truth, 20)
    feed(monkeypatch, pathlib.Path(path).read_bytes())
    status, lines, _ = detect_json(capfd, "--file", "-", "--clips", tmp_path / "clips")
    events = lines[:-1]
    clips = sorted((tmp_path / "clips").iterdir())
    assert status == 0 and len(events) == len(clips) == len(truth)
    whole = read_audio(path)
    for event, clip in zip(events, clips):
        assert clip.name == f"standard_input_{event['time'].replace(':', '-')}.wav"
        samples, rate = soundfile.read(clip, dtype="float32")
        first, last = (round(moment * SAMPLE_RATE) for moment in (event["start_s"] - 0.5, event["end_s"] + 0.5))
        assert rate == SAMPLE_RATE and len(samples) == last - first
        np.testing.assert_allclose(samples, whole[first:last], atol=2**-15)


def test_no_more_of_a_stream_is_held_than_its_clips_may_need(tmp_path):
    clips = StreamClips(tmp_path, "microphone", 20.0)
    sound = np.arange(300 * SAMPLE_RATE, dtype=np.float32) / 2**24
    for block in clips.watch(np.split(sound, 300)):
        assert len(block) == SAMPLE_RATE and sum(len(held) for _, held in clips.recent.blocks) <= 201 * SAMPLE_RATE
    path = clips.write({"start_s": 10.0, "end_s": 250.0, "time": "2026-01-01T01:02:03.456+00:00"})
    samples, _ = soundfile.read(path, dtype="float32")
    assert path == str(tmp_path / "microphone_2026-01-01T01-02-03.456+00-00.wav")
    np.testing.assert_allclose(samples, sound[100 * SAMPLE_RATE : round(250.5 * SAMPLE_RATE)], atol=2**-15)


def test_a_clip_of_a_stream_that_cannot_be_written_is_said_once(capfd, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    feed(monkeypatch, pathlib.Path(write_scene(tmp_path / "a.wav", [(3.0, 1.0), (14.0, 1.5)], 20)).read_bytes())
    monkeypatch.setattr("utils.event_files.soundfile.write", full)
    status, lines, err = detect_json(capfd, "--file", "-", "--clips", tmp_path / "clips", "--csv", tmp_path / "events.csv")
    assert status == 1 and len(lines) == 3 and err.count("no more clips are written") == 1
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 3
    assert not list((tmp_path / "clips").iterdir())


def test_events_are_cut_out_of_what_a_microphone_hears(capfd, tmp_path):
    samples = soundfile.read(write_scene(tmp_path / "a.wav", [(2.0, 1.0)], 10), dtype="float32")[0]
    status, _, _ = detect(capfd, "--live", "--clips", tmp_path / "clips",
                          open_stream=lambda device, *callbacks: FakeMicrophone(samples, *callbacks))
    [clip] = (tmp_path / "clips").iterdir()
    assert status == 0 and clip.name.startswith("microphone_20") and 1.5 < soundfile.info(clip).duration < 3


@needs_a_full_disk
def test_a_table_that_cannot_be_begun_ends_no_watch(tmp_path):
    (tmp_path / "events.csv").symlink_to("/dev/full")
    command = f"{sys.executable} -c \"open(r'{tmp_path}/heard', 'a').write('x')\""
    done = watch(tmp_path, "--json", "--on-event", command, "--csv", tmp_path / "events.csv", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/events.csv: cannot be written (No space left on device); "
                                                 "listening goes on without it\n")
    assert (tmp_path / "heard").read_text() == "xxx" and len(done.stdout.splitlines()) == 4


def test_a_command_comes_before_the_table_and_the_table_before_the_output(capfd, tmp_path, monkeypatch):
    feed(monkeypatch, pathlib.Path(write_scene(tmp_path / "a.wav")).read_bytes())
    order = []
    monkeypatch.setattr(live.EventCommand, "__call__", lambda *_: order.append("command"))
    monkeypatch.setattr(EventTable, "write", lambda *_: order.append("table"))
    monkeypatch.setattr(Printer, "event", lambda *_: order.append("output"))
    assert detect(capfd, "--file", "-", "--on-event", "echo", "--csv", tmp_path / "events.csv")[0] == 0
    assert order == ["command", "table", "output"]


def test_a_microphone_goes_on_without_standard_output(capfd, tmp_path, monkeypatch):
    def full(text, stream):
        if stream is sys.stdout:
            raise OSError(errno.ENOSPC, "No space left on device")
        print(text, file=stream)

    samples = soundfile.read(write_scene(tmp_path / "a.wav", [(2.0, 1.0), (11.0, 2.0)], 20), dtype="float32")[0]
    monkeypatch.setattr(Printer, "write", lambda printer, *words: full(*words))
    monkeypatch.setattr("utils.report.lead_nowhere", lambda stream: None)
    status, out, err = detect(capfd, "--live", "--csv", tmp_path / "events.csv",
                              open_stream=lambda device, *callbacks: FakeMicrophone(samples, *callbacks))
    assert status == 1 and out == "" and "2 events" in err and err.count("standard output cannot be written any more") == 1
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 3


def test_records_of_another_rule_or_operating_point_are_not_recalled(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "a.wav")
    options = ("--file", "a.wav", "--resume", "--models", ".")
    assert detect_json(capfd, *options, ensemble=StandIn())[0] == 0
    (tmp_path / "noise.json").write_text("{}")  # by which the vote knows how noisy a short clip is
    with pytest.raises(ArtifactError, match=r"other settings \(noise\)"):
        detect_json(capfd, *options, ensemble=StandIn())
    (tmp_path / "noise.json").unlink()
    assert detect_json(capfd, *options, ensemble=StandIn())[0] == 0
    recalibrated = StandIn()
    recalibrated.calibrations = {"svm": {"threshold": 1.0, "slope": 1.0}}
    with pytest.raises(ArtifactError, match=r"other settings \(calibrations\)"):
        detect_json(capfd, *options, ensemble=recalibrated)
    for changed, name in (("utils.loudness.CLEAR_DB", "event_rule"), ("utils.audio.MIN_PERIOD", "signal")):
        with monkeypatch.context() as upgrade, pytest.raises(ArtifactError, match=rf"other settings \({name}\)"):
            upgrade.setattr(changed, 5)
            detect_json(capfd, *options, ensemble=StandIn())
    monkeypatch.setitem(events.RULE, "sure", 0.9)
    with pytest.raises(ArtifactError, match=r"other settings \(event_rule\)"):
        detect_json(capfd, *options, ensemble=StandIn())


def test_resume_gives_the_same_lines_without_scoring_again(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sounds").mkdir()
    for index in range(3):
        write_scene(tmp_path / f"sounds/{index}.wav")
    (tmp_path / "sounds/3.wav").touch()
    first, again = StandIn(), StandIn()
    done = detect_json(capfd, "--file", "sounds", "--resume", ensemble=first)
    repeated = detect_json(capfd, "--file", "sounds", "--resume", ensemble=again)
    assert repeated == done and done[0] == 1
    assert first.n_scored > 0 and again.n_scored == 0
    write_scene(tmp_path / "sounds/3.wav")  # changed since
    assert detect_json(capfd, "--file", "sounds", "--resume", ensemble=again)[0] == 0
    assert again.n_scored == first.n_scored / 3


@pytest.mark.parametrize("broken", ["utils.scan.scan", "utils.event_files.write_audacity"])
def test_what_nobody_foresaw_ends_no_run(capfd, tmp_path, monkeypatch, broken):
    """A mistake of ours in one recording, or in one output of it: the others are analysed, and the sentence says whose it is."""
    module, name = broken.rsplit(".", 1)
    works = getattr(sys.modules[module], name)

    def fail_once(*words, **options):
        if failing:
            failing.pop()
            raise ZeroDivisionError("by zero")
        return works(*words, **options)

    failing = [True]
    monkeypatch.setattr(broken, fail_once)
    for name in "ab":
        write_scene(tmp_path / f"{name}.wav")
    status, records, err = detect_json(capfd, "--file", tmp_path, "--audacity")
    assert status == 1 and len(records) == 2 and records[1]["verdict"] == "scream"
    assert f"error: {tmp_path}/a.wav: unexpected ZeroDivisionError (by zero)" in err
    assert ("error" in records[0]) == (broken == "utils.scan.scan") and (tmp_path / "b.wav.audacity.txt").exists()


def test_a_recording_whose_outputs_failed_is_done_again(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "a.wav")
    (tmp_path / "a.wav.audacity.txt").mkdir()
    first, again = StandIn(), StandIn()
    assert detect_json(capfd, "--file", "a.wav", "--resume", "--audacity", ensemble=first)[0] == 1
    (tmp_path / "a.wav.audacity.txt").rmdir()
    assert detect_json(capfd, "--file", "a.wav", "--resume", "--audacity", ensemble=again)[0] == 0
    assert first.n_scored == again.n_scored > 0 and (tmp_path / "a.wav.audacity.txt").read_text()


def test_a_journal_on_a_full_disk_is_said_once_and_ends_nothing(capfd, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    for name in "abc":
        write_scene(tmp_path / f"{name}.wav")
    add = journal.Journal.add
    monkeypatch.setattr(journal.Journal, "add",
                        lambda self, *words: (monkeypatch.setattr(self, "write", full), add(self, *words)))
    status, records, err = detect_json(capfd, "--file", "a.wav", "b.wav", "c.wav", "--csv", "t.csv")
    assert status == 1 and [record["verdict"] for record in records] == ["scream"] * 3
    assert err.count("t.csv.journal: cannot be written any more (No space left on device)") == 1 and "0 failed" in err
    assert len((tmp_path / "t.csv").read_text().splitlines()) > 3


@needs_a_full_disk
@pytest.mark.parametrize("content", [b"", b"RIFF"])
def test_where_nobody_can_be_told_the_others_are_analysed(tmp_path, content):
    """Standard error on a full disk: of a file that cannot be read nothing can be said there."""
    (tmp_path / "a.wav").write_bytes(content)
    write_scene(tmp_path / "b.wav")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "main.py", "--json", "--file", str(tmp_path)], cwd=REPOSITORY,
                              stdout=subprocess.PIPE, stderr=full, text=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1 and "error" in first and "verdict" in second


def test_a_resumed_run_draws_lost_explanations_again(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "a.wav")
    drawn = []
    monkeypatch.setattr("utils.explain.explain_recording", lambda record, *_: drawn.append(record["file"]))
    monkeypatch.setattr("utils.explain.lacks_pictures", lambda record, folder: folder == "why" and len(drawn) < 2)
    for n_drawn in (1, 2, 2):
        assert detect_json(capfd, "--file", "a.wav", "--resume", "--explain", "why", ensemble=StandIn())[0] == 0
        assert drawn == ["a.wav"] * n_drawn


def test_one_file_is_analysed_with_all_threads_whatever_jobs_are_given(capfd, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Printer, "threads", lambda printer, *numbers: told.append(numbers))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for name in "ab":
        write_scene(tmp_path / f"{name}.wav")
    detect(capfd, "--file", tmp_path / "a.wav", "--jobs", "4")
    monkeypatch.setattr("utils.command_line.analyse_or_recall", lambda *_: iter(()))
    detect(capfd, "--file", tmp_path / "a.wav", tmp_path / "b.wav", "--jobs", "4")
    assert told == [(2, 1), (1, 2)]


def test_a_microphone_writes_what_it_can(capfd, tmp_path, monkeypatch):
    samples = soundfile.read(write_scene(tmp_path / "a.wav", [(2.0, 1.0)], 10), dtype="float32")[0]

    def fail(*_):
        raise ArtifactError("scores: cannot be written")

    monkeypatch.setattr("utils.event_files.write_scores", fail)
    status, _, err = detect(capfd, "--live", "--scores", tmp_path, "--plot", tmp_path,
                            open_stream=lambda device, *callbacks: FakeMicrophone(samples, *callbacks))
    assert status == 1 and "error: scores: cannot be written\n" in err and "1 event" in err
    assert list(tmp_path.glob("*.png")), "the picture, which comes after the scores"


def test_a_resumed_run_does_not_recall_what_it_wrote_into_another_folder(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "a.wav")
    options = ("--file", "a.wav", "--resume", "--clips")
    assert detect_json(capfd, *options, "one", ensemble=StandIn())[0] == 0 and os.listdir("one")
    assert detect_json(capfd, *options, "one", ensemble=StandIn())[0] == 0
    with pytest.raises(ArtifactError, match=r"other settings \(outputs\)"):
        detect_json(capfd, *options, "two", ensemble=StandIn())


def test_a_resumed_run_writes_again_what_is_gone(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("sounds")
    for name in "ab":
        write_scene(f"sounds/{name}.wav", [(2.0, 1.0), (10.0, 1.0)], 15)
    words = ("--file", "sounds", "--resume", "--audacity", "--raven", "--clips", "clips")
    done = detect_json(capfd, *words)
    outputs = [*tmp_path.glob("sounds/*.txt"), *tmp_path.glob("clips/*")]
    content = {path: path.read_bytes() for path in outputs}
    assert len(outputs) == 8
    for gone in (outputs, outputs[:1], outputs[-1:], []):
        for path in gone:
            path.unlink()
        kept = {path: path.stat().st_mtime_ns for path in outputs if path not in gone}
        again = StandIn()
        assert detect_json(capfd, *words, ensemble=again) == done and again.n_scored == 0
        assert {path: path.read_bytes() for path in outputs} == content
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (tmp_path / "sounds/a.wav.audacity.txt").unlink()
    (tmp_path / "sounds/a.wav.audacity.txt").symlink_to(tmp_path / "gone" / "labels.txt")
    (tmp_path / "gone").touch()
    status, records, err = detect_json(capfd, *words)
    assert (status, records) == (1, done[1]) and "a.wav.audacity.txt: cannot be written" in err


def test_a_resumed_run_analyses_again_what_lost_its_scores_or_picture(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        write_scene(f"{name}.wav")
    for option in ("scores", "plot"):
        folder, first, again = tmp_path / option, StandIn(), StandIn()
        words = ("--file", "a.wav", "b.wav", "--csv", f"{option}.csv", "--resume", f"--{option}", folder)
        done = detect_json(capfd, *words, ensemble=first)
        gone = min(folder.iterdir())
        gone.unlink()
        for _ in range(2):
            assert detect_json(capfd, *words, ensemble=again) == done and again.n_scored == first.n_scored / 2
            assert gone.exists()


def test_files_that_are_done_before_their_turn_are_in_the_journal_at_once(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abcd":
        write_scene(tmp_path / f"{name}.wav")
    lines = []

    def backwards(paths, args, ensemble):
        for position in reversed(range(len(paths))):
            yield position, *command_line.analyse(paths[position], args, ensemble)
            lines.append((tmp_path / "scream-scan.journal").read_text().count("\n") - 1)

    plain = detect_json(capfd, "--file", "a.wav", "d.wav", "b.wav", "c.wav")
    monkeypatch.setattr(command_line, "analyse_all", backwards)
    assert detect_json(capfd, "--file", "a.wav", "d.wav", "b.wav", "c.wav", "--resume") == plain
    assert lines == [1, 2, 3]  # the fourth is given out before this function goes on
    again = StandIn()
    assert detect_json(capfd, "--file", "a.wav", "b.wav", "c.wav", "--resume", ensemble=again)[1] == [plain[1][0], *plain[1][2:]]
    assert again.n_scored == 0


def test_a_process_that_is_killed_costs_one_file(capfd, tmp_path, monkeypatch):
    """b.wav ends each process that analyses it; c.wav and d.wav were in hand, too, and are analysed all the same."""
    for name in "abcd":
        write_scene(tmp_path / f"{name}.wav")
    ensemble = StandIn()

    def in_processes(paths, args):
        for position, path in paths.items():
            if path.endswith("b.wav"):
                raise BrokenExecutor
            yield position, *command_line.analyse(path, args, ensemble)

    monkeypatch.setattr(command_line, "analyse_in_processes", in_processes)
    status, records, err = detect_json(capfd, "--file", tmp_path, "--jobs", "2", ensemble=ensemble)
    sentence = f"{tmp_path}/b.wav: the process that analysed it was ended from outside, maybe for lack of memory"
    assert status == 1 and err.startswith(f"error: {sentence}\n") and "1 failed" in err
    assert [record.get("error", record.get("verdict")) for record in records] == ["scream", sentence, "scream", "scream"]


def test_events_that_were_cut_out_are_not_analysed_again(capfd, tmp_path):
    write_scene(tmp_path / "a.wav")
    for _ in range(2):
        status, records, _ = detect_json(capfd, "--file", tmp_path, "--clips", tmp_path / "clips")
        assert status == 0 and len(records) == 1 and len(os.listdir(tmp_path / "clips")) == 1


def test_clock():
    assert [clock(seconds) for seconds in (3.25, 59.997, 119.97, 3599.96, 4000.5)] == [
        "3.25 s", "1:00.0", "2:00.0", "1:00:00.0", "1:06:40.5"]


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_run(tmp_path):
    for name in ("a.wav", "ü漢.wav", "z.wav"):
        soundfile.write(tmp_path / name, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    done = subprocess.run([sys.executable, REPOSITORY / "main.py", "--file", "."], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert "\\xfc" in done.stdout and "z.wav" in done.stdout


SLOW_STAND_IN = """
import sys, time
sys.path[:0] = [{folder!r}, {repository!r}]
from stand_in import StandIn
from utils.command_line import run

class Slow(StandIn):
    def score(self, windows):
        time.sleep(0.1)
        return super().score(windows)

sys.exit(run("", StandIn.names, sys.argv[1:], Slow()))
"""


@pytest.mark.parametrize("table", [True, False])
def test_a_killed_run_is_continued(tmp_path, table):
    (tmp_path / "sounds").mkdir()
    for index in range(8):
        write_scene(tmp_path / f"sounds/{index}.wav", [(2.0, 0.5 + index / 10)])
    script = SLOW_STAND_IN.format(folder=str(REPOSITORY / "tests"), repository=str(REPOSITORY))
    words = [sys.executable, "-c", script, "--json", "--file", "sounds"]
    journal = tmp_path / ("killed.csv.journal" if table else "scream-scan.journal")
    undisturbed = subprocess.run([*words, "--csv", "whole.csv"], cwd=tmp_path, capture_output=True, text=True)
    first, again = (["--csv", "killed.csv"], ["--csv", "killed.csv", "--resume"]) if table else (["--resume"], ["--resume"])
    process = subprocess.Popen([*words, *first], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.is_file() and journal.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    n_done = journal.read_bytes().count(b"\n") - 1
    began = journal.read_bytes()
    resumed = subprocess.run([*words, *again], cwd=tmp_path, capture_output=True, text=True)
    assert resumed.stdout == undisturbed.stdout and len(resumed.stdout.splitlines()) == 8
    assert journal.read_bytes().startswith(began) and journal.read_bytes().count(b"\n") == 9  # nothing twice, nothing lost
    assert 3 <= n_done < 8
    if table:
        assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_in_real_time(end):
    """Events are printed while the pipe is still open, at most a window and a hop after the sound's end.

    Ctrl-C or SIGTERM ends it, with the record of what had come.
    """
    script = SLOW_STAND_IN.format(folder=str(REPOSITORY / "tests"), repository=str(REPOSITORY)).replace(
        "sys.exit(run(", "from utils.artifacts import run_stage\nrun_stage(lambda: run(")
    process = subprocess.Popen([sys.executable, "-c", script, "--json", "--file", "-", "--raw-rate", str(SAMPLE_RATE)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False)
    samples = (scene(20, [(2.0, 1.0)]) * 32767).astype("<i2")
    process.stdin.write(samples[: round((3.0 + WINDOW_S + WINDOW_HOP / SAMPLE_RATE) * SAMPLE_RATE)].tobytes())
    process.stdin.flush()
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    event = json.loads(process.stdout.readline())  # empty, after a minute, if the event needs more sound
    assert event["start_s"] == pytest.approx(2.0, abs=0.2)
    process.send_signal(end)
    out, err = process.stdout.read(), process.stderr.read()  # the pipe stays open
    watchdog.cancel()
    assert process.wait() == 0 and err == b""
    record = json.loads(out)
    assert record["duration_s"] == pytest.approx(3.0 + WINDOW_S + WINDOW_HOP / SAMPLE_RATE, abs=0.2)
    assert record["events"] == [{key: event[key] for key in ("start_s", "end_s", "probability", "votes")}]


class FakeMicrophone:
    """An input stream as sounddevice gives it, that plays a recording at once; then somebody presses Ctrl-C."""

    samplerate = SAMPLE_RATE

    def __init__(self, samples, on_sound, on_end):
        self.samples, self.on_sound = samples, on_sound

    def start(self):
        for first in range(0, len(self.samples), 2000):
            block = self.samples[first : first + 2000, None]
            self.on_sound(block, len(block), None, None)
        self.end()

    def end(self):
        signal.raise_signal(signal.SIGINT)

    def stop(self):
        pass

    close = stop


def test_microphone_equals_file(capfd, tmp_path):
    path = write_scene(tmp_path / "a.wav", [(2.0, 1.0), (11.0, 2.0)], 20)
    (expected,) = detect_json(capfd, "--file", path)[1]
    samples = soundfile.read(path, dtype="float32")[0]
    status, lines, err = detect_json(capfd, "--live", "--csv", tmp_path / "events.csv", "--plot", tmp_path / "plots",
                                     open_stream=lambda device, *callbacks: FakeMicrophone(samples, *callbacks))
    assert status == 0 and "2 events" in err
    assert lines[-1] == {**expected, "file": "microphone"}
    assert without_time(lines[:-1]) == [{"file": "microphone", **event} for event in expected["events"]]
    assert len((tmp_path / "events.csv").read_text().splitlines()) == 3
    assert len(os.listdir(tmp_path / "plots")) == 1


def test_a_microphone_that_goes_silent_loses_nothing_of_what_it_heard(capfd, tmp_path, monkeypatch):
    class Silent(FakeMicrophone):
        def end(self):
            pass

    monkeypatch.setattr(live.Microphone.__init__, "__defaults__", (None, live.open_sounddevice, live.QUEUE_S, 0.3))
    samples = soundfile.read(write_scene(tmp_path / "a.wav", [(2.0, 1.0)], 10), dtype="float32")[0]
    status, lines, err = detect_json(capfd, "--live", "--plot", tmp_path / "plots",
                                     open_stream=lambda device, *callbacks: Silent(samples, *callbacks))
    assert status == 1 and err.count("error: microphone: no sound has come for 0.3 s") == 1
    assert lines[-1]["duration_s"] == 10 and len(lines[-1]["events"]) == 1 and "no sound" in lines[-1]["warnings"][0]
    assert len(os.listdir(tmp_path / "plots")) == 1


# --- with the trained models ---------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def trained_models():
    from utils.ensemble import MODEL_FILES

    missing = [name for name in MODEL_FILES.values() if not (REPOSITORY / "models" / name).is_file()]
    if missing:
        pytest.skip(f"not trained yet: {', '.join(missing)}")


def test_first_command_of_a_newcomer(trained_models):
    done = python("main.py")
    assert done.returncode == 0, done.stderr
    assert "synthesised" in done.stdout and "models loaded in" in done.stdout
    assert re.findall(r"^  (SCREAM|no scream) .* (\d) of 6 votes", done.stdout, re.M) == [
        ("SCREAM", "5"), ("no scream", "3"), ("no scream", "0")], "scream, siren and speech, as the README shows them"


def test_file_pipe_and_jobs_agree_with_the_trained_models(trained_models, tmp_path):
    for index, start in enumerate((2.0, 4.0, 3.0)):
        write_scene(tmp_path / f"{index}.wav", [(start, 1.0)], 8 + index)
    one = python("main.py", "--json", "--file", tmp_path)
    several = python("main.py", "--json", "--jobs", 2, "--file", tmp_path)
    assert one.returncode == several.returncode == 0
    assert one.stdout == several.stdout
    expected = json.loads(one.stdout.splitlines()[0])
    with open(tmp_path / "0.wav", "rb") as pipe:
        last = python("main.py", "--json", "--file", "-", stdin=pipe).stdout.splitlines()[-1]
    assert json.loads(last) == {**expected, "file": "-"}


@pytest.mark.slow
def test_threads_and_jobs_change_no_record_of_the_real_recordings(trained_models, real_audio):
    """Every clip and long recording: bytes of the JSON lines, so verdicts and every digit of the probabilities too."""
    once = python("main.py", "--json", "--threads", 1, "--file", real_audio)
    assert once.stdout.count("\n") > 3_000 and once.returncode == 0, once.stderr
    for options in (["--threads", 2], ["--threads", 4], ["--jobs", 2]):
        assert python("main.py", "--json", *options, "--file", real_audio).stdout == once.stdout, options
    print(f"\n{once.stdout.count(chr(10))} recordings: 1, 2 and 4 threads and 2 processes give the same bytes")


@pytest.mark.parametrize(("script", "name"), [("inference_svm.py", "svm"), ("inference_cnn.py", "cnn")])
def test_one_model_alone_says_what_it_says_in_the_vote(trained_models, tmp_path, script, name):
    path = write_scene(tmp_path / "a.wav", [(0.2, 1.6)], 2)  # one window, no short part of which is louder than the rest
    alone, vote = (json.loads(python(by, "--json", "--file", path).stdout) for by in (script, "main.py"))
    assert set(alone) == KEYS and list(alone["models"]) == [name] and alone["votes"] in (0, 1)
    assert alone["probability"] == alone["models"][name]["probability"] == vote["models"][name]["probability"]


@pytest.mark.parametrize("fails", [False, True])
def test_no_garbage_is_looked_for_while_models_load(monkeypatch, request, fails):
    def load_ensemble(*_):
        seen.append(gc.isenabled())
        if fails:
            raise ArtifactError("no models")
        return "models"

    seen = []
    monkeypatch.setattr(ensemble, "load_ensemble", load_ensemble)
    request.addfinalizer(gc.unfreeze)
    gc.unfreeze()
    args = types.SimpleNamespace(models="models", names=(), device="cpu", threads=1, jobs=1, backend="local", trust_models=False)
    with pytest.raises(ArtifactError) if fails else contextlib.nullcontext():
        assert command_line.load(args) == "models"
    assert seen == [False] and gc.isenabled() and (gc.get_freeze_count() > 1000) == (not fails)
