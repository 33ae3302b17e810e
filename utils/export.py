"""The three networks as ONNX, and all that another program needs to feed them: the front end as JSON."""

import os
import warnings

import numpy as np

from utils.artifacts import ArtifactError, atomic_path, sha256_of, write_json
from utils.audio import MAX_SAMPLE, MIN_PERIOD, clean_window, cut_windows, read_blocks
from utils.dataset import audio_files
from utils.ensemble import FRONT_END, NETWORK_FILES, NETWORK_INPUTS, OnnxNetwork, import_onnxruntime, load_ensemble
from utils.features import (AMIN, BAND_BINS, FEATURE_NAMES, HOP, N_BANDS, N_FFT, N_MELS, describe_windows, mel_edges,
                            mel_filterbank)
from utils.signal_settings import MAX_GAIN, QUIET_PEAK, SAMPLE_RATE, WINDOW, WINDOW_FRAMES, WINDOW_HOP

TOLERANCE = 1e-4  # of a logit, absolute: onnxruntime and torch add up in another order
OPSET = 18
MOST_WINDOWS = 200  # that the check reads


def import_onnx():
    """The module onnx; without it, or without onnxruntime, one sentence that says how to get both."""
    try:
        import onnx

        import_onnxruntime()  # OnnxNetwork needs it
    except ImportError:
        raise ArtifactError("--export onnx needs two packages: pip install onnx onnxruntime") from None
    return onnx


def front_end(calibrations):
    """How samples become spectrograms, and logits probabilities: a dict of numbers, names and one filterbank.

    calibrations: {model name: {"threshold", "slope"}}.
    """
    filterbank = mel_filterbank()
    return {
        "sample_rate_hz": SAMPLE_RATE, "window_samples": WINDOW, "window_hop_samples": WINDOW_HOP,
        "cleaning": {
            "steps": ["NaN, Inf and what lies beyond +-max_sample to 0", "subtract the mean", "divide by max(peak, 1 / max_gain)",
                      "extend a piece shorter than min_period_samples by zeros to that length",
                      "repeat a shorter piece until it fills the window"],
            "max_sample": MAX_SAMPLE, "max_gain": MAX_GAIN, "min_period_samples": MIN_PERIOD,
            "quiet_peak": QUIET_PEAK,
            "quiet": "a window with a lower peak is non_scream without being scored",
        },
        "stft": {"n_fft": N_FFT, "hop": HOP, "frames": WINDOW_FRAMES, "window": "Hann, periodic", "centred": True,
                 "padding": "zeros", "power": 2},
        "decibels": {"formula": "10 * log10(max(power, floor))", "reference": 1.0, "floor": AMIN},
        "inputs": {
            "stft": {"shape": ["n", N_BANDS, WINDOW_FRAMES], "axes": ["window", "band, low to high", "frame"],
                     "bands": f"mean power of {BAND_BINS} bins each, the last one of {BAND_BINS + 1}"},
            "mel": {"shape": ["n", N_MELS, WINDOW_FRAMES], "axes": ["window", "band, low to high", "frame"],
                    "bands": "Slaney mel scale, triangles of equal area over the power of the bins (librosa.filters.mel)",
                    "edges_hz": [round(float(edge), 6) for edge in mel_edges()],
                    "filterbank_shape": list(filterbank.T.shape), "filterbank_sum": round(float(filterbank.sum()), 6)},
        },
        "probability": "1 / (1 + exp(-slope * (logit - threshold))); 0.5 is the operating point",
        "models": {name: {"file": f"{name}.onnx", "input": NETWORK_INPUTS[name], "output": "logit [n]",
                          "calibration": calibrations[name]}
                   for name in calibrations},
        "classical_models": {"features": list(FEATURE_NAMES), "exported": False},
    }


def export_network(network, path):
    """Write one network, its input normalisation included, with a free number of windows."""
    import torch

    example = torch.zeros(1, N_BANDS, WINDOW_FRAMES)  # one: an LSTM traced with more would be tied to that number
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about branches on shapes while tracing; largest_difference checks the outcome
        torch.onnx.export(network, (example,), temporary, opset_version=OPSET, dynamo=False, input_names=["spectrogram"],
                          output_names=["logit"], dynamic_axes={"spectrogram": {0: "n"}, "logit": {0: "n"}})


def largest_difference(network, path, spectrograms):
    """Largest difference between the logits of torch and of onnxruntime, for one window and for all at once."""
    import torch

    with open(path, "rb") as file:
        exported = OnnxNetwork(file.read())
    with torch.inference_mode():
        expected = network(torch.from_numpy(spectrograms)).numpy()
    together, alone = exported(spectrograms), exported(spectrograms[:1])
    return float(max(np.abs(together - expected).max(), np.abs(alone - expected[:1]).max()))


def check_windows(paths):
    """Cleaned windows of recordings and of the recordings in folders: list of float32 [65,024]."""
    windows = []
    for path in [found for given in paths for found in (audio_files(given) if os.path.isdir(given) else [given])]:
        for _, samples in cut_windows(read_blocks(path)):
            window = clean_window(samples)
            if window is not None:
                windows.append(window)
            if len(windows) == MOST_WINDOWS:
                return windows
    return windows


def export_onnx(folder, models_dir, names, recordings):
    """Write the networks among `names` and front_end.json to `folder`, checked on windows of `recordings` (paths).

    Returns ({file name: largest difference of a logit from torch's}, {missing model: why}). Raises ArtifactError without
    the packages, without a network, or when a difference is above 1e-4; a network is then not left there.
    """
    onnx = import_onnx()
    networks = tuple(name for name in names if name in NETWORK_FILES)
    if not networks:
        raise ArtifactError("--export: this script has no network to export; use python main.py --export onnx DIR")
    ensemble = load_ensemble(models_dir, networks, "cpu", threads=1, onnx=False)
    if os.path.realpath(folder) == os.path.realpath(models_dir) and ensemble.networks.keys() != NETWORK_FILES.keys():
        raise ArtifactError(f"--export onnx {folder}: beside the models lie all networks or none; "
                            "use main.py once all three are trained, or another folder")
    windows = check_windows(recordings)
    if not windows:
        raise ArtifactError("--export: no recording to check the networks on; give one with --file")
    _, stft_db, mel_db = describe_windows(windows)
    spectrograms, differences = {"stft": stft_db, "mel": mel_db}, {}
    for name, network in ensemble.networks.items():
        path = os.path.join(folder, f"{name}.onnx")
        export_network(network, path)
        onnx.checker.check_model(path)
        difference = largest_difference(network, path, spectrograms[NETWORK_INPUTS[name]])
        if not difference <= TOLERANCE:
            os.remove(path)
            raise ArtifactError(f"{path}: onnxruntime and torch differ by {difference:.2g} in a logit, more than {TOLERANCE:g}")
        differences[f"{name}.onnx"] = difference
    description = front_end({name: ensemble.calibrations[name] for name in ensemble.networks})
    for name, model in description["models"].items():
        model["sha256"] = sha256_of(os.path.join(folder, model["file"]))
        model["weights_sha256"] = ensemble.reports[name]["sha256"]
        model["logit_difference_from_torch"] = differences[f"{name}.onnx"]
    write_json(os.path.join(folder, FRONT_END), description | {"checked_on_windows": len(windows)})
    return differences, ensemble.missing
