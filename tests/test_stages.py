"""Every stage as a user runs it: a process each, one after another, from recordings to `main.py --json`.

The data set is tiny and the training short; what is proved is that the stages fit together, not that the models are good.
"""

import collections
import csv
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from conftest import REPOSITORY, synthetic_scream, synthetic_sound
from synthetic_artifacts import locations, write_artifacts

import extract_features
from utils.artifacts import ArtifactError, run_stage
from utils.dataset import Clip, split_clips
from utils.noise_level import NO_NOISE

MODEL_FILES = {"svm": "svm_esc50_pipeline.pkl", "random_forest": "random_forest_esc50_pipeline.pkl",
               "logistic_regression": "logistic_esc50_pipeline.pkl", "cnn": "cnn_model.pth", "cnn_mel": "cnn_mel_model.pth",
               "cnn_lstm": "cnn_lstm_model.pth"}
NETWORKS = ("cnn", "cnn_mel", "cnn_lstm")
SHORT = ["--epochs", "1", "--steps", "3", "--batch-size", "8", "--device", "cpu", "--threads", "1"]


def run(folder, script, *options):
    """Run a script of the repository in `folder`, where its default paths then lie."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, options)]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def run_well(folder, script, *options):
    finished = run(folder, script, *options)
    assert finished.returncode == 0, finished.stderr
    return finished


def test_a_file_name_that_is_no_text_ends_no_stage(tmp_path):
    for label in ("scream", "non_scream"):
        folder = tmp_path / os.fsdecode(b"caf\xe9") / label
        folder.mkdir(parents=True)
        soundfile.write(os.fsencode(folder / "1.wav"), np.sin(np.arange(22_050) / 9), 22_050, format="WAV")
    command = [sys.executable, str(REPOSITORY / "extract_features.py"), "--audio", os.fsdecode(b"caf\xe9"), "--jobs", "1",
               "--signals", "0", "--no-augment", "--csv", os.fsdecode(b"\xe9.csv")]
    finished = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True,
                              env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert finished.returncode == 0 and "\\udce9.csv" in finished.stdout, finished.stderr


@pytest.fixture(scope="module")
def folder(tiny_data_set, tmp_path_factory):
    """A working folder with two collections as their owners ship them, where stage 1 has run with its defaults."""
    folder = tmp_path_factory.mktemp("work")
    for layout in ("Converted_Separately", "ESC-50-master"):
        shutil.copytree(tiny_data_set / layout, folder / layout)
    (folder / "Converted_Separately/scream/damaged.wav").write_bytes(b"RIFF....WAVEfmt ")
    finished = run_well(folder, "extract_features.py", "--jobs", "1", "--signals", "5")
    assert finished.stdout.endswith("\nnext: python train_ml.py\n")
    assert "45 clips, 45 windows" in finished.stdout and "1 failures" in finished.stdout
    assert "damaged.wav" in finished.stderr
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """The same folder after stage 2, and what each script printed."""
    printed = {"ml": run_well(folder, "train_ml.py", "--jobs", "1").stdout}
    for name in NETWORKS:
        printed[name] = run_well(folder, f"train_{name}.py", *SHORT).stdout
    return folder, printed


def test_stage_1_writes_aligned_artifacts(folder):
    with open(folder / "audio_features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 45 and {row["split"] for row in rows} == {"train", "validation", "test"}
    labels = np.load(folder / "data/cnn_labels.npy")
    assert [int(row["label"] == "scream") for row in rows] == labels.tolist()
    for name in ("cnn_spectrograms", "cnn_mel_spectrograms"):
        assert np.load(folder / f"data/{name}.npy", mmap_mode="r").shape == (45, 128, 128)
    assert not [name for _, _, names in os.walk(folder) for name in names if ".tmp" in name]


def test_training_leaves_models_with_their_json(trained):
    folder, printed = trained
    for name, model in MODEL_FILES.items():
        path = folder / "models" / model
        report = json.loads(path.with_suffix(".json").read_text())
        assert report["model"] == name and report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        for figure in ("accuracy", "precision", "recall", "f1", "mcc", "roc_auc"):
            assert -1 <= report["metrics"]["test"][figure] <= 1, (name, figure)
        assert 0 <= report["metrics"]["test"]["accuracy"] <= 1 and report["versions"]["numpy"] == np.__version__
        assert path.stat().st_size < 4_000_000
    assert printed["ml"].endswith("\nnext: python train_cnn.py\n")
    assert "confusion matrix" in printed["ml"] and "macro avg" in printed["ml"] and "train_test_accuracy_gap" in printed["ml"]


def test_classical_models_learn_the_tiny_data_set(trained):
    folder, _ = trained
    for name in ("svm", "random_forest", "logistic_regression"):
        report = json.loads((folder / "models" / MODEL_FILES[name]).with_suffix(".json").read_text())
        assert report["metrics"]["train"]["roc_auc"] > 0.95, name


def test_networks_are_plain_state_dicts_with_a_history(trained):
    folder, _ = trained
    for name in NETWORKS:
        weights = torch.load(folder / "models" / MODEL_FILES[name], weights_only=True)
        assert sum(tensor.numel() for tensor in weights.values()) < 1_000_000
        assert len(json.loads((folder / f"models/{name}_history.json").read_text())) == 1
        assert (folder / f"models/{name}_history.png").read_bytes()[:4] == b"\x89PNG"


class FirstFeature(BaseEstimator):
    """A model whose score is the first feature, by which a row is known again."""

    def fit(self, features, label, sample_weight):
        self.fitted_ = features[:, 0]
        assert len(sample_weight) == len(features)

    def decision_function(self, features):
        return features[:, 0]


def test_train_ml_learns_from_recordings_of_the_right_part_only(folder, monkeypatch, tmp_path, capsys):
    """No clip of another part, and no copy with a background of one, reaches a model, its operating point or noise.json."""
    import train_ml

    model, held_out, heard = FirstFeature(), [], []
    monkeypatch.setattr(train_ml, "build_pipelines", lambda seed: {"logistic_regression": make_pipeline(model)})
    monkeypatch.setattr(train_ml, "copy_weights", lambda rows, copies, args: np.ones(len(rows) + len(copies)))
    monkeypatch.setattr(train_ml, "save", lambda *_: None)
    monkeypatch.setattr(train_ml, "fit_calibration", lambda label, score: held_out.extend(score) or {"threshold": 0, "slope": 1})
    monkeypatch.setattr(train_ml, "fit_noise_level", lambda *rows: heard.extend(part[:, 0] for part in rows) or NO_NOISE)
    assert train_ml.main(locations(folder, tmp_path)) == 0
    assert capsys.readouterr().out.endswith(f"next: python train_cnn.py --features {folder}/audio_features.csv "
                                            f"--data {folder}/data --models {tmp_path}\n")

    tables = {}
    for name in ("audio_features", "data/augmented_features", "data/noise_features"):
        with open(folder / f"{name}.csv", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    windows, scenes, noisy = tables.values()
    part_of = {row["group"]: row["split"] for row in windows}

    def wanted(part, *tables, but=""):
        return sorted(float(row["mfcc1_mean"]) for rows in tables for row in rows if row["source"] != but
                      and {part_of[row["group"]], part_of[row.get("mix_group") or row["group"]]} == {part})

    clean, in_noise = heard
    assert sorted(model.fitted_) == wanted("train", windows, scenes)
    assert sorted(held_out) == wanted("validation", windows, scenes)
    assert sorted(clean) == wanted("train", windows, but="synthesised") and sorted(in_noise) == wanted("train", noisy)
    for part, rows in (("train", windows), ("train", scenes), ("train", noisy), ("validation", windows), ("validation", scenes)):
        assert 0 < len(wanted(part, rows)) < len(rows)  # there were others to mistake for them


def test_no_network_comes_after_a_table_without_spectrograms_or_a_random_split(folder, monkeypatch, tmp_path, capsys):
    import train_ml

    monkeypatch.setattr(train_ml, "train_all", lambda *_, **__: {})
    with open(folder / "audio_features.csv", newline="") as table, open(tmp_path / "bare.csv", "w", newline="") as bare:
        csv.writer(bare).writerows(row[:36] for row in csv.reader(table))  # file, label and the 34 features
    for options in (locations(folder, tmp_path), ["--features", str(tmp_path / "bare.csv"), "--models", str(tmp_path)]):
        assert train_ml.main([*options, "--split", "random"]) == 0
    assert train_ml.main(options) == 0
    assert "next:" not in capsys.readouterr().out


def test_half_of_the_backgrounds_are_of_the_clips_own_source():
    """A scream that always lay in another collection's sound would be known by that."""
    clips = [Clip(f"{source}/{label}/{number}", label, source, "", "") for source in ("home", "street", "game", "field")
             for label in ("scream", "non_scream") for number in range(20) if (label, source) != ("non_scream", "field")]
    chosen = extract_features.choose_backgrounds(clips, seed=0)
    for clip, backgrounds in zip(clips, chosen):
        assert len(backgrounds) == extract_features.COPIES[clip.label] and {b.label for b in backgrounds} == {"non_scream"}
        if clip.source != "field":  # which has no sounds without a scream
            assert {b.source for b in backgrounds[1::2]} == {clip.source}
    of_any = collections.Counter(b.source for backgrounds in chosen for b in backgrounds[::2])
    assert set(of_any) == {"home", "street", "game"} and min(of_any.values()) > 0.25 * of_any.total()


