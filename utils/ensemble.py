"""Load the six models safely, score windows with them, and let them vote."""

import hashlib
import io
import math
import multiprocessing
import os
import sys
from importlib import metadata

import numpy as np

from utils.artifacts import ArtifactError, is_listed, read_json
from utils.calibration import from_log_odds, log_odds, probability_of
from utils.features import SIGNAL_SETTINGS, describe_windows
from utils.noise_level import read_noise_level

# model name -> file in models/ and the stage that makes it
CLASSICAL_FILES = {"svm": "svm_esc50_pipeline.pkl", "random_forest": "random_forest_esc50_pipeline.pkl",
                   "logistic_regression": "logistic_esc50_pipeline.pkl"}
NETWORK_FILES = {"cnn": "cnn_model.pth", "cnn_mel": "cnn_mel_model.pth", "cnn_lstm": "cnn_lstm_model.pth"}
NETWORK_INPUTS = {"cnn": "stft", "cnn_mel": "mel", "cnn_lstm": "mel"}  # which of the two spectrograms each reads
FRONT_END = "front_end.json"  # beside exported networks: their hashes, and the hashes of the weights they were made from
MODEL_FILES = CLASSICAL_FILES | NETWORK_FILES
MODEL_NAMES = tuple(MODEL_FILES)
ROWS = 4  # matrix products take rows in fours and round left-over ones differently: a window's score must not depend on
# how many are scored with it
NETWORK_BATCH = {"cpu": 2, "cuda": 32}  # windows that a network takes at a time, always exactly so many: the same arithmetic
# for each window; on a CPU 2 take no longer each than 8 (32 take half as long again), and a stream brings one at a time

LEAST_PROBABILITY = 0.001  # of one model in the pooled probability


def training_command(name):
    return f"python train_{name}.py" if name in NETWORK_FILES else "python train_ml.py"


def forest_share(pipeline, features):
    """Mean share of a leaf's screams over the trees of a random forest, float64 [n].

    The same as pipeline.predict_proba(features)[:, 1], which takes nine times as long for a few windows: scikit-learn sets up
    its configuration and warnings anew for each tree.
    """
    prepared = pipeline[:-1].transform(features).astype(np.float32, copy=False)
    trees = pipeline[-1].estimators_
    return sum(tree.tree_.predict(prepared)[:, 1] for tree in trees) / len(trees)


def classical_score(pipeline, features):
    """Raw score [n] of a scikit-learn pipeline: its decision function, or the log-odds of a forest's vote share."""
    if hasattr(pipeline, "decision_function"):
        return pipeline.decision_function(features)
    is_pipeline = hasattr(pipeline, "steps")  # as train_ml.py writes it
    share = forest_share(pipeline, features) if is_pipeline else pipeline.predict_proba(features)[:, 1]
    return log_odds(share, 0.002)


def read_verified(models_dir, name):
    """(path, bytes, JSON) of a model whose bytes have the hash that its JSON says. Raises ArtifactError."""
    path = os.path.join(models_dir, MODEL_FILES[name])
    json_path, command = os.path.splitext(path)[0] + ".json", training_command(name)
    report = read_json(json_path, command)
    if not os.path.isfile(path):
        raise ArtifactError(f"{path} is missing: run {command} first")
    calibration = report.get("calibration")
    if (not {"model", "sha256"} <= report.keys() or not isinstance(calibration, dict)
            or not all(isinstance(report.get(name), dict) for name in ("settings", "versions"))
            or not all(isinstance(calibration.get(name), (int, float)) and math.isfinite(calibration[name])
                       for name in ("threshold", "slope"))):
        raise ArtifactError(f"{json_path} does not describe a model: run {command} again")
    with open(path, "rb") as file:
        content = file.read()  # once: what is checked is what is loaded
    if hashlib.sha256(content).hexdigest() != report["sha256"] or report["model"] != name:
        raise ArtifactError(f"{path} is not the file that its JSON describes (tampered with, truncated or swapped): "
                            f"run {command} again")
    if report["settings"].get("signal") != SIGNAL_SETTINGS:
        raise ArtifactError(f"{path} was trained with other signal settings: run {command} again")
    return path, content, report


def load_classical(models_dir, name, trust_unlisted):
    """A scikit-learn pipeline, unpickled only if its hash is listed and the scikit-learn version fits."""
    import joblib

    path, content, report = read_verified(models_dir, name)
    if not trust_unlisted and not is_listed(report["sha256"]):
        raise ArtifactError(f"{path} neither came with this project nor was trained here; unpickling it could run anything, "
                            "so it is refused (--trust-models accepts it)")
    made_with, installed = report["versions"].get("scikit-learn"), metadata.version("scikit-learn")
    if made_with != installed:
        raise ArtifactError(f"{path} was made with scikit-learn {made_with}, installed is {installed}: "
                            "install that version or run python train_ml.py")
    try:
        return joblib.load(io.BytesIO(content)), report
    except Exception as error:  # what a pickle can raise has no end
        raise ArtifactError(f"{path} cannot be unpickled ({type(error).__name__}): run python train_ml.py again") from None


