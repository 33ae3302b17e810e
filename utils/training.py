"""The training loop of the three networks: balanced batches, scenes, mixed precision, best weights kept, resumable."""

import ast
import copy
import functools
import io
import math
import os
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from utils.artifacts import (ArtifactError, atomic_path, check_evaluated, check_output, library_versions, read_json, sha256_of,
                             writable, write_json)
from utils.augmentation import CONDITIONS, noisy_copies, random_scenes
from utils.calibration import fit_calibration, probability_of
from utils.dataset import (MEL_NPY, SPLITS, STFT_NPY, add_split_options, check_split_options, choose_split, read_manifest,
                           read_spectrograms, read_windows)
from utils.ensemble import NETWORK_INPUTS, choose_torch_device
from utils.evaluation import clip_figures, highest_window, metrics_of, ranking_figures
from utils.features import SIGNAL_SETTINGS
from utils.figures import empty_figure, save_figure
from utils.networks import build_network

SCREAM_SHARE = 0.25  # of each training batch
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
HELD_IN_MEMORY = 2e9  # bytes of spectrograms; more than this stays on disk, memory-mapped
SHOWN_FIGURES = ("average_precision", "average_precision_in_noise", "roc_auc")  # of validation, after each epoch
LEAST_WEIGHT = 0.02  # of a negative in the loss, before the weights are scaled to mean 1
BFLOAT16, FLOAT32 = "bfloat16 mixed precision", "float32"
PRECISIONS = {"bfloat16": BFLOAT16, "float32": FLOAT32}
AVERAGING = 0.995  # of the exponential moving average of the weights, per step; less at first


def add_training_options(parser, epochs, scenes):
    """The options that the three networks share, with the defaults of one of them."""
    add_split_options(parser)
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--scenes", choices=CONDITIONS, default=scenes,
                        help="how noisy the scenes are that are made from the clips (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="batches per epoch (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--patience", type=int, default=10, help="stop after so many epochs without a better validation figure")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--precision", default="auto", choices=["auto", *PRECISIONS],
                        help="of convolutions in training (default: what is faster here, measured at the start; the model's JSON "
                             "names it, and the same weights again need the same one)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: as torch chooses)")
    parser.add_argument("--restart", action="store_true", help="ignore the checkpoint of an interrupted run")


def check_training_options(parser, args):
    check_split_options(parser, args)
    for name in ("epochs", "steps", "batch_size", "patience"):
        least = 2 if name == "batch_size" else 1  # a scream and another sound: one alone has nothing to differ from
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if args.threads < 0:
        parser.error("--threads must be 0, for as many as torch chooses, or more")


def choose_device(wanted):
    """torch.device for "auto", "cpu" or "cuda"; says which."""
    device = torch.device(choose_torch_device(wanted, threads=None))
    named = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU with {torch.get_num_threads()} threads"
    print(f"device: {named}")
    return device


def cpu_has_bfloat16():
    """Whether bfloat16 convolutions run in hardware; elsewhere emulation makes them slower than float32."""
    return torch.cpu._is_avx512_bf16_supported()


def faster_precision(device):
    """What networks train faster in there: BFLOAT16 or FLOAT32."""
    return BFLOAT16 if device.type == "cuda" or bfloat16_is_faster() else FLOAT32


def autocast(device, precision):
    return torch.amp.autocast(device.type, torch.bfloat16, enabled=precision == BFLOAT16)


@functools.cache
def bfloat16_is_faster():
    """Whether this CPU trains a convolution faster in bfloat16 than in float32, measured once.

    Processors that have it differ: it takes 2/3 of the time on AMD EPYC, and 4/3 on an Intel Xeon without AMX.
    """
    if not cpu_has_bfloat16():
        return False
    weight = torch.ones(96, 64, 3, 3, requires_grad=True)
    maps = torch.ones(64, 64, 16, 16, requires_grad=True).contiguous(memory_format=torch.channels_last)
    seconds = {True: [], False: []}
    for _ in range(10):
        for mixed in seconds:
            began = time.perf_counter()
            with torch.amp.autocast("cpu", torch.bfloat16, enabled=mixed):
                F.conv2d(maps, weight, padding=1).float().sum().backward()
            seconds[mixed].append(time.perf_counter() - began)
    return min(seconds[True]) < min(seconds[False])