def test_comparison_names_six_models_and_the_vote(trained):
    folder, _ = trained
    finished = run_well(folder, "compare_models.py")
    assert "note: the test split has few clips to test on (screams: 2, others: 4): " in finished.stderr
    with open(folder / "models/comparison.csv", newline="") as file:
        assert len(list(csv.reader(file))) == 8  # a header, six models, the vote
    markdown = (folder / "models/comparison.md").read_text()
    for name in MODEL_FILES:
        assert name in finished.stdout and name in markdown
    assert (folder / "models/comparison.png").read_bytes()[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def detected(trained):
    """What main.py says of two folders and a file that is missing."""
    folder, _ = trained
    inputs = ("Converted_Separately/scream", "ESC-50-master/audio", "missing.wav")
    return run(folder, "main.py", "--models", "models", "--threads", "1", "--json", "--file", *inputs)


def test_main_prints_one_json_object_per_file(folder, detected):
    finished = detected
    assert finished.returncode == 1 and "Traceback" not in finished.stderr  # two files cannot be analysed
    records = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(records) == 13 + 16 + 1
    failed = {record["file"]: record["error"] for record in records if "error" in record}
    assert set(failed) == {"Converted_Separately/scream/damaged.wav", "missing.wav"}
    for path, sentence in failed.items():
        assert sentence in finished.stderr and path in sentence
    for record in records:
        if "error" in record:
            continue
        assert os.path.isfile(folder / record["file"])
        assert list(record["models"]) == list(MODEL_FILES)
        assert record["verdict"] == ("scream" if record["events"] else "non_scream")
        assert 0 <= record["probability"] <= 1 and 0 <= record["votes"] <= 6
        assert record["votes"] == sum(model["verdict"] == "scream" for model in record["models"].values())
        for model in record["models"].values():
            assert model["verdict"] == ("scream" if model["probability"] >= 0.5 else "non_scream")
        for event in record["events"]:
            assert 0 <= event["start_s"] < event["end_s"] <= record["duration_s"] + 0.001
            assert 0 <= event["probability"] <= 1 and 0 <= event["votes"] <= 6


@pytest.mark.parametrize("script, name", [("inference_svm.py", "svm"), ("inference_cnn.py", "cnn")])
def test_one_model_alone_agrees_with_main(folder, detected, script, name):
    path = "Converted_Separately/scream/30.wav"
    together = next(record for record in map(json.loads, detected.stdout.splitlines()) if record["file"] == path)
    alone = json.loads(run_well(folder, script, "--models", "models", "--threads", "1", "--json", "--file", path).stdout)
    assert list(alone["models"]) == [name]
    assert alone["models"][name]["probability"] == pytest.approx(together["models"][name]["probability"], abs=1e-5)


@pytest.mark.parametrize("script", ["train_ml.py", "compare_models.py", "extract_features.py"])
def test_stage_without_its_input_says_what_to_do(tmp_path, script):
    finished = run(tmp_path, script)
    assert finished.returncode == 1 and finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert "extract_features.py" in finished.stderr or "--audio" in finished.stderr
    assert not list(tmp_path.rglob("*.p*"))


@pytest.fixture
def wrong_places(tmp_path):
    """Where no output can go: {name: (path of a file to write, what the sentence says)}."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    places = {"a folder": (tmp_path / "folder", f"{tmp_path}/folder: is a folder"),
              "below a file": (tmp_path / "file/x", f"{tmp_path}/file: the folder cannot be made (File exists)")}
    if sys.platform == "linux":
        places["in /proc"] = ("/proc/x", "/proc: no file can be made")
        places["below /proc"] = ("/proc/x/x", "/proc/x: the folder cannot be made")
    yield places
    assert (tmp_path / "file").read_text() == "mine" and list((tmp_path / "folder").iterdir()) == []


def test_output_that_cannot_be_written_is_refused_before_any_work(tiny_data_set, wrong_places, tmp_path, monkeypatch):
    import compare_models
    import train_ml

    def work(*_):
        raise AssertionError("worked in vain")

    for module, name in ((extract_features, "download"), (extract_features, "group_identical_clips"), (train_ml, "train_all"),
                         (compare_models, "train_missing")):
        monkeypatch.setattr(module, name, work)
    monkeypatch.setattr(compare_models, "SIDES", {"A": ("source-0",), "B": ("source-1",)})
    write_artifacts(tmp_path / "made")
    made = ["--features", str(tmp_path / "made/audio_features.csv"), "--data", str(tmp_path / "made/data")]
    tiny = ["--audio", str(tiny_data_set / "described")]
    for where, (path, says) in wrong_places.items():
        folder = os.path.dirname(path)
        runs = [(extract_features, [*tiny, "--csv", str(path), "--data", str(tmp_path / "new")]),
                (extract_features, ["--download", "esc50", "--csv", str(path), "--data", str(tmp_path / "new")])]
        if where != "a folder":  # its parent is one to write into
            runs += [(extract_features, [*tiny, "--csv", str(tmp_path / "new/a.csv"), "--data", folder]),
                     (train_ml, [*made, "--models", folder]), (compare_models, [*made, "--models", folder, "--transfer"]),
                     (compare_models, [*made, "--models", folder, "--cross-validate", "3"])]
        for stage, options in runs:
            with pytest.raises(ArtifactError, match=re.escape(says)) as refused:
                stage.main(options)
            assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("new/*"))


def test_table_of_stage_1_does_not_replace_a_recording(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        extract_features.main(["--audio", str(tmp_path), "--csv", str(tmp_path / "1.WAV"), "--data", str(tmp_path)])
    assert caught.value.code == 2 and "1.WAV: has the ending of a recording" in capsys.readouterr().err


@pytest.mark.parametrize("number, traced", [(errno.EEXIST, False), (errno.ENOTDIR, False), (errno.EISDIR, False),
                                            (errno.ENOENT, True)])
def test_file_where_a_folder_is_meant_is_one_line(number, traced, monkeypatch):
    """A file that is missing where we read it is a mistake of ours, and keeps its stack trace."""
    monkeypatch.setattr("utils.artifacts.signal.signal", lambda *_: None)

    def stage():
        raise OSError(number, "not so", "models")

    with pytest.raises(FileNotFoundError if traced else SystemExit) as caught:
        run_stage(stage)
    assert traced or caught.value.code == "error: not so: models"


def test_stage_refuses_artifacts_of_other_settings(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("Converted*", "ESC*", "models"))
    manifest = json.loads((copy / "data/manifest.json").read_text())
    manifest["settings"]["hop"] = 256
    (copy / "data/manifest.json").write_text(json.dumps(manifest))
    finished = run(copy, "train_cnn.py")
    assert finished.returncode == 1
    assert finished.stderr == "error: data was made with other signal settings: run python extract_features.py again\n"


@pytest.mark.parametrize("scripts, unwanted", [
    ("train_ml, train_cnn, train_cnn_mel, train_cnn_lstm", "librosa soundfile soxr audioread"),  # they read artifacts only
    ("extract_features", "librosa scipy.signal pandas sklearn torch"),  # every worker process pays for its imports
    ("main, inference_svm, inference_cnn", "librosa pandas matplotlib seaborn torchaudio torch sklearn"),  # they start at once
])
def test_scripts_do_not_import_what_they_do_not_need(scripts, unwanted):
    code = f"import sys, {scripts}; print(*set(sys.modules) & set({unwanted.split()!r}))"
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True)
    assert finished.returncode == 0 and finished.stdout.strip() == "", finished.stderr


def test_skipped_clips_take_no_part_in_anything(tmp_path, capsys):
    """A clip of no length and one of silence are neither split nor mixed into others, and are not counted."""
    for number in range(4):
        for label, make in (("scream", synthetic_scream), ("non_scream", synthetic_sound)):
            path = tmp_path / label / f"{number * 100}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, make(np.random.default_rng(number), 22050, 1.0), 22050)
    (tmp_path / "non_scream/rain").mkdir()  # ambience, which is mixed in as noise too
    soundfile.write(tmp_path / "non_scream/rain/900.wav", [0.5], 48000)  # no sample at 22,050 Hz
    soundfile.write(tmp_path / "non_scream/rain/950.wav", np.zeros(22050), 22050)
    options = ["--audio", str(tmp_path), "--csv", str(tmp_path / "features.csv"), "--data", str(tmp_path / "data"),
               "--jobs", "1", "--signals", "0"]
    assert extract_features.main(options) == 0
    skipped = capsys.readouterr().err
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    assert manifest["clips"] == 8 and len(manifest["failures"]) == 2 and skipped.count("skipped: ") == 2
    with open(tmp_path / "data/augmented_features.csv", newline="") as file:
        assert not [row for row in csv.DictReader(file) if "rain" in row["file"] + row["group"] + row["mix_group"]]
    with open(tmp_path / "data/noise_features.csv", newline="") as file:
        assert list(csv.DictReader(file)) == []
    for path in (tmp_path / "non_scream/rain").iterdir():
        path.unlink()
    assert extract_features.main(options) == 0
    assert json.loads((tmp_path / "data/manifest.json").read_text()) == manifest | {"failures": []}, "the same fingerprint"


@pytest.mark.slow
def test_stage_1_gives_the_same_bytes_twice(folder, tmp_path):
    run_well(folder, "extract_features.py", "--jobs", "2", "--signals", "5",
             "--csv", tmp_path / "audio_features.csv", "--data", tmp_path / "data")
    for name in ("audio_features.csv", "data/cnn_spectrograms.npy", "data/augmented_features.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_near_copies_stay_on_one_side_of_the_split(tmp_path):
    """The same sounds again, quieter, as FLAC and under names far away: neither the bytes nor the names say so."""
    for number in range(24):
        label, make = (("scream", synthetic_scream), ("non_scream", synthetic_sound))[number % 2]
        samples = make(np.random.default_rng(number), 22050, 1.0)
        (tmp_path / label).mkdir(exist_ok=True)
        soundfile.write(tmp_path / label / f"{number * 100}.wav", samples, 22050)
        soundfile.write(tmp_path / label / f"{number * 100 + 50}.flac", 0.6 * samples, 22050)
    said = run_well(tmp_path, "extract_features.py", "--audio", ".", "--jobs", "1", "--signals", "1").stdout
    assert "24 groups joined to others" in said
    with open(tmp_path / "audio_features.csv", newline="") as file:
        about = {os.path.splitext(os.path.basename(row["file"]))[0]: (row["group"], row["split"]) for row in csv.DictReader(file)}
    assert all(about[str(number * 100)] == about[str(number * 100 + 50)] for number in range(24))
    assert len({group for group, _ in about.values()}) == 25  # with that of the signal
    assert {split for _, split in about.values()} == {"train", "validation", "test"}
    with open(tmp_path / "data/augmented_features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} | {row["mix_group"] for row in rows} == {group for group, _ in about.values()}


def test_stage_1_lets_its_processes_end(tiny_data_set, tmp_path, monkeypatch):
    ended = []

    def parallel(*args, **kwargs):
        def run_all(tasks):
            for function, positional, named in tasks:
                yield function(*positional, **named)
            ended.append("ended")
        return run_all

    monkeypatch.setattr(extract_features, "Parallel", parallel)
    status = extract_features.main(["--audio", str(tiny_data_set / "described"), "--signals", "2",
                                    "--csv", str(tmp_path / "audio_features.csv"), "--data", str(tmp_path)])
    assert status == 0 and len(ended) == 4  # clips, signals, scenes, noise: none broken off, which costs a third of a second


def test_folders_that_overlap_give_the_artifacts_of_one(tiny_data_set, tmp_path, capsys):
    folder, made = str(tiny_data_set / "described"), []
    for words in (["--audio", folder], ["--audio", folder, "--audio", folder + "/"]):
        assert extract_features.main([*words, "--csv", str(tmp_path / "features.csv"), "--data", str(tmp_path),
                                      "--jobs", "1", "--signals", "0", "--no-augment"]) == 0
        made.append((tmp_path / "features.csv").read_bytes() + (tmp_path / "manifest.json").read_bytes())
    said = capsys.readouterr()
    assert made[0] == made[1] and "of 40 clips 20 are files that were found before" in said.err
    assert said.out.endswith(f"\nnext: python train_ml.py --features {tmp_path}/features.csv --data {tmp_path}\n")


@pytest.mark.parametrize("there, lacking", [("scream", "non_scream"), ("non_scream", "scream")])
def test_a_label_that_is_nowhere_is_said_plainly(there, lacking, capsys):
    clips = [Clip(f"{number}.wav", there, "home", str(number), "") for number in range(9)]
    extract_features.warn_of_missing_parts(clips, split_clips(clips, seed=0))
    said = capsys.readouterr().err
    assert said.startswith(f"note: there are no {lacking} clips at all") and said.count("\n") == 1 and "block" not in said


def test_clips_whose_names_are_not_text_and_that_make_no_split(tmp_path):
    """Clips numbered in a row count as one recording: nothing is left to test on, and the stages say so."""
    rng, odd = np.random.default_rng(0), os.fsdecode(b"caf\xe9-1.wav")
    for label in ("scream", "non_scream"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for name in (f"{label}_1.wav", f"{label}_2.wav", f"{label}_3.wav", odd):
            soundfile.write(os.fsencode(tmp_path / "set" / label / name), 0.1 * rng.standard_normal(22050), 22050)
    said = run_well(tmp_path, "extract_features.py", "--audio", "set", "--jobs", "1", "--signals", "0").stderr
    assert "note: no scream clips for test, no non_scream clips for test" in said and "a column group" in said
    with open(tmp_path / "audio_features.csv", encoding="utf-8", errors="surrogateescape") as table:
        assert sum(row["file"].endswith(odd) for row in csv.DictReader(table)) == 2
    assert "SVM: too few recordings to tune it by" in run_well(tmp_path, "train_ml.py", "--jobs", "1").stdout
    for name in NETWORKS:
        run_well(tmp_path, f"train_{name}.py", *SHORT)
    finished = run(tmp_path, "compare_models.py")
    assert finished.returncode == 1 and "no clips to test on" in finished.stderr and "Traceback" not in finished.stderr
