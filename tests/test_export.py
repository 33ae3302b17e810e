"""ONNX files that say what torch says, and a front end from which a stranger can compute the same spectrograms."""

import json

import numpy as np
import pytest
import torch
from synthetic_artifacts import train_all_models, write_artifacts

import inference_svm
import main
from utils.artifacts import ArtifactError, sha256_of
from utils.audio import WINDOW, clean_window
from utils.dataset import audio_files
from utils.ensemble import NETWORK_FILES, load_ensemble
from utils.features import describe_window, mel_edges
from utils.networks import NETWORKS

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
    import onnxruntime

    described = [describe_window(noise_window(seed)) for seed in range(n)]
    spectrograms = np.stack([part[1 if NETWORKS[name][1] == "stft" else 2] for part in described])
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
        assert model["calibration"] == report["calibration"] and model["input"] == NETWORKS[name][1]
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
