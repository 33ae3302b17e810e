"""Do the fast ways change a vote? All recordings of a folder, the product's way and the plain way side by side.

    python benchmarks/votes.py --audio DIR [--clips N] [--models DIR]

The plain way: features and spectrograms by librosa, one call each, window by window; networks in torch, one window at a
time, with its default memory layout. Prints every window whose verdict or whose vote of one model differs.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.extraction import features_with_librosa, windows_of
from benchmarks.machine import command_given, describe_machine, write_section

import librosa
import numpy as np
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from utils.artifacts import ArtifactError, AudioError, run_stage
from utils.calibration import probability_of
from utils.dataset import audio_files
from utils.ensemble import NETWORK_INPUTS, classical_score, combine, load_ensemble
from utils.features import BAND_BINS, N_BANDS, decibels
from utils.options import add_trust_option
from utils.signal_settings import SAMPLE_RATE
from utils.tables import markdown_table


def plain_stft_bands(window):
    """The STFT spectrogram in dB [128 bands, 128 frames]: mean power of 8 bins each, of 9 in the last band."""
    power = np.abs(librosa.stft(window, pad_mode="constant")) ** 2  # [1025, 128]
    edges = np.arange(N_BANDS) * BAND_BINS
    counts = np.diff([*edges, len(power)])
    return decibels(np.add.reduceat(power, edges) / counts[:, None]).astype(np.float32)


def plain_probabilities(window, ensemble):
    """Probabilities [6] of one window."""
    features = features_with_librosa(window, SAMPLE_RATE)[None].astype(np.float32)
    spectrograms = {"stft": plain_stft_bands(window), "mel": librosa.power_to_db(
        librosa.feature.melspectrogram(y=window, sr=SAMPLE_RATE, n_mels=128, pad_mode="constant"), top_db=None)}
    scores = []
    for name in ensemble.names:
        if name in ensemble.classical:
            scores.append(classical_score(ensemble.classical[name], features)[0])
        else:
            with torch.inference_mode():
                logit = ensemble.networks[name](torch.from_numpy(spectrograms[NETWORK_INPUTS[name]])[None].contiguous())
            scores.append(float(logit[0]))
    return np.array([float(probability_of(score, ensemble.calibrations[name])) for name, score in zip(ensemble.names, scores)])


def both_ways(paths, models, trust):
    """(path, window number, probabilities [6] the fast way, [6] the plain way) of every window of these files."""
    torch.set_num_threads(1)
    fast, plain = (load_ensemble(models, device="cpu", trust_unlisted=trust, onnx=onnx) for onnx in (True, False))
    rows = []
    for network in plain.networks.values():
        network.to(memory_format=torch.contiguous_format)
    for path in paths:
        try:
            windows = windows_of(path)
        except AudioError:
            continue
        if windows:
            rows += [(path, number, one, plain_probabilities(window, plain))
                     for number, (window, one) in enumerate(zip(windows, fast.score(windows)))]
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", default="../shared/audio", metavar="DIR", help="recordings (default %(default)s)")
    parser.add_argument("--clips", type=int, help="only this many of them, evenly spread")
    parser.add_argument("--models", default="models", metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2)
    add_trust_option(parser)
    args = parser.parse_args(argv)
    paths = audio_files(args.audio)
    if not paths:
        raise ArtifactError(f"{args.audio}: no recordings in this folder")
    if args.clips:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, args.clips).astype(int)]
    batches = [paths[first : first + 20] for first in range(0, len(paths), 20)]
    for why in load_ensemble(args.models, device="cpu", trust_unlisted=args.trust_models).missing.values():
        print(f"left out: {why}", file=sys.stderr)
    made = Parallel(args.jobs, return_as="generator")(
        delayed(both_ways)(batch, args.models, args.trust_models) for batch in batches)
    rows = [row for batch in tqdm(made, total=len(batches), disable=None) for row in batch]
    fast, plain = (np.stack([row[column] for row in rows]) for column in (2, 3))
    verdicts = [combine(probabilities)[2] for probabilities in (fast, plain)]
    votes_differ = (fast >= 0.5) != (plain >= 0.5)
    for index in np.flatnonzero(votes_differ.any(axis=1) | (verdicts[0] != verdicts[1])):
        print(f"{rows[index][0]} window {rows[index][1]}: {np.round(fast[index], 5)} and {np.round(plain[index], 5)}")
    machine = describe_machine("numpy", "librosa", "torch", "scikit-learn")
    write_section("Votes, the fast and the plain way",
                  f"{command_given(__file__, argv)}\n\n{machine}; {len(paths)} recordings.\n\n" + markdown_table(["", "count"], [
                      ["windows", len(rows)],
                      ["verdicts that differ", int((verdicts[0] != verdicts[1]).sum())],
                      [f"single votes that differ, of {votes_differ.size}", int(votes_differ.sum())],
                      ["largest difference of a probability", f"{np.abs(fast - plain).max():.1e}"],
                  ]))
    return 0


if __name__ == "__main__":
    run_stage(main)
