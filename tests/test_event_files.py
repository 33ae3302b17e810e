import csv
import os
import resource
import stat

import numpy as np
import pytest
import soundfile

from utils.artifacts import ArtifactError
from utils.audio import AudioError
from utils.event_files import (RAVEN_COLUMNS, EventTable, clip_name, spreadsheet_cell, write_audacity, write_clips,
                               write_csv, write_raven)

EVENTS = [{"start_s": 1.25, "end_s": 2.5, "probability": 0.91234567, "votes": 5},
          {"start_s": 3661.0005, "end_s": 3662.0, "probability": 1.0, "votes": 6}]
SETTINGS = {"threshold": 0.5, "min_votes": 3, "models": ["svm", "cnn"], "exit_threshold": None, "hashes": {"svm": "ab"}}


def counting_recording(path, seconds=4.0, rate=44_100, channels=2, **options):
    """A recording whose frame i holds i steps of the 16-bit scale, modulo 30,000, so that any frame can be recognised."""
    frames = np.arange(int(seconds * rate)) % 30_000
    samples = np.stack([frames * (1 - channel) + (30_000 - frames) * channel for channel in range(channels)], axis=1)
    soundfile.write(path, samples.astype(np.int16), rate, **options)
    return samples


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_per_event_with_the_settings(tmp_path):
    records = [{"file": "night.wav", "events": EVENTS}, {"file": "bad.wav", "error": "no such file"},
               {"file": "calm.wav", "events": []}, {"file": "b.wav", "events": EVENTS[:1]}]
    write_csv(tmp_path / "events.csv", records, SETTINGS)
    rows = rows_of(tmp_path / "events.csv")
    assert [row["file"] for row in rows] == ["night.wav", "night.wav", "b.wav"]
    assert rows[0] == {"file": "night.wav", "start_s": "1.250", "end_s": "2.500", "duration_s": "1.250", "probability": "0.9123",
                       "votes": "5", "threshold": "0.5", "min_votes": "3", "models": "svm cnn", "exit_threshold": "",
                       "hashes.svm": "ab"}