def choose_torch_device(device, threads):
    """The device of torch, "cuda" or "cpu", for a wish of "auto", "cuda" or "cpu".

    threads: of windows scored side by side, for which torch computes on one thread each; None leaves that to torch.
    On a GPU, too, convolutions are then computed in float32: TF32, which torch allows them, moves logits by up to 0.007.
    Raises ArtifactError if there is no torch, or no GPU where one is asked for.
    """
    try:
        import torch
    except ImportError:
        why = ("--device cuda needs torch" if device == "cuda" else
               "neither torch is installed, nor onnxruntime with exported networks that fit the weights")
        raise ArtifactError(f"{why}: pip install torch==2.11.0") from None
    if threads:
        torch.set_num_threads(1)
    if device == "cuda" and not torch.cuda.is_available():
        raise ArtifactError("--device cuda: torch sees no CUDA device; use --device cpu or auto")
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def load_network(path, content, name, device):
    """A network of torch in evaluation mode; only plain weights are read, and they must fit it."""
    import pickle

    import torch

    from utils.networks import build_network

    network = build_network(name)
    try:
        network.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    except (RuntimeError, TypeError, ValueError, pickle.UnpicklingError, EOFError):
        raise ArtifactError(f"{path} does not hold the weights of this network: run {training_command(name)} again") from None
    return network.eval().to(device, memory_format=torch.channels_last)


def import_onnxruntime():
    """The module onnxruntime, without the usage data that its published builds send to Microsoft. Raises ImportError."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the module is imported: later there is no way to send nothing
    import onnxruntime

    return onnxruntime


class OnnxNetwork:
    """A network as onnxruntime runs it, on one thread: spectrograms float32 [n, 128, 128] -> logits [n]."""

    def __init__(self, content):
        """content: bytes of an ONNX file, so that no other file is read."""
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; they need not be printed as well
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # utils.scan scores batches side by side
        self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def __call__(self, spectrograms):
        return self.session.run(None, {"spectrogram": spectrograms})[0]


def load_exported_networks(models_dir, weights):
    """The networks as ONNX, if `main.py --export onnx` has put all of them into this folder: {name: OnnxNetwork}, else {}.

    weights: {name: SHA-256 of its weights}. A file that is changed, or was exported from other weights, is as good as
    none: torch reads the weights then. So does it without onnxruntime.
    """
    path, networks = os.path.join(models_dir, FRONT_END), {}
    if not weights or not os.path.isfile(path):
        return {}
    try:
        models = read_json(path, "python main.py --export onnx")["models"]
        for name, digest in weights.items():
            with open(os.path.join(models_dir, f"{name}.onnx"), "rb") as file:
                content = file.read()
            if (hashlib.sha256(content).hexdigest(), digest) != (models[name]["sha256"], models[name]["weights_sha256"]):
                raise ArtifactError(f"{name}.onnx does not fit")
            networks[name] = OnnxNetwork(content)
    except Exception:  # not there, not readable, not understood (onnxruntime raises many types): torch is always right
        networks = {}
    if not networks and multiprocessing.current_process().name == "MainProcess":  # a worker of --jobs would only repeat it
        print(f"note: {path} is there, but onnxruntime is not, or the networks do not fit the weights: torch reads those "
              f"(python main.py --export onnx {models_dir} renews the networks)", file=sys.stderr)
    return networks


def in_batches(spectrograms, size):
    """Arrays of exactly `size` windows from [n, 128, 128]; the last one is filled up with copies of the last window."""
    full = len(spectrograms) // size * size
    parts = np.split(spectrograms[:full], full // size) if full else []
    if full < len(spectrograms):
        last = spectrograms[full:]
        parts.append(np.concatenate([last, np.repeat(last[-1:], size - len(last), axis=0)]))
    return parts


class Ensemble:
    """The loaded models. `names` in voting order; `missing` says for each absent model why and how to train it."""

    def __init__(self, classical, networks, reports, missing, device, threads=1, noise=None):
        """noise: utils.noise_level.NoiseLevel, or None where there is none."""
        self.noise = noise
        self.classical, self.networks, self.reports, self.threads = classical, networks, reports, threads
        self.calibrations = {name: report["calibration"] for name, report in reports.items()}
        self.missing, self.device = missing, device
        self.names = [name for name in MODEL_NAMES if name in reports]
        exported = any(isinstance(network, OnnxNetwork) for network in networks.values())
        self.runtime = "onnxruntime" if exported else "torch" if networks else ""

    @property
    def weights(self):
        """Eight digits that stand for the files of these models: scores of the same eight come from the same weights."""
        return hashlib.sha256("".join(self.reports[name]["sha256"] for name in self.names).encode()).hexdigest()[:8]

    def only(self, name):
        """The same with one model alone."""
        classical = {name: self.classical[name]} if name in self.classical else {}
        networks = {name: self.networks[name]} if name in self.networks else {}
        return Ensemble(classical, networks, {name: self.reports[name]}, {}, self.device, noise=self.noise)

    def score(self, windows):
        """Cleaned windows (n of float32 [65,024]) -> probabilities [n, n_models]; 0.5 is a model's operating point."""
        return self.score_described(*describe_windows(windows))

    def score_described(self, features, stft_db, mel_db):
        """As score, from features [n, 34], STFT and mel-spectrograms [n, 128, 128] in dB."""
        n, raw = len(features), {}
        if n % ROWS:
            features = np.concatenate([features, np.repeat(features[-1:], -n % ROWS, axis=0)])
        for name, pipeline in self.classical.items():
            raw[name] = classical_score(pipeline, features)[:n] if n else np.zeros(0)
        if self.networks:
            raw |= self.network_scores(stft_db, mel_db)
        return np.stack([probability_of(raw[name], self.calibrations[name]) for name in self.names], axis=1)

    def network_scores(self, stft_db, mel_db):
        """Logits [n] of each loaded network."""
        n, size = len(stft_db), NETWORK_BATCH[self.device]
        batches = {kind: in_batches(part, size) for kind, part in (("stft", stft_db), ("mel", mel_db))}
        return {name: np.concatenate([self.logits(network, part) for part in batches[NETWORK_INPUTS[name]]])[:n].astype(float)
                if n else np.zeros(0) for name, network in self.networks.items()}

    def logits(self, network, spectrograms):
        """Logits [n] of one network for spectrograms float32 [n, 128, 128]."""
        if isinstance(network, OnnxNetwork):
            return network(spectrograms)
        import torch

        with torch.inference_mode():
            return network(torch.from_numpy(spectrograms).to(self.device)).float().cpu().numpy()

    def combine(self, probabilities):
        """Vote: probabilities [n, n_models] -> (ensemble probability [n], votes int [n], verdict bool [n])."""
        return combine(probabilities)


