"""Training speed: one epoch of each network on synthetic spectrograms, augmentation included, in windows per second.

    python benchmarks/training_epoch.py                         the CPU, and the GPU when there is one
    python benchmarks/training_epoch.py --steps 2 --runs 1      a glance

An epoch is what utils.training does between two validations: make the scenes of that stage, forward, backward, step, average;
only the windows are drawn evenly. On a GPU it is measured with and without mixed precision; on a CPU bfloat16 counts where
the processor has it.
"""

import argparse
import importlib
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.machine import alternate, command_given, describe_machine, write_section
from utils.artifacts import run_stage
from utils.augmentation import random_scenes
from utils.ensemble import NETWORK_INPUTS, choose_torch_device
from utils.networks import NETWORKS, build_network
from utils.tables import markdown_table
from utils.training import (AVERAGING, BFLOAT16, FLOAT32, LEARNING_RATE, SCREAM_SHARE, WEIGHT_DECAY, autocast, averaged_copy,
                            cpu_has_bfloat16, training_loss, update_average)

N_WINDOWS = 512  # spectrograms to draw from


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="batches of an epoch (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="default %(default)s, as in training")
    parser.add_argument("--runs", type=int, default=7, help="alternating epochs of each kind (default %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: as torch chooses)")
    return parser.parse_args(argv)


class Epoch:
    """One network with its optimiser; called, it trains for an epoch. Seconds of the augmentation are kept."""

    def __init__(self, name, device, mixed, args, spectrograms, label):
        self.kind, self.device, self.mixed, self.args = NETWORK_INPUTS[name], device, mixed, args
        self.conditions = importlib.import_module(f"train_{name}").SETTINGS["scenes"]
        self.spectrograms, self.label, self.rng = spectrograms, label, np.random.default_rng(0)
        self.network = build_network(name).to(device, memory_format=torch.channels_last)
        self.average = averaged_copy(self.network, device)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.pos_weight = torch.tensor((1 - SCREAM_SHARE) / SCREAM_SHARE, device=device)
        self.augmentation_s = []

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def __call__(self):
        self.network.train()
        augmentation_s = 0.0
        for _ in range(self.args.steps):
            began = time.perf_counter()
            drawn, backgrounds = self.rng.integers(0, N_WINDOWS, (2, self.args.batch_size))
            batch = torch.from_numpy(np.concatenate([self.spectrograms[drawn], self.spectrograms[backgrounds]]))
            batch = batch.to(self.device).float()
            label = torch.from_numpy(self.label[drawn]).to(self.device, torch.float32)
            scenes = random_scenes(batch[: len(drawn)], batch[len(drawn) :], self.kind, self.conditions)  # [batch, 128, 128]
            self.wait()
            augmentation_s += time.perf_counter() - began
            with autocast(self.device, BFLOAT16 if self.mixed else FLOAT32):
                logits = self.network(scenes)
            loss = training_loss(logits.float(), label, self.pos_weight)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            update_average(self.average, self.network, AVERAGING)
        self.wait()
        self.augmentation_s.append(augmentation_s)


def main(argv=None):
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    spectrograms = rng.normal(-60, 15, (N_WINDOWS, 128, 128)).astype(np.float16)
    label = (rng.random(N_WINDOWS) < SCREAM_SHARE).astype(np.int64)
    settings = [(torch.device("cpu"), False), *([(torch.device("cpu"), True)] if cpu_has_bfloat16() else [])]
    accelerator, title = "no GPU", "One training epoch"
    if choose_torch_device("auto", threads=None) == "cuda":
        settings += [(torch.device("cuda"), mixed) for mixed in (False, True)]
        accelerator, title = torch.cuda.get_device_name(), "One training epoch, with a GPU"
    machine = describe_machine("torch", "torchaudio")
    epochs = {(name, device.type, mixed): Epoch(name, device, mixed, args, spectrograms, label)
              for name in NETWORKS for device, mixed in settings}
    seconds = alternate(epochs, args.runs)
    rows = []
    for (name, device, mixed), values in seconds.items():
        median, augmentation = statistics.median(values), statistics.median(epochs[name, device, mixed].augmentation_s[1:])
        precision = "bfloat16 mixed" if mixed else "float32"
        rows.append([name, device.upper(), precision, f"{args.steps / median:.1f}",
                     f"{args.steps * args.batch_size / median:.0f}", f"{100 * augmentation / median:.0f} %"])
    header = ["network", "device", "precision", "steps per second", "windows per second", "drawing and augmentation"]
    machine += f", {torch.get_num_threads()} CPU threads"
    write_section(title, f"{command_given(__file__, argv)}\n\n{machine}, {accelerator}; {args.steps} steps "
                  f"of {args.batch_size} windows on synthetic spectrograms; medians of {args.runs} alternating epochs.\n\n"
                  + markdown_table(header, rows))
    return 0


if __name__ == "__main__":
    run_stage(main)