@dataclass
class TrainingData:
    """What stage 1 made, as one network reads it."""

    windows: object  # dataset.Windows: the table, one row per window
    spectrograms: np.ndarray  # float16 [n_windows, 128, 128]
    rows: dict  # part of the split -> its row numbers
    fingerprint: str  # of the clips and settings that it was made from


def read_training_data(kind, args):
    """TrainingData for networks that read the "stft" or the "mel" spectrograms."""
    manifest = read_manifest(args.data)
    windows = read_windows(args.features, manifest)
    spectrograms = read_spectrograms(args.data, STFT_NPY if kind == "stft" else MEL_NPY, len(windows), manifest)
    if spectrograms.nbytes < HELD_IN_MEMORY:
        spectrograms = np.array(spectrograms)
    split = choose_split(windows, args.sources, args.folds, args.fold, args.all_data, args.seed)
    rows = {part: np.flatnonzero(split == part) for part in SPLITS}
    return TrainingData(windows, spectrograms, rows, manifest["fingerprint"])


class BalancedBatches:
    """Draws row numbers: a fixed share of screams, and within each label rare sound classes more often.

    A class of n windows is drawn in proportion to sqrt(n), so 3,000 windows of one collection do not drown the rest.
    Screams are balanced over groups instead: their classes say little, their recordings repeat.
    """

    def __init__(self, windows, rows, batch_size, rng):
        self.rng = rng
        self.screams = rows[windows.label[rows] == 1]
        self.others = rows[windows.label[rows] == 0]
        if not len(self.screams) or not len(self.others):
            raise ArtifactError("the training split needs clips of both labels, scream and non_scream")
        self.n_screams = max(1, round(batch_size * SCREAM_SHARE))
        self.n_others = batch_size - self.n_screams
        self.scream_weights = self.square_root_weights(windows.group[self.screams])
        self.other_weights = self.square_root_weights(windows.source[self.others] + "/" + windows.sound_class[self.others])

    @staticmethod
    def square_root_weights(names):
        _, index, counts = np.unique(names.astype(str), return_inverse=True, return_counts=True)
        weights = counts[index] ** -0.5
        return weights / weights.sum()

    def draw(self):
        """(rows of a batch, rows of one background for each of them), int arrays."""
        screams = self.rng.choice(self.screams, self.n_screams, p=self.scream_weights)
        others = self.rng.choice(self.others, self.n_others, p=self.other_weights)
        backgrounds = self.rng.choice(self.others, self.n_screams + self.n_others, p=self.other_weights)
        return np.concatenate([screams, others]), backgrounds

    @property
    def pos_weight(self):
        """Others per scream among the windows drawn: the loss then weighs both classes alike."""
        return self.n_others / self.n_screams


def batches_of(rows, batch_size=64):
    """The row numbers in consecutive pieces of at most `batch_size`."""
    return [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]


def score_windows(network, spectrograms, rows, device, batch_size=64):
    """Logits float64 [len(rows)] of a network in evaluation mode."""
    network.eval()
    logits = []
    with torch.inference_mode():  # in float32, as main.py computes
        for some in batches_of(rows, batch_size):
            batch = torch.from_numpy(spectrograms[some].astype(np.float32)).to(device)
            logits.append(network(batch).double().cpu())
    return torch.cat(logits).numpy() if logits else np.zeros(0)


def held_out_part(data):
    """What the operating point is found on: "validation", or "train" where validation lacks one of the two labels."""
    return "validation" if len(set(data.windows.label[data.rows["validation"]])) == 2 else "train"


