import csv
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from scipy.stats import poisson

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE
from utils.scenes import active_rms

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
spec = importlib.util.spec_from_file_location("long_scene", os.path.join(ROOT, "benchmarks", "long_scene.py"))
long_scene = importlib.util.module_from_spec(spec)
spec.loader.exec_module(long_scene)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Two 20 s noises as ambience, and a feature table whose test split has three tones with silence around as screams."""
    folder, rng = tmp_path_factory.mktemp("material"), np.random.default_rng(0)
    (folder / "ambience").mkdir()
    for name, level in (("rain", 0.02), ("wind", 0.1)):
        soundfile.write(folder / "ambience" / f"{name}.wav", level * rng.standard_normal(20 * SAMPLE_RATE), SAMPLE_RATE)
    with open(folder / "features.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "split"])
        for i, (label, split) in enumerate([("scream", "test"), ("scream", "train"), ("non_scream", "test"), ("scream", "test"),
                                            ("scream", "test"), ("scream", "validation")]):
            time = np.arange(int((0.5 + 0.2 * i) * SAMPLE_RATE)) / SAMPLE_RATE
            sound = np.pad(0.5 * np.sin(2 * np.pi * (1000 + 500 * i) * time), (SAMPLE_RATE // 2, SAMPLE_RATE // 4))
            soundfile.write(folder / f"{i}.wav", sound, SAMPLE_RATE)
            table.writerows([[folder / f"{i}.wav", label, split]] * 2)  # two windows each
    return folder


@pytest.fixture(scope="module")
def scene(material, tmp_path_factory):
    """A scene of 90 s with four screams, as a user builds it, and its truth."""
    path = tmp_path_factory.mktemp("scene") / "scene.wav"
    subprocess.run([sys.executable, os.path.join(ROOT, "benchmarks", "long_scene.py"), "build", path,
                    "--ambience", material / "ambience", "--csv", material / "features.csv",
                    "--hours", "0.025", "--screams", "4", "--seed", "3"], check=True)
    return path, json.loads(path.with_suffix(".json").read_text())


def test_screams_come_from_the_test_split_only(material, scene):
    held_out = [str(material / f"{i}.wav") for i in (0, 3, 4)]
    assert long_scene.find_held_out_screams(material / "features.csv") == held_out
    used = [scream["file"] for scream in scene[1]["screams"]]
    assert set(used) == set(held_out) and len(used) == 4  # each once before one comes again


def test_screams_are_where_and_as_loud_as_the_truth_says(material, scene):
    """Each scream is a pure tone: its level over the neighbouring ambience, and its limits, can be read off the samples."""
    path, truth = scene
    samples, rate = soundfile.read(path)
    assert rate == SAMPLE_RATE and len(samples) == 90 * rate and truth["duration_s"] == 90.0 and not truth["clipped_samples"]
    for scream in truth["screams"]:
        hz = 1000 + 500 * int(os.path.basename(scream["file"])[0])
        first, last = round(scream["start_s"] * rate), round(scream["end_s"] * rate)
        assert 0 <= scream["snr_db"] <= 20 and last - first == pytest.approx((0.5 + 0.2 * ((hz - 1000) // 500)) * rate, abs=600)

        def tone_level(first, last, hz=hz):
            time = np.arange(last - first) / rate
            return abs(np.mean(samples[first:last] * np.exp(-2j * np.pi * hz * time))) * np.sqrt(2)

        tone = tone_level(first + 200, last - 200)
        rest = np.sqrt(np.mean(np.square(samples[first + 200 : last - 200])) - tone**2)
        assert 20 * np.log10(tone / rest) == pytest.approx(scream["snr_db"], abs=0.7)
        assert tone_level(first - 4000, first - 300) < tone / 8 and tone_level(last + 300, last + 4000) < tone / 8


def test_ambience_is_listed_levelled_and_continuous(scene):
    path, truth = scene
    samples, rate = soundfile.read(path)
    starts = [entry["start_s"] for entry in truth["ambience"]]
    assert starts[0] == 0 and sorted(starts) == starts and np.allclose(np.diff(starts), 19.0)
    assert len({entry["file"] for entry in truth["ambience"]}) == 2
    quiet = np.ones(len(samples), bool)
    for scream in truth["screams"]:
        quiet[round(scream["start_s"] * rate) - 500 : round(scream["end_s"] * rate) + 500] = False
    for start in starts[1:4]:
        part = slice(int((start + 1) * rate), int((start + 18) * rate))
        assert -46 < 20 * np.log10(active_rms(samples[part][quiet[part]])) < -31


def test_recordings_fade_into_each_other_without_a_jump(tmp_path):
    time = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    soundfile.write(tmp_path / "swell.wav", 0.3 * np.sin(2 * np.pi * 0.75 * time), SAMPLE_RATE)  # 15 periods
    log = []
    stream = long_scene.endless_ambience([str(tmp_path / "swell.wav")], np.random.default_rng(0), log)
    joined = np.concatenate([next(stream) for _ in range(6)])[SAMPLE_RATE:]
    assert np.abs(np.diff(joined)).max() < 3 * 0.04 * 2 * np.pi * 0.75 / SAMPLE_RATE
    assert [entry["start_s"] for entry in log[:2]] == [0, 19]


def test_same_seed_same_scene_other_seed_other_scene(material, tmp_path):
    ambience, screams = long_scene.find_ambience(str(material / "ambience")), [str(material / "0.wav"), str(material / "3.wav")]
    content = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        truth = long_scene.build(str(tmp_path / f"{name}.wav"), ambience, screams, 0.02, 2, seed)
        content.append(((tmp_path / f"{name}.wav").read_bytes(), [scream["start_s"] for scream in truth["screams"]]))
    assert content[0] == content[1] and content[0][0] != content[2][0] and content[0][1] != content[2][1]


def test_block_size_changes_nothing(material, tmp_path, monkeypatch):
    arguments = (long_scene.find_ambience(str(material / "ambience")), [str(material / "0.wav")], 0.02, 2, 1)
    long_scene.build(str(tmp_path / "a.wav"), *arguments)
    monkeypatch.setattr(long_scene, "BLOCK", 1234)
    long_scene.build(str(tmp_path / "b.wav"), *arguments)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_screams_lie_apart():
    rng = np.random.default_rng(0)
    lengths = [3 * SAMPLE_RATE] * 40
    starts = long_scene.place_screams(lengths, 1200 * SAMPLE_RATE, rng)
    assert min(np.diff(starts)) >= (3 + 2 * long_scene.MARGIN_S) * SAMPLE_RATE and starts[-1] + lengths[-1] < 1200 * SAMPLE_RATE
    with pytest.raises(ArtifactError, match="do not fit"):
        long_scene.place_screams(lengths, 400 * SAMPLE_RATE, rng)


def truth_of(*screams):
    screams = [{"file": f"{i}.wav", "start_s": start, "end_s": end, "snr_db": snr} for i, (start, end, snr) in enumerate(screams)]
    return {"duration_s": 7200.0, "seed": 5, "ambience": [], "screams": screams}


def events_of(*stretches):
    return [{"start_s": start, "end_s": end, "probability": 0.9, "votes": 6} for start, end in stretches]


def test_comparison_with_the_truth():
    #   truth    ===10-12===      ===20-22===   ===30-31===   ===40-41===
    #   events  9.5-11, 11.5-13   20.25-21      -             40.9-60        and 100-101, 22-22.5 (touches, no overlap)
    truth = truth_of((10, 12, 3.0), (20, 22, 15.0), (30, 31, 9.9), (40, 41, 10.0))
    result = long_scene.compare(events_of((9.5, 11), (11.5, 13), (20.25, 21), (22, 22.5), (40.9, 60), (100, 101)), truth)
    assert (result["found"], result["screams"], result["events"], result["false_alarms"]) == (3, 4, 6, 2)
    assert result["false_alarms_per_hour"] == 1.0
    assert result["onset_error_median_s"] == pytest.approx(0.5) and result["onset_bias_s"] == pytest.approx(0.25)
    assert result["found_by_level"] == {"0-10 dB": (1, 2), "10-20 dB": (2, 2)}
    assert [scream["file"] for scream in result["missed"]] == ["2.wav"]
    assert long_scene.markdown(result, truth) == (
        "| what | figure |\n|---|---|\n| recording | 2.00 h, seed 5 |\n"
        "| screams found | 3 of 4 (1 of 2 at 0-10 dB, 2 of 2 at 10-20 dB) |\n"
        "| onset error, median | 0.50 s (90 % within 0.82 s) |\n"
        "| false alarms per hour | 1.00 (2 in all; by chance 0.1 to 3.6) |\n")


def test_no_event_at_all():
    result = long_scene.compare([], truth_of((10, 12, 3.0)))
    assert result["found"] == 0 and result["false_alarms"] == 0 and result["onset_error_median_s"] is None
    assert "| - (90 % within -) |" in long_scene.markdown(result, truth_of((10, 12, 3.0)))


def test_score_of_a_finished_output(scene, tmp_path, capsys):
    path, truth = scene
    events = events_of(*((scream["start_s"] + 0.1, scream["end_s"]) for scream in truth["screams"]))
    record = {"file": str(path), "duration_s": 90.0, "events": events}
    (tmp_path / "out.jsonl").write_text(json.dumps(record) + "\n")
    table = tmp_path / "table.md"
    assert long_scene.main(["score", str(path), "--events", str(tmp_path / "out.jsonl"), "--markdown", str(table)]) == 0
    assert capsys.readouterr().out == table.read_text()
    assert "| screams found | 4 of 4 " in table.read_text() and "| onset error, median | 0.10 s " in table.read_text()
    (tmp_path / "out.jsonl").write_text(json.dumps(record | {"duration_s": 60.0}) + "\n")
    with pytest.raises(ArtifactError, match="do not belong together"):
        long_scene.main(["score", str(path), "--events", str(tmp_path / "out.jsonl")])
    with pytest.raises(ArtifactError, match=r"cannot be read.*none\.json"):
        long_scene.main(["score", str(tmp_path / "none.wav")])


def test_scan_measures_memory_and_time_of_main(tmp_path, monkeypatch):
    """A stand-in for main.py that takes 300 MB."""
    (tmp_path / "main.py").write_text("import json, sys\nx = b'x' * 300_000_000\n"
                                      "print(json.dumps({'file': sys.argv[2], 'events': [], 'options': sys.argv[3:]}))\n")
    monkeypatch.setattr(long_scene, "REPOSITORY", str(tmp_path))
    record, seconds, memory_mb = long_scene.scan("scene.wav", ["--hop", "1"])
    assert record["file"] == "scene.wav" and record["options"] == ["--json", "--hop", "1"]
    assert 290 < memory_mb < 1500 and 0 < seconds < 60  # the test process itself may be larger than the stand-in
    (tmp_path / "main.py").write_text("raise SystemExit(1)\n")
    with pytest.raises(ArtifactError, match="ended with status 1"):
        long_scene.scan("scene.wav", [])


def test_wrong_inputs_are_one_sentence(tmp_path, material):
    (tmp_path / "empty").mkdir()
    for path, message in ((tmp_path / "gone", "give a folder"), (tmp_path / "empty", "no recordings"),
                          (material / "features.csv", "a column path")):
        with pytest.raises(ArtifactError, match=message):
            long_scene.find_ambience(str(path))
    with pytest.raises(ArtifactError, match="run python extract_features"):
        long_scene.find_held_out_screams(str(tmp_path / "none.csv"))
    (tmp_path / "f.csv").write_text("file,label,split\na.wav,scream,train\n")
    with pytest.raises(ArtifactError, match="no screams in its test split"):
        long_scene.find_held_out_screams(str(tmp_path / "f.csv"))


def test_the_interval_of_a_count_is_that_of_a_poisson_variable():
    for number in (0, 1, 3, 37):
        low, high = long_scene.poisson_interval(number)
        assert poisson.sf(number - 1, low) == pytest.approx(0.025 if number else 1)
        assert poisson.cdf(number, high) == pytest.approx(0.025)
