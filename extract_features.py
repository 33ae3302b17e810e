"""Stage 1: turn labelled clips into windows, features and spectrograms.

    python extract_features.py                             the layouts as their owners ship them, if they lie here
    python extract_features.py --audio DIR [--audio DIR2]  any scream/ + non_scream/ tree, ESC-50, or a clips.csv
    python extract_features.py --download noise-of-life    fetch 157 real screams and 1,152 other sounds first

Writes audio_features.csv (one row per window), data/cnn_spectrograms.npy, data/cnn_mel_spectrograms.npy and
data/cnn_labels.npy (row i of each is row i of the CSV), data/augmented_features.csv (more rows for the classical
models: clips placed in scenes), data/noise_features.csv (clips in noise, to know noise by) and data/manifest.json (what
all of it was made from).
"""

import argparse
import collections
import csv
import io
import itertools
import os
import sys
import time
from dataclasses import replace

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from utils.artifacts import ArtifactError, atomic_path, check_output, library_versions, run_stage, write_json
from utils.cluster import add_backend_options, check_backend_options, joblib_backend
from utils.copies import same_sounds
from utils.dataset import (AUDIO_EXTENSIONS, AUGMENTED_CSV, HOW_TO_GROUP, LABELS_NPY, MANIFEST, MEL_NPY, NOISE_CSV, SPLITS,
                           STFT_NPY, SYNTHESISED, check_seed, check_table_replaceable, each_file_once, find_clips, fingerprint,
                           group_identical_clips, join_copies, next_command, split_clips)
from utils.download import DOWNLOADS, KAGGLE_INSTRUCTION, download
from utils.extraction import (describe_clip, describe_noisy, describe_scenes, describe_signal, describe_signal_again,
                              synthesised_clip)
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS

DEFAULT_FOLDERS = ("Converted_Separately", "ESC-50-master", "noise-of-life")
# sound classes of ESC-50, noise-of-life and moodist that are steady noise of places
AMBIENCE = {"rain", "sea_waves", "wind", "helicopter", "airplane", "train", "engine", "washing_machine", "crackling_fire",
            "fire_crackling", "Water", "nature", "places", "urban", "transport"}
NOISY_COPIES = 3  # windows in ambience per clip, from which noise is known
COPIES = {"scream": 16, "non_scream": 4}  # augmented scenes per clip: screams are rare
SIGNAL_COPIES = 3  # further signals of its kind for each synthesised one, in the augmented rows


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", action="append", metavar="DIR", help="folder with clips; may be given several times")
    parser.add_argument("--download", choices=[*DOWNLOADS, "kaggle"], help="fetch this collection here and use it")
    parser.add_argument("--csv", default="audio_features.csv", help="feature table to write (default %(default)s)")
    parser.add_argument("--data", default="data", metavar="DIR", help="folder for the other artifacts (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split and of the scenes (default %(default)s)")
    parser.add_argument("--signals", type=int, default=200, help="synthesised sirens, beeps, notes, tones and noises to learn "
                        "from as non_scream; never tested on (default %(default)s)")
    parser.add_argument("--no-augment", action="store_true", help="write no augmented rows")
    add_backend_options(parser)
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    check_seed(parser, args.seed)
    check_backend_options(parser, args)
    if args.signals < 0:
        parser.error("--signals must be 0 or more")
    if args.csv.lower().endswith(AUDIO_EXTENSIONS):
        parser.error(f"--csv {args.csv}: has the ending of a recording; name a file for the table")
    return args


def choose_backgrounds(clips, seed):
    """For each clip the clips to mix it with: sounds without screams, half of them from the clip's own source."""
    rng = np.random.default_rng(seed)
    sounds = [c for c in clips if c.label == "non_scream"]
    if not sounds:
        return [[] for _ in clips]
    by_source = collections.defaultdict(list)
    for sound in sounds:
        by_source[sound.source].append(sound)
    sources = sorted(by_source)
    chosen = []
    for clip in clips:
        pools = [by_source[clip.source] if clip.source in by_source and i % 2 else by_source[sources[rng.integers(len(sources))]]
                 for i in range(COPIES[clip.label])]
        chosen.append([pool[rng.integers(len(pool))] for pool in pools])
    return chosen