def noisy_spectrograms(data, rows, seed):
    """One noisy copy of each of these windows, float32 [n, 128, 128]; the noise is others of them, without a scream."""
    torch.manual_seed(seed)
    noise = np.random.default_rng(seed).choice(rows[data.windows.label[rows] == 0], len(rows))
    return np.concatenate([
        noisy_copies(*(torch.from_numpy(data.spectrograms[part].astype(np.float32)) for part in pair)).numpy()
        for pair in zip(batches_of(rows), batches_of(noise))])


def score_noisy(network, noisy, device):
    return score_windows(network, noisy, np.arange(len(noisy)), device)


def validation_figures(network, data, noisy, device):
    """Ranking figures of the validation clips, and "selected_by", which chooses the epoch: higher is better.

    It is the average precision, of clean clips and of their noisy copies in equal parts. Empty without both labels.
    """
    rows = data.rows["validation"]
    file, label = data.windows.file[rows], data.windows.label[rows]
    if len(set(label)) < 2:
        return {}
    clean = ranking_figures(*highest_window(file, label, score_windows(network, data.spectrograms, rows, device)))
    in_noise = ranking_figures(*highest_window(file, label, score_noisy(network, noisy, device)))["average_precision"]
    return clean | {"average_precision_in_noise": in_noise, "selected_by": (clean["average_precision"] + in_noise) / 2}


def training_loss(logits, label, pos_weight):
    """Mean cross-entropy of a batch in which every negative is weighted by its probability of being a scream: a scalar.

    What is mistaken for a scream teaches more than what never is, as in the focal loss (Lin et al. 2017), but among the
    negatives only: weak screams are often wrong labels. logits, label: float32 [n]. pos_weight: weight of a scream; the
    weights of the negatives have mean 1, so it alone balances the two labels.
    """
    negative = 1 - label
    hardness = torch.sigmoid(logits.detach()).clamp(min=LEAST_WEIGHT) * negative
    weight = label + hardness * negative.sum() / hardness.sum().clamp(min=LEAST_WEIGHT)  # the sum is 0 if all are screams
    return F.binary_cross_entropy_with_logits(logits, label, weight, pos_weight=pos_weight)


def averaged_copy(network, device):
    """A copy of a network, for update_average."""
    return copy.deepcopy(network).to(device)  # `to` brings the weights of a copied LSTM into one piece, as cuDNN wants them


def kept_share(step):
    """How much of the averaged weights stays in step 1, 2, ...: at first less than AVERAGING.

    Otherwise a short training would end as the random weights that it began with: of these a share of 0.995 ** steps is left.
    """
    return min(AVERAGING, (step - 1) / (step + 1))


def update_average(average, network, keep):
    """Exponential moving average of weights and batch statistics, in place."""
    with torch.no_grad():
        for averaged, current in zip(average.state_dict().values(), network.state_dict().values()):
            if averaged.is_floating_point():
                averaged.lerp_(current, 1 - keep)
            else:
                averaged.copy_(current)


def save_state(path, state):
    content = io.BytesIO()  # given a path, torch writes its name into the file; and it makes of a full disk an error of its own
    torch.save(state, content)
    with writable(path), atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content.getbuffer())