@pytest.mark.parametrize("name", ["=HYPERLINK(\"http://x\")", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1"])
def test_file_names_never_become_formulas(tmp_path, name):
    write_csv(tmp_path / "events.csv", [{"file": name, "events": EVENTS[:1]}], SETTINGS | {"note": "=1+1"})
    row = rows_of(tmp_path / "events.csv")[0]
    assert row["file"] == "'" + name and row["note"] == "'=1+1"


def test_numbers_and_harmless_text_stay_as_they_are():
    assert [spreadsheet_cell(value) for value in (-0.5, "-", "a=b.wav", "")] == ["-0.5", "-", "a=b.wav", ""]


def test_csv_keeps_names_with_commas_quotes_line_breaks_and_odd_bytes(tmp_path):
    name = 'ä, "b"\nc.wav'
    write_csv(tmp_path / "events.csv", [{"file": name, "events": EVENTS[:1]}, {"file": "x\udcff.wav", "events": EVENTS[:1]}], {})
    assert [row["file"] for row in rows_of(tmp_path / "events.csv")] == [name, "x\\udcff.wav"]


def test_table_written_event_by_event_equals_the_one_written_at_once(tmp_path):
    write_csv(tmp_path / "whole.csv", [{"file": "-", "events": EVENTS}], SETTINGS)
    with EventTable(tmp_path / "grown.csv", SETTINGS) as table:
        for count, event in enumerate(EVENTS, start=1):
            table.write("-", [event])
            assert len(rows_of(tmp_path / "grown.csv")) == count  # on disk at once
    assert (tmp_path / "grown.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_csv_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "events.csv"):
        with pytest.raises(ArtifactError, match="cannot be written"):
            write_csv(path, [], {})
        with pytest.raises(ArtifactError, match="cannot be written"):
            EventTable(path, {})


@pytest.mark.parametrize("n_bytes", [0, 1, 40])
def test_a_header_that_a_full_disk_has_cut_off_is_written_again(tmp_path, n_bytes):
    EventTable(tmp_path / "whole.csv", SETTINGS, of_stream=True).close()
    header = (tmp_path / "whole.csv").read_bytes()
    for there in (header[:n_bytes], header[: len(header) - n_bytes]):
        (tmp_path / "events.csv").write_bytes(there)
        EventTable(tmp_path / "events.csv", SETTINGS, of_stream=True).close()
        assert (tmp_path / "events.csv").read_bytes() == header


def test_audacity_labels(tmp_path):
    record = {"file": str(tmp_path / "night.wav"), "events": EVENTS}
    path = write_audacity(record)
    assert path == record["file"] + ".audacity.txt"
    assert open(path).read() == ("1.250000\t2.500000\tscream 0.91 votes 5\n"
                                 "3661.000500\t3662.000000\tscream 1.00 votes 6\n")
    write_audacity(record | {"events": []})
    assert open(path).read() == ""


def test_raven_selection_table(tmp_path):
    path = write_raven({"file": str(tmp_path / "night.wav"), "events": EVENTS})
    lines = open(path).read().split("\n")
    assert path.endswith("night.wav.selections.txt")
    assert lines[0] == ("Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
                        "\tAnnotation\tProbability\tVotes")
    assert lines[1] == "1\tSpectrogram 1\t1\t1.250000\t2.500000\t0.0\t11025.0\tscream\t0.9123\t5"
    assert lines[2].split("\t")[0] == "2" and len(lines[2].split("\t")) == len(RAVEN_COLUMNS) and lines[3:] == [""]


def test_standard_input_has_no_labels_and_no_clips(tmp_path):
    for write in (write_audacity, write_raven, lambda record: write_clips(record, tmp_path)):
        with pytest.raises(ArtifactError, match="standard input"):
            write({"file": "-", "events": EVENTS})


@pytest.mark.parametrize(("format", "subtype", "channels", "rate"), [
    ("WAV", "PCM_16", 2, 44_100), ("WAV", "PCM_24", 1, 96_000), ("FLAC", "PCM_16", 2, 48_000), ("AIFF", "PCM_16", 1, 8_000),
    ("WAV", "FLOAT", 1, 22_050)])
def test_clips_are_the_original_samples_with_padding(tmp_path, format, subtype, channels, rate):
    path = tmp_path / f"recording.{format.lower()}"
    counting_recording(path, rate=rate, channels=channels, format=format, subtype=subtype)
    events = [{"start_s": 1.0, "end_s": 1.5}, {"start_s": 0.1, "end_s": 0.2}, {"start_s": 3.5, "end_s": 3.9}]
    paths = write_clips({"file": str(path), "events": events}, tmp_path / "clips", padding_s=0.25)
    original, _ = soundfile.read(path, dtype="float64", always_2d=True)
    for clip, (first_s, last_s) in zip(paths, [(0.75, 1.75), (0.0, 0.45), (3.25, 4.0)], strict=True):
        info = soundfile.info(clip)
        assert (info.samplerate, info.channels, info.subtype) == (rate, channels, subtype)
        samples, _ = soundfile.read(clip, dtype="float64", always_2d=True)
        np.testing.assert_array_equal(samples, original[round(first_s * rate): round(last_s * rate)])


@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_clips_of_compressed_files_are_what_a_player_decodes_there(tmp_path, format):
    if format not in soundfile.available_formats():
        pytest.skip(f"this libsndfile has no {format}")
    rate, path = 44_100, tmp_path / f"tone.{format.lower()}"
    time = np.arange(5 * rate) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * (200 + 300 * time) * time), rate, format=format)
    [clip] = write_clips({"file": str(path), "events": [{"start_s": 2.0, "end_s": 3.0}]}, tmp_path, padding_s=0.0)
    decoded, _ = soundfile.read(path)
    np.testing.assert_allclose(soundfile.read(clip)[0], decoded[2 * rate : 3 * rate], atol=2e-3)
    assert soundfile.info(clip).subtype == "PCM_16"


def test_long_clip_is_copied_in_pieces(tmp_path, monkeypatch):
    samples = counting_recording(tmp_path / "a.wav", seconds=3.0)
    monkeypatch.setattr("utils.event_files.COPY_FRAMES", 1000)
    [clip] = write_clips({"file": str(tmp_path / "a.wav"), "events": [{"start_s": 0.5, "end_s": 2.5}]}, tmp_path / "c", 0.0)
    np.testing.assert_array_equal(soundfile.read(clip, dtype="int16")[0], samples[22_050:110_250])


def test_clip_names_are_safe_sorted_and_apart():
    starts = (0.0, 3723.4504, 86_400.0)
    names = [clip_name(file, start) for file in ("a/night.wav", "b/night.wav", "a/night.mp3") for start in starts]
    assert len(set(names)) == len(names) and names[:3] == sorted(names[:3])
    assert names[1].startswith("night_") and names[1].endswith("_01h02m03.450s.wav") and names[2].endswith("_24h00m00.000s.wav")
    assert clip_name("a/night.wav", 59.9996).endswith("_00h01m00.000s.wav")
    for bad in ("../../etc/passwd", "a/..", "-rf.wav", "con: <x>|*?.wav", "schreiß 😱.wav", "x" * 300 + ".wav", "\udcff.wav",
                "a/=1+1.wav"):
        name = clip_name(bad, 1.0)
        assert os.path.basename(name) == name and name.isascii() and len(name) < 120 and name[0].isalnum()
        assert not set(name) & set('<>:"/\\|?* \n=')
    assert clip_name("night.wav", 1.0) == clip_name("./night.wav", 1.0)


def test_clips_of_unreadable_originals_are_one_sentence(tmp_path, monkeypatch):
    record = {"file": str(tmp_path / "gone.wav"), "events": [{"start_s": 0.0, "end_s": 1.0}]}
    with pytest.raises(AudioError, match=r"gone.wav: no such file"):
        write_clips(record, tmp_path)
    (tmp_path / "gone.wav").write_bytes(b"not audio")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match="need ffmpeg on PATH"):
        write_clips(record, tmp_path)
    assert os.listdir(tmp_path) == ["gone.wav"]  # nothing half-written