class SpectrogramFile:
    """A float16 .npy file of [n, 128, 128] that grows piece by piece, so that memory stays flat."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.rows = 0
        self.write_header()

    def write_header(self):
        header = {"descr": "<f2", "fortran_order": False, "shape": (self.rows, 128, 128)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)  # padded: a longer shape needs no more bytes

    def append(self, spectrograms):
        self.file.write(np.ascontiguousarray(spectrograms, "<f2").data)
        self.rows += len(spectrograms)

    def close(self):
        self.write_header()
        self.file.close()


def described(clips, args):
    """Yield what describe_clip returns for every clip, then what describe_signal does for every signal; args.jobs at a time."""
    yield from Parallel(args.jobs, return_as="generator", batch_size="auto")(delayed(describe_clip)(clip) for clip in clips)
    # signals take longer: large batches of them would leave one process alone with the last one
    yield from Parallel(args.jobs, return_as="generator", batch_size=4)(
        delayed(describe_signal)(number, args.seed) for number in range(args.signals))


def write_spectrograms(clips, args, paths):
    """Describe every clip and every signal, and write both spectrogram files.

    Returns ([(clip, features [n, 34], start_s [n], level_db [n], landmarks)] of what could be read, failures).
    """
    readable, failures = [], []
    stft_file, mel_file = SpectrogramFile(paths["stft"]), SpectrogramFile(paths["mel"])
    all_clips = [*clips, *(synthesised_clip(number) for number in range(args.signals))]
    # described first: the clips would end before it does, and breaking off its processes takes a third of a second
    for result, clip in tqdm(zip(described(clips, args), all_clips), total=len(all_clips), unit="clip", desc="windows",
                             disable=None):
        if isinstance(result, str):
            failures.append(result)
            print(f"skipped: {result}", file=sys.stderr)
            continue
        features, stft_db, mel_db, *of_clip = result
        stft_file.append(stft_db)
        mel_file.append(mel_db)
        readable.append((clip, features, *of_clip))
    stft_file.close()
    mel_file.close()
    return readable, failures


def keep_copies_together(readable):
    """Join the groups of clips in which windows sound nearly the same, or that hold the same sound from wherever on.

    Returns the clips that could be read, without the synthesised signals, and how many groups were joined.
    """
    recorded = [(clip, features, marks) for clip, features, *_, marks in readable if clip.source != SYNTHESISED]
    copies = [(recorded[i][0].group, recorded[j][0].group) for i, j in same_sounds([marks for *_, marks in recorded])]
    joined = join_copies([clip.group for clip, features, _ in recorded for _ in features],
                         np.concatenate([features for _, features, _ in recorded]), copies)
    n_joined = len(joined) - len(set(joined.values()))
    return [replace(clip, group=joined[clip.group]) for clip, _, _ in recorded], n_joined


def write_table(path, readable, clips, splits):
    """Write the row of each window: its features, and the group and the split of its clip."""
    place = {clip.path: (clip.group, split) for clip, split in zip(clips, splits)}
    place |= {clip.path: (clip.group, "train") for clip, *_ in readable if clip.source == SYNTHESISED}
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "label", *FEATURE_NAMES, "start_s", "source", "group", "split", "sound_class", "band_level_db"])
        for clip, features, start_s, level_db, _ in readable:
            group, split = place[clip.path]
            for values, start, level in zip(features, start_s, level_db):
                rows.writerow([clip.path, clip.label, *(f"{v:.9g}" for v in values), f"{start:.4f}",
                               clip.source, group, split, clip.sound_class, f"{level:.2f}"])


def choose_noises(clips, seed):
    """For each clip the ambience that is mixed in for utils.noise_level; none where there is no ambience."""
    rng = np.random.default_rng([seed, 1])
    ambience = [c for c in clips if c.label == "non_scream" and c.sound_class in AMBIENCE]
    return [[ambience[rng.integers(len(ambience))] for _ in range(NOISY_COPIES if ambience else 0)] for _ in clips]


def write_copies(path, tasks, clips, title, args):
    """Write a row for each of the copies that the tasks make of these clips. Returns how many.

    Later stages use only those whose recordings, clip and background, they train on.
    """
    n_rows = 0
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "label", *FEATURE_NAMES, "source", "group", "sound_class", "mix_source", "mix_group"])
        made_of = Parallel(args.jobs, return_as="generator")(tasks)
        for made, clip in tqdm(zip(made_of, clips), total=len(clips), unit="clip", desc=title, disable=None):
            for background, values in made:
                rows.writerow([clip.path, clip.label, *(f"{v:.9g}" for v in values), clip.source, clip.group,
                               clip.sound_class, background.source, background.group])
                n_rows += 1
    return n_rows


def write_augmented(path, clips, args):
    """Write scenes of every clip and more of the synthesised signals, for the classical models. Returns how many rows."""
    signals = [(number, variant) for variant in range(1, SIGNAL_COPIES + 1) for number in range(args.signals)] if clips else []
    tasks = itertools.chain(
        (delayed(describe_scenes)(clip, backgrounds, [args.seed, index])
         for index, (clip, backgrounds) in enumerate(zip(clips, choose_backgrounds(clips, args.seed)))),
        (delayed(describe_signal_again)(number, args.seed, variant) for number, variant in signals))
    return write_copies(path, tasks, [*clips, *(synthesised_clip(number) for number, _ in signals)], "scenes", args)


def write_noisy(path, clips, args):
    """Write windows of every clip in noise, for utils.noise_level. Returns how many rows."""
    tasks = (delayed(describe_noisy)(clip, noises, [args.seed, index, 1])
             for index, (clip, noises) in enumerate(zip(clips, choose_noises(clips, args.seed))))
    return write_copies(path, tasks, clips, "noise", args)


def warn_of_missing_parts(clips, splits):
    """Say which part of the split lacks a label: later stages can then not test, or find no operating point."""
    for label, others in (("scream", "non_scream"), ("non_scream", "scream")):
        if all(clip.label == others for clip in clips):
            print(f"note: there are no {label} clips at all, and the models learn from both labels: put some into a folder named "
                  f"{label}", file=sys.stderr)
            return
    there = set(zip(splits, (clip.label for clip in clips)))
    missing = [f"{label} clips for {part}" for part in SPLITS for label in ("scream", "non_scream") if (part, label) not in there]
    if missing:
        print(f"note: no {', no '.join(missing)}; {HOW_TO_GROUP}", file=sys.stderr)


def print_summary(readable, failures, n_joined, n_augmented, seconds):
    counts = collections.Counter()
    for clip, features, *_ in readable:
        counts[clip.source, clip.label, "clips"] += 1
        counts[clip.source, clip.label, "windows"] += len(features)
    print(f"\n{'source':24} {'label':12} {'clips':>7} {'windows':>8}")
    for source, label in sorted({key[:2] for key in counts}):
        print(f"{source:24} {label:12} {counts[source, label, 'clips']:7} {counts[source, label, 'windows']:8}")
    n_windows = sum(len(features) for _, features, *_ in readable)
    print(f"{len(readable)} clips, {n_windows} windows, {n_augmented} augmented rows, {len(failures)} failures, {seconds:.0f} s")
    if n_joined:
        print(f"{n_joined} groups joined to others that hold the same sounds, or nearly: these stay on one side of the split")


def main(argv=None):
    args = parse_arguments(argv)
    began = time.time()
    if args.download == "kaggle":
        print(KAGGLE_INSTRUCTION)
        return 0
    names = {"csv": args.csv, "stft": os.path.join(args.data, STFT_NPY), "mel": os.path.join(args.data, MEL_NPY),
             "labels": os.path.join(args.data, LABELS_NPY), "augmented": os.path.join(args.data, AUGMENTED_CSV),
             "noise": os.path.join(args.data, NOISE_CSV)}
    folders = args.audio or [folder for folder in DEFAULT_FOLDERS if os.path.isdir(folder) and not args.download]
    if not folders and not args.download:
        raise ArtifactError("no clips here: give --audio DIR, or --download noise-of-life, or put "
                            f"{' or '.join(DEFAULT_FOLDERS[:2])} beside this script")
    clips = [clip for folder in folders for clip in find_clips(folder)]
    outputs = [*names.values(), os.path.join(args.data, MANIFEST)]
    for path in outputs:
        check_output(path)
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise ArtifactError(f"{args.csv}: is the name of another artifact, too; name another file")
    check_table_replaceable(args.csv)
    if args.download:
        clips += find_clips(download(args.download))
    clips = group_identical_clips(each_file_once(clips), args.jobs)
    settings = SIGNAL_SETTINGS | {"seed": args.seed, "augmented": not args.no_augment, "signals": args.signals}

    with atomic_path(names["csv"]) as table, atomic_path(names["stft"]) as stft, atomic_path(names["mel"]) as mel, \
            atomic_path(names["labels"]) as label_file, atomic_path(names["augmented"]) as augmented, \
            atomic_path(names["noise"]) as noise, joblib_backend(args.backend, args.scheduler):
        paths = {"csv": table, "stft": stft, "mel": mel}
        readable, failures = write_spectrograms(clips, args, paths)
        if len(failures) == len(clips):
            raise ArtifactError("not one clip could be read; nothing was written")
        clips, n_joined = keep_copies_together(readable)
        splits = split_clips(clips, args.seed)
        warn_of_missing_parts(clips, splits)
        write_table(table, readable, clips, splits)
        labels = [int(clip.label == "scream") for clip, features, *_ in readable for _ in features]
        content = io.BytesIO()  # to a file np.save writes by itself, and makes of a full disk an error of its own
        np.save(content, np.array(labels, np.int64))
        with open(label_file, "wb") as file:
            file.write(content.getbuffer())
        to_augment = [] if args.no_augment else clips
        n_augmented = write_augmented(augmented, to_augment, args) + write_noisy(noise, to_augment, args)
        sizes = {os.path.basename(names[key]): os.path.getsize(path) for key, path in
                 {**paths, "labels": label_file, "augmented": augmented, "noise": noise}.items()}
        made_of = fingerprint(clips, settings)  # reads all clips: before the artifacts take the place of older ones
    write_json(os.path.join(args.data, MANIFEST), {
        "settings": SIGNAL_SETTINGS, "seed": args.seed, "clips": len(clips), "windows": len(labels), "failures": failures,
        "fingerprint": made_of, "files": sizes,
        "versions": library_versions("numpy", "scipy", "soundfile", "soxr"),
    })
    print_summary(readable, failures, n_joined, n_augmented, time.time() - began)
    print(f"wrote {', '.join(names.values())}\nnext: {next_command('train_ml.py', features=args.csv, data=args.data)}")
    return 0


if __name__ == "__main__":
    run_stage(main)
