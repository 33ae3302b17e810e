"""ONNX files that say what torch says, and a front end from which a stranger can compute the same spectrograms."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from synthetic_artifacts import train_all_models, write_artifacts

import inference_cnn
import inference_svm
import main
from utils.artifacts import REPOSITORY, ArtifactError, sha256_of
from utils.audio import WINDOW, clean_window
from utils.dataset import audio_files
from utils.ensemble import (CLASSICAL_FILES, MODEL_NAMES, NETWORK_FILES, NETWORK_INPUTS, OnnxNetwork, import_onnxruntime,
                            load_ensemble)
from utils.features import describe_window, mel_edges

ABSENT = "onnx and onnxruntime are not installed (requirements-dev.txt names them)"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return train_all_models(write_artifacts(folder / "made"), folder / "models")


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    pytest.importorskip("onnx", reason=ABSENT)
    pytest.importorskip("onnxruntime", reason=ABSENT)
    folder = tmp_path_factory.mktemp("onnx")
    assert main.main(["--export", "onnx", str(folder), "--models", str(models)]) == 0
    return folder


def noise_window(seed):
    rng = np.random.default_rng(seed)
    return clean_window((0.1 * rng.standard_normal(WINDOW) * np.sin(np.arange(WINDOW) / (50 + 400 * seed))).astype(np.float32))


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("name", NETWORK_FILES)
def test_onnxruntime_says_what_torch_says_for_any_number_of_windows(exported, models, name, n):
    onnxruntime = import_onnxruntime()
    described = [describe_window(noise_window(seed)) for seed in range(n)]
    spectrograms = np.stack([part[1 if NETWORK_INPUTS[name] == "stft" else 2] for part in described])
    session = onnxruntime.InferenceSession(str(exported / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = load_ensemble(models, (name,), "cpu").networks[name](torch.from_numpy(spectrograms)).numpy()
    logit = session.run(None, {"spectrogram": spectrograms})[0]
    assert logit.shape == (n,) and np.abs(logit - expected).max() < 1e-4
    assert session.get_inputs()[0].shape[1:] == [128, 128]


def test_real_windows(models, tmp_path, real_audio):
    """The export itself refuses a difference above 1e-4 on the recordings that it is given."""
    pytest.importorskip("onnx", reason=ABSENT)
    pytest.importorskip("onnxruntime", reason=ABSENT)
    recordings = [path for label in ("scream", "non_scream") for path in audio_files(real_audio / label)[::40][:12]]
    assert main.main(["--export", "onnx", str(tmp_path), "--models", str(models), "--file", *recordings]) == 0
    assert json.loads((tmp_path / "front_end.json").read_text())["checked_on_windows"] >= 8


def test_front_end_alone_is_enough_to_compute_the_inputs(exported):
    """Straight from the JSON: STFT by its definition, bands, filterbank from its edges, decibels."""
    front_end = json.loads((exported / "front_end.json").read_text())
    stft, rate = front_end["stft"], front_end["sample_rate_hz"]
    window = noise_window(1)
    padded = np.pad(window.astype(float), stft["n_fft"] // 2)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(stft["n_fft"]) / stft["n_fft"])
    frames = [padded[i * stft["hop"]:][: stft["n_fft"]] * hann for i in range(stft["frames"])]
    power = np.abs(np.fft.rfft(frames)) ** stft["power"]
    edges = np.array(front_end["inputs"]["mel"]["edges_hz"])
    frequency = np.arange(power.shape[1]) * rate / stft["n_fft"]
    triangles = [np.interp(frequency, edges[i : i + 3], [0, 2 / (edges[i + 2] - edges[i]), 0]) for i in range(len(edges) - 2)]
    bands = [power[:, 8 * i : 8 * i + (8 if i < 127 else 9)].mean(axis=1) for i in range(128)]

    def decibels(values):
        return 10 * np.log10(np.maximum(values, front_end["decibels"]["floor"]) / front_end["decibels"]["reference"])

    _, stft_db, mel_db = describe_window(window)
    assert np.abs(decibels(np.array(bands)) - stft_db).max() < 0.01
    assert np.abs(decibels(np.array(triangles) @ power.T) - mel_db).max() < 0.01
    assert len(mel_edges()) == len(edges) and front_end["window_samples"] == WINDOW


def test_front_end_names_files_and_calibrations(exported, models):
    front_end = json.loads((exported / "front_end.json").read_text())
    assert list(front_end["models"]) == list(NETWORK_FILES)
    for name, model in front_end["models"].items():
        report = json.loads((models / NETWORK_FILES[name]).with_suffix(".json").read_text())
        assert model["calibration"] == report["calibration"] and model["input"] == NETWORK_INPUTS[name]
        assert model["sha256"] == sha256_of(exported / model["file"])
        assert 0 <= model["logit_difference_from_torch"] <= 1e-4


def test_a_difference_is_an_error_and_leaves_no_network(models, tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason=ABSENT)
    pytest.importorskip("onnxruntime", reason=ABSENT)
    from utils import export

    monkeypatch.setattr(export, "largest_difference", lambda *_: 2e-4)
    with pytest.raises(ArtifactError, match=r"differ by 0\.0002"):
        main.main(["--export", "onnx", str(tmp_path), "--models", str(models)])
    assert not list(tmp_path.glob("*.onnx"))


def test_missing_packages_are_one_sentence(models, tmp_path, hide_packages):
    hide_packages("onnx", "onnxruntime")
    with pytest.raises(ArtifactError, match="pip install onnx onnxruntime"):
        main.main(["--export", "onnx", str(tmp_path), "--models", str(models)])


def test_missing_network_is_named_and_the_others_are_written(models, tmp_path, capsys):
    pytest.importorskip("onnx", reason=ABSENT)
    pytest.importorskip("onnxruntime", reason=ABSENT)
    import shutil

    fewer = shutil.copytree(models, tmp_path / "models")
    (fewer / NETWORK_FILES["cnn_mel"]).unlink()
    assert main.main(["--export", "onnx", str(tmp_path / "out"), "--models", str(fewer)]) == 1
    assert "cnn_mel is not exported" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cnn.onnx", "cnn_lstm.onnx", "front_end.json"]


@pytest.fixture
def folder(exported, models, tmp_path):
    """Models with their networks exported beside them."""
    import shutil

    made = shutil.copytree(models, tmp_path / "models")
    shutil.copytree(exported, made, dirs_exist_ok=True)
    return made


def test_exported_networks_vote_as_torch_does_and_score_each_window_on_its_own(folder):
    windows = np.stack([noise_window(seed) for seed in range(11)])
    ensemble, torchs = load_ensemble(folder), load_ensemble(folder, onnx=False)
    assert ensemble.runtime == "onnxruntime" and torchs.runtime == "torch" and ensemble.names == torchs.names
    probabilities = ensemble.score(windows)
    assert np.abs(probabilities - torchs.score(windows)).max() < 1e-4
    for index in (0, 7, 10):
        assert np.array_equal(ensemble.score(windows[index : index + 1])[0], probabilities[index])
    assert ensemble.score(windows[:0]).shape == (0, 6)


def test_onnxruntime_collects_nothing_about_its_users(folder, tmp_path):
    """Its published builds write an identity of the machine and what they saw of it into the home folder, to send it later."""
    home = tmp_path / "home"
    home.mkdir()
    nothing_set = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    subprocess.run([sys.executable, "main.py", "--json", "--file", "data/examples/scream.wav", "--models", folder,
                    "--trust-models"], cwd=REPOSITORY, env=nothing_set | {"HOME": str(home)}, check=True)
    assert not list(home.rglob("*"))


def test_main_then_runs_without_torch(folder):
    options = ["--json", "--models", str(folder), "--file", "data/examples/scream.wav"]
    code = f"import sys, main; sys.exit(main.main({options!r}) or 'torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stderr
    assert list(json.loads(finished.stdout)["models"]) == list(MODEL_NAMES)


def break_network(folder):
    """Another weight: still a network that onnxruntime would run."""
    content = bytearray((folder / "cnn_mel.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    OnnxNetwork(bytes(content))
    (folder / "cnn_mel.onnx").write_bytes(content)


def break_network_and_its_hash(folder):
    (folder / "cnn_mel.onnx").write_bytes(b"not a network")
    change_front_end(folder, "sha256", sha256_of(folder / "cnn_mel.onnx"))


def change_front_end(folder, key, value):
    front_end = json.loads((folder / "front_end.json").read_text())
    front_end["models"]["cnn_mel"][key] = value
    (folder / "front_end.json").write_text(json.dumps(front_end))


@pytest.mark.parametrize("damage", [
    break_network, break_network_and_its_hash, lambda folder: change_front_end(folder, "weights_sha256", "0" * 64),
    lambda folder: (folder / "cnn.onnx").unlink(), lambda folder: (folder / "front_end.json").write_text("[]"),
    lambda folder: (folder / "front_end.json").write_text("{"), lambda folder: (folder / "front_end.json").unlink(),
], ids=["changed", "garbage with its hash", "of other weights", "one is missing", "a list", "no JSON", "no front end"])
def test_an_export_that_does_not_fit_is_left_alone(folder, damage, capfd):
    damage(folder)
    ensemble = load_ensemble(folder)
    assert ensemble.runtime == "torch" and len(ensemble.names) == 6 and not ensemble.missing
    note = capfd.readouterr().err
    assert note.count("\n") == (folder / "front_end.json").exists() and "onnxruntime:" not in note


def test_workers_do_not_repeat_the_note(folder):
    break_network(folder)
    recordings = audio_files(pathlib.Path(REPOSITORY, "data", "examples"))[:2]
    command = [sys.executable, "main.py", "--models", str(folder), "--jobs", "2", "--threads", "1", "--file", *recordings]
    finished = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert finished.returncode == 0 and finished.stderr.count("note: ") == 1, finished.stderr


def test_the_committed_networks_are_exported_from_the_committed_weights(capsys):
    models = pathlib.Path(REPOSITORY) / "models"
    assert load_ensemble(models, tuple(NETWORK_FILES)).runtime == "onnxruntime" and not capsys.readouterr().err
    for name, model in json.loads((models / "front_end.json").read_text())["models"].items():
        assert model["calibration"] == json.loads((models / NETWORK_FILES[name]).with_suffix(".json").read_text())["calibration"]


def test_beside_the_models_lie_all_exported_networks_or_none(folder):
    before = (folder / "front_end.json").read_bytes()
    with pytest.raises(ArtifactError, match="all networks or none"):
        inference_cnn.main(["--export", "onnx", str(folder), "--models", str(folder)])
    assert (folder / "front_end.json").read_bytes() == before


def test_without_onnxruntime_torch_does_it(folder, hide_packages):
    hide_packages("onnxruntime")
    assert load_ensemble(folder).runtime == "torch"


def test_without_onnxruntime_and_torch_the_classical_models_vote_and_the_networks_say_what_they_need(folder, hide_packages):
    hide_packages("onnxruntime", "torch")
    ensemble = load_ensemble(folder)
    assert ensemble.names == list(CLASSICAL_FILES) and set(ensemble.missing) == set(NETWORK_FILES)
    assert all("neither torch" in why and "pip install torch" in why for why in ensemble.missing.values())
    with pytest.raises(ArtifactError, match="--device cuda needs torch"):
        load_ensemble(folder, device="cuda")


def test_a_gpu_that_is_asked_for_is_not_replaced_by_onnxruntime(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ArtifactError, match="no CUDA device"):
        load_ensemble(folder, device="cuda")


def test_a_network_without_its_weights_does_not_vote_though_it_is_exported(folder):
    (folder / NETWORK_FILES["cnn_mel"]).unlink()
    ensemble = load_ensemble(folder)
    assert ensemble.runtime == "onnxruntime" and list(ensemble.missing) == ["cnn_mel"] and "cnn_mel" not in ensemble.names


def test_a_script_without_networks_says_so(tmp_path):
    pytest.importorskip("onnx", reason=ABSENT)
    pytest.importorskip("onnxruntime", reason=ABSENT)
    with pytest.raises(ArtifactError, match="no network to export"):
        inference_svm.main(["--export", "onnx", str(tmp_path)])


@pytest.mark.parametrize("options", [["--export", "tflite", "x"], ["--export", "onnx"], ["--export", "onnx", "x", "--file", "-"]])
def test_wrong_options(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(options)
    assert stopped.value.code == 2 and "--export" in capsys.readouterr().err