def cuda_random_state(device):
    """State of the random numbers that scenes are made with on a GPU; None on a CPU, where CUDA is left alone."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def plot_history(path, name, history):
    """A picture of the training loss and of the validation figures over the epochs."""
    epochs = [h["epoch"] for h in history]
    figure = empty_figure(10, 4, dpi=100)
    left, right = figure.subplots(1, 2)
    left.plot(epochs, [h["loss"] for h in history])
    left.set(xlabel="epoch", ylabel="training loss", title=name)
    for key in SHOWN_FIGURES:
        if key in history[-1]:
            right.plot(epochs, [h[key] for h in history], label=f"validation {key.replace('_', ' ')}")
    right.set(xlabel="epoch", ylim=(None, 1.0))
    if right.lines:
        right.legend()
    save_figure(figure, path)


def train_network(name, args):
    """Train one network on the artifacts of stage 1 and write its state dict, JSON, history and plot. Returns 0."""
    began = time.time()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    kind = NETWORK_INPUTS[name]
    weights_path = os.path.join(args.models, f"{name}_model.pth")
    check_output(weights_path)
    data = read_training_data(kind, args)
    json_path = os.path.join(args.models, f"{name}_model.json")
    checkpoint_path = os.path.join(args.models, f".{name}_checkpoint.pth")
    evaluated = read_json(json_path, f"train_{name}.py without --all-data") if args.all_data else None
    if evaluated:
        same = ("seed", "sources", "folds", "epochs", "scenes", "steps", "batch_size")
        check_evaluated(json_path, evaluated, {key: getattr(args, key) for key in same} | {"fingerprint": data.fingerprint})
    epochs = evaluated["training"]["best_epoch"] if args.all_data else args.epochs

    batches = BalancedBatches(data.windows, data.rows["train"], args.batch_size, np.random.default_rng(args.seed))
    noisy = None if args.all_data else noisy_spectrograms(data, data.rows[held_out_part(data)], args.seed)
    torch.manual_seed(args.seed)
    network = build_network(name).to(device, memory_format=torch.channels_last)
    average = averaged_copy(network, device)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=args.epochs * args.steps, pct_start=0.15)
    pos_weight = torch.tensor(batches.pos_weight, device=device)
    options = {key: value for key, value in vars(args).items() if key not in ("restart", "device", "threads", "models")}
    settings = {"signal": SIGNAL_SETTINGS, "network": name, "fingerprint": data.fingerprint, "options": options}
    history, best, best_state = [], -math.inf, None
    precision = PRECISIONS[args.precision] if args.precision in PRECISIONS else faster_precision(device)
    if os.path.exists(checkpoint_path) and not args.restart:
        history, best, best_state, precision = resume(checkpoint_path, settings, network, average, optimiser, schedule, batches,
                                                      device, precision)

    parameters = sum(p.numel() for p in network.parameters())
    print(f"{name}: {parameters:,} parameters, trained in {precision}; windows: "
          + ", ".join(f"{len(r)} {part}" for part, r in data.rows.items()))
    for epoch in range(len(history) + 1, epochs + 1):
        if history and epoch - max(history, key=lambda h: h["selected_by"])["epoch"] > args.patience and not args.all_data:
            print(f"no better validation figure for {args.patience} epochs: stopped")
            break
        epoch_began, losses = time.time(), []
        network.train()
        for _ in tqdm(range(args.steps), desc=f"epoch {epoch}", leave=False, disable=None):
            drawn, backgrounds = batches.draw()
            batch = np.concatenate([data.spectrograms[drawn], data.spectrograms[backgrounds]])
            batch = torch.from_numpy(batch).to(device).float()  # [2 * batch, 128, 128]
            label = torch.from_numpy(data.windows.label[drawn]).to(device, torch.float32)
            scenes = random_scenes(batch[: len(drawn)], batch[len(drawn) :], kind, args.scenes)  # [batch, 128, 128]
            with autocast(device, precision):
                logits = network(scenes)
            loss = training_loss(logits.float(), label, pos_weight)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            update_average(average, network, kept_share(schedule.last_epoch))
            losses.append(loss.detach())
        entry = {"epoch": epoch, "loss": float(torch.stack(losses).mean()), "selected_by": float(epoch)}
        entry |= validation_figures(average, data, noisy, device)
        seconds = time.time() - epoch_began
        entry["windows_per_second"] = round(args.steps * args.batch_size / seconds, 1)
        history.append(entry)
        if entry["selected_by"] > best:
            best, best_state = entry["selected_by"], copy.deepcopy(average.state_dict())
        figures = "".join(f"{key.replace('_', ' ')} {entry[key]:.3f}  " for key in SHOWN_FIGURES if key in entry)
        print(f"epoch {epoch:3}/{epochs}  loss {entry['loss']:.3f}  {figures}{seconds:.1f} s, "
              f"{entry['windows_per_second']:.0f} windows/s", flush=True)
        save_state(checkpoint_path, {"settings": repr(settings), "history": history, "best": best, "best_state": best_state,
                                     "network": network.state_dict(), "average": average.state_dict(),
                                     "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(),
                                     "torch_rng": torch.get_rng_state(), "cuda_rng": cuda_random_state(device),
                                     "device": device.type, "precision": precision,
                                     "numpy_rng": repr(batches.rng.bit_generator.state)})

    average.load_state_dict(best_state)
    if evaluated:
        calibration, metrics = evaluated["calibration"], evaluated["metrics"]
    else:
        calibration, metrics = evaluate_network(average, data, noisy, device)
    write_model(weights_path, json_path, average, {
        "model": name, "file": os.path.basename(weights_path), "settings": settings,
        "calibration": calibration, "metrics": metrics, "metrics_of": metrics_of(args.all_data),
        "training": {"all_data": args.all_data, "epochs": len(history), "device": str(device), "precision": precision,
                     "best_epoch": max(history, key=lambda h: h["selected_by"])["epoch"]},
        "versions": library_versions("torch", "numpy"),
    })
    for part in ("validation", "test"):
        figures = metrics.get(part, {}).items()
        print(f"{part}: " + "  ".join(f"{key} {value:.4f}" for key, value in figures if isinstance(value, float)))
    if not args.all_data:  # which has no validation figures: the history of the evaluated model stays
        write_json(os.path.join(args.models, f"{name}_history.json"), history)
        plot_history(os.path.join(args.models, f"{name}_history.png"), name, history)
    os.remove(checkpoint_path)
    print(f"wrote {weights_path} ({os.path.getsize(weights_path) / 1e6:.2f} MB) and {json_path} in {time.time() - began:.0f} s")
    return 0


def resume(path, settings, network, average, optimiser, schedule, batches, device, precision):
    """Continue an interrupted run of the same settings: (history, best figure, best weights, precision).

    On the same kind of device it goes on in the precision it began with, so that it ends as an undisturbed one; elsewhere in
    the one given.
    """
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")  # a run may go on where there is no GPU
    except Exception as error:  # torch raises many types for a damaged file
        print(f"checkpoint {path} is damaged ({type(error).__name__}): starting afresh")
        return [], -math.inf, None, precision
    if not isinstance(state, dict) or state.get("settings") != repr(settings):
        print("the checkpoint is of other settings or data: starting afresh")
        return [], -math.inf, None, precision
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["torch_rng"])
    if device.type == "cuda" and state.get("cuda_rng") is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], device)
    batches.rng.bit_generator.state = ast.literal_eval(state["numpy_rng"])
    print(f"resumed after epoch {len(state['history'])}")
    if state.get("device") == device.type:
        precision = state["precision"]
    return state["history"], state["best"], state["best_state"], precision


def evaluate_network(network, data, noisy, device):
    """(calibration, figures of each part of the split) of a trained network.

    The operating point counts held-out windows and their noisy copies alike.
    """
    windows, held_out = data.windows, held_out_part(data)
    logits = {part: score_windows(network, data.spectrograms, rows, device) for part, rows in data.rows.items() if len(rows)}
    calibration = fit_calibration(np.tile(windows.label[data.rows[held_out]], 2),
                                  np.concatenate([logits[held_out], score_noisy(network, noisy, device)]))
    metrics = {}
    for part, scores in logits.items():
        metrics[part] = clip_figures(windows.rows(data.rows[part]), probability_of(scores, calibration))
    return calibration, metrics


def write_model(path, json_path, network, report):
    """Write the weights and the JSON beside them: both at last, at once, so that a kill before leaves the old pair."""
    with atomic_path(path) as temporary:
        save_state(temporary, {key: value.cpu().contiguous() for key, value in network.state_dict().items()})
        write_json(json_path, report | {"sha256": sha256_of(temporary)})