def pool_looks(probabilities):
    """Each model's mean log-odds over several looks at a window, as probabilities: [..., looks, n_models] -> [..., n_models]."""
    return from_log_odds(log_odds(np.asarray(probabilities, float), LEAST_PROBABILITY).mean(axis=-2))


def verdict_in_noise(heard, shift):
    """Majority of the models, their log-odds raised by `shift`: heard float [n_models], see pool_looks. Returns bool."""
    return bool(combine(from_log_odds(log_odds(heard) + shift)[None])[2][0])


def combine(probabilities):
    """Vote of the models on n windows: probabilities [n, n_models] -> (probability [n], votes int [n], verdict bool [n]).

    The probability is the mean of the models' log-odds, as a probability again (a logarithmic opinion pool, Genest and
    Zidek 1986): it ranks better on unseen collections than the mean of the probabilities (models/EXPERIMENTS.md), in
    which a model that is sure counts no more than one that is not. No single model counts for more than odds of 1:1000.
    The verdict is the majority; a tie is decided by that probability.
    """
    probabilities = np.asarray(probabilities, float)
    pooled = from_log_odds(log_odds(probabilities, LEAST_PROBABILITY).mean(axis=1))
    votes = (probabilities >= 0.5).sum(axis=1)
    others = probabilities.shape[1] - votes
    return pooled, votes, (votes > others) | ((votes == others) & (pooled >= 0.5))


def load_ensemble(models_dir="models", names=MODEL_NAMES, device="auto", threads=None, trust_unlisted=False, onnx=True):
    """Load the named models from a folder. A model that cannot be used goes to `missing`; none at all raises ArtifactError.

    device: "cpu", "cuda" or "auto". Unless it is "cuda", or `onnx` is False, onnxruntime runs the networks if they lie
    there exported, on the CPU: importing torch takes longer, and more memory, than all the rest.
    threads: batches of windows that utils.scan scores at the same time, each on one thread, so that no score depends on
    their number; None leaves the threads of torch as they are.
    """
    if not os.path.isdir(models_dir):
        raise ArtifactError(f"{models_dir}: no such folder of models; python train_ml.py and the other training scripts make one")
    classical, files, reports, missing = {}, {}, {}, {}
    for name in names:
        try:
            if name in CLASSICAL_FILES:
                classical[name], reports[name] = load_classical(models_dir, name, trust_unlisted)
            else:
                path, content, reports[name] = read_verified(models_dir, name)
                files[name] = path, content
        except ArtifactError as error:
            missing[name] = str(error)
    use_exported = onnx and device != "cuda"
    networks = load_exported_networks(models_dir, {name: reports[name]["sha256"] for name in files}) if use_exported else {}
    used_device = "cpu"
    if device == "cuda" and set(names) & set(NETWORK_FILES):
        used_device = choose_torch_device(device, threads)
    for name, (path, content) in files.items() if not networks else ():
        try:
            used_device = choose_torch_device(device, threads)
            networks[name] = load_network(path, content, name, used_device)
        except ArtifactError as error:
            missing[name] = str(error)
            del reports[name]
    if not reports:
        raise ArtifactError("; ".join(missing.values()))
    return Ensemble(classical, networks, reports, missing, used_device, threads or 1, read_noise_level(models_dir))