@pytest.mark.parametrize("limit", [20, 44, 1000, 100_000])
def test_clips_on_a_full_disk_name_the_clip_and_the_reason(tmp_path, limit):
    """A limit to the size of files, in bytes, that stops the clip in its header, behind it, or in its samples."""
    counting_recording(tmp_path / "a.wav")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ArtifactError) as stop:
            write_clips({"file": str(tmp_path / "a.wav"), "events": [{"start_s": 1.0, "end_s": 2.0}]}, tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(stop.value) == f"{tmp_path / 'c' / clip_name(str(tmp_path / 'a.wav'), 1.0)}: cannot be written (File too large)"
    assert os.listdir(tmp_path / "c") == []


def test_ffmpeg_on_a_full_disk_names_the_clip_and_the_reason(tmp_path, monkeypatch):
    (tmp_path / "ffmpeg").write_text('#!/bin/sh\nfor last; do :; done\necho "$last: No space left on device" >&2\nexit 228\n')
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "film.m4a").write_bytes(b"\0" * 100)
    with pytest.raises(ArtifactError, match=r"/c/film_.*\.wav: cannot be written \(No space left on device\)"):
        write_clips({"file": str(tmp_path / "film.m4a"), "events": [{"start_s": 10.0, "end_s": 12.0}]}, tmp_path / "c")


def test_formats_only_ffmpeg_knows_are_cut_by_it(tmp_path, monkeypatch):
    """A stand-in for ffmpeg notes its arguments and writes the output."""
    script = f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nfor last; do :; done\nprintf sound > "$last"\n'
    (tmp_path / "ffmpeg").write_text(script)
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "film.m4a").write_bytes(b"\0" * 100)
    [clip] = write_clips({"file": str(tmp_path / "film.m4a"), "events": [{"start_s": 10.0, "end_s": 12.0}]}, tmp_path / "c", 0.5)
    assert open(clip).read() == "sound" and stat.S_IMODE(os.stat(clip).st_mode) & 0o400
    assert "-ss 9.500 -t 3.000 -i" in (tmp_path / "arguments").read_text()
