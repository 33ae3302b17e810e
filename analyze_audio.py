"""Look at recordings and at the data set: pictures and statistics, no window and no screen needed.

    python analyze_audio.py                                pictures of the bundled clips
    python analyze_audio.py --file clip.wav DIR            one picture per file, to analysis/
    python analyze_audio.py --file night.flac --start 3600 --duration 120
    python analyze_audio.py --dataset                      what audio_features.csv holds (python extract_features.py)

A recording's picture shows waveform, spectrogram, mel-spectrogram, MFCCs, level and zero crossings, centroid and
roll-off over time, and below them what each model says, where trained models are present. The data set's pictures show
every feature's distribution for screams and other sounds, the MFCCs, and the counts by source and class.
"""

import argparse
import os
import sys

import numpy as np

from utils.analysis_plots import draw_counts, draw_distributions, draw_mfcc, draw_recording
from utils.artifacts import REPOSITORY, ArtifactError, make_folder, run_stage
from utils.audio import SAMPLE_RATE, AudioError, printable, read_blocks
from utils.dataset import SYNTHESISED, near_copies, read_windows
from utils.event_files import safe_name
from utils.features import FEATURE_NAMES, N_MFCC
from utils.figures import save_figure
from utils.inputs import EXAMPLES, find_inputs
from utils.options import add_trust_option

SHORTEST_S = 0.01  # of sound that makes a picture
LABELS = ("non_scream", "scream")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", nargs="+", metavar="PATH", help="files or folders (default: the bundled clips)")
    parser.add_argument("--dataset", nargs="?", const="audio_features.csv", metavar="CSV",
                        help="analyse the feature table of stage 1 instead (default %(const)s)")
    parser.add_argument("--out", default="analysis", metavar="DIR", help="folder for the pictures (default %(default)s)")
    parser.add_argument("--start", type=float, default=0.0, help="first second to draw (default %(default)s)")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds to draw at most (default %(default)s)")
    parser.add_argument("--models", default=os.path.join(REPOSITORY, "models"), metavar="DIR",
                        help="folder of the trained models")
    add_trust_option(parser)
    args = parser.parse_args(argv)
    if args.dataset and args.file:
        parser.error("give either --file or --dataset")
    if not (0 <= args.start < float("inf") and SHORTEST_S <= args.duration < float("inf")):
        parser.error(f"--start must be 0 or more and --duration {SHORTEST_S:g} seconds or more")
    return args


# --- recordings ----------------------------------------------------------------------------------------------------

def read_stretch(path, start_s, duration_s):
    """Samples [n] at 22,050 Hz of the wanted stretch; what lies before it is not kept. Raises AudioError."""
    first, last = round(start_s * SAMPLE_RATE), round((start_s + duration_s) * SAMPLE_RATE)
    kept, position = [], 0
    for block in read_blocks(path):
        if position + len(block) > first:  # an empty piece would keep its whole block in memory
            kept.append(block[max(0, first - position) : last - position])
        position += len(block)
        if position >= last:
            break
    if not kept:
        raise AudioError(f"{printable(path)}: ends after {position / SAMPLE_RATE:.1f} s, before --start {start_s:g}")
    return np.concatenate(kept)


def draw_stretch(path, samples, start_s, ensemble, picture):
    """Write the picture of a stretch of a recording; returns its verdict, or None without models."""
    title = f"{printable(os.path.basename(path))}   {start_s:g} to {start_s + len(samples) / SAMPLE_RATE:.2f} s"
    if not ensemble:
        save_figure(draw_recording(title, samples, start_s), picture)
        return None
    from utils.scan import scan

    windows = []
    record = scan([samples], ensemble, on_window=windows.append)
    title += (f"   {record['verdict']}: probability {record['probability']:.2f}, "
              f"{record['votes']} of {len(ensemble.names)} votes")
    save_figure(draw_recording(title, samples, start_s, windows, ensemble.names, record["events"]), picture)
    return record["verdict"]


def analyse_recordings(args):
    """A picture for each file; returns the exit status."""
    from utils.ensemble import load_ensemble

    if args.file:
        inputs = find_inputs(args.file)
    else:
        inputs = find_inputs([os.path.relpath(os.path.join(REPOSITORY, EXAMPLES))])
    try:
        ensemble = load_ensemble(args.models, device="cpu", trust_unlisted=args.trust_models)
        for sentence in ensemble.missing.values():
            print(f"without this model's vote: {sentence}", file=sys.stderr)
    except ArtifactError as error:
        ensemble = None
        print(f"the pictures show no votes: {error}", file=sys.stderr)
    failed = False
    for path, error in inputs:
        try:
            if error:
                raise AudioError(error)
            picture = os.path.join(args.out, safe_name(path) + ".png")
            verdict = draw_stretch(path, read_stretch(path, args.start, args.duration), args.start, ensemble, picture)
            print(f"wrote {picture}" + (f" ({verdict})" if verdict else ""))
        except (AudioError, ArtifactError) as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
    return int(failed)


# --- data set ------------------------------------------------------------------------------------------------------

def feature_statistics(table, auc):
    """Mean, deviation and quartiles of each feature for each label, and how well the feature alone ranks screams."""
    statistics = table.groupby("label")[FEATURE_NAMES].describe().stack(level=0, future_stack=True)
    statistics = statistics[["mean", "std", "25%", "50%", "75%"]].unstack("label")
    statistics.columns = [f"{label}_{figure}" for figure, label in statistics.columns]
    return statistics.loc[FEATURE_NAMES].assign(roc_auc_alone=auc)


def copies_in_other_groups(windows):
    """Pairs of clips that sound nearly the same though their groups differ: a table with columns file, split, copy ..."""
    import pandas as pd

    recorded = np.flatnonzero(windows.source != SYNTHESISED)
    pairs = {}
    for near in near_copies(windows.features[recorded]):
        near = recorded[near]  # [n_pairs, 2]
        for i, j in near[windows.group[near[:, 0]] != windows.group[near[:, 1]]]:
            pairs[tuple(sorted((windows.file[i], windows.file[j])))] = (i, j)
    rows = [[value for row in pair for value in (windows.file[row], LABELS[windows.label[row]], windows.split[row])]
            for pair in pairs.values()]
    return pd.DataFrame(rows, columns=["file", "label", "split", "copy", "label_of_copy", "split_of_copy"])


def analyse_data_set(args):
    """Pictures and a table of statistics of a feature table; returns the exit status. Raises ArtifactError."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    windows = read_windows(args.dataset)
    table = pd.DataFrame(windows.features, columns=FEATURE_NAMES).assign(
        file=windows.file, label=np.array(LABELS, object)[windows.label], source=windows.source,
        sound_class=windows.sound_class, split=windows.split)
    table[["source", "sound_class", "split"]] = table[["source", "sound_class", "split"]].replace("", "not given")
    if table["label"].nunique() < 2:
        raise ArtifactError(f"{args.dataset} holds only {table['label'].iloc[0]} rows: nothing to compare")
    auc = pd.Series({name: roc_auc_score(windows.label, table[name]) for name in FEATURE_NAMES})
    clips = table.drop_duplicates("file")

    make_folder(args.out)
    names = ("features.png", "mfcc.png", "counts.png", "statistics.csv")
    paths = {name: os.path.join(args.out, f"dataset_{name}") for name in names}
    save_figure(draw_distributions(table, auc), paths["features.png"])
    save_figure(draw_mfcc(table), paths["mfcc.png"])
    save_figure(draw_counts(clips), paths["counts.png"])
    copies = copies_in_other_groups(windows) if any(windows.group) else None
    if copies is not None:
        paths["near_copies.csv"] = os.path.join(args.out, "dataset_near_copies.csv")
        copies.to_csv(paths["near_copies.csv"], index=False, encoding="utf-8", errors="surrogateescape")
    statistics = feature_statistics(table, auc)
    statistics.to_csv(paths["statistics.csv"], float_format="%.6g", index_label="feature")

    print(pd.crosstab(clips["source"], [clips["label"], clips["split"]], margins=True, margins_name="all").to_string())
    print(f"\n{len(clips)} clips, {len(table)} windows, {clips['sound_class'].nunique()} sound classes\n\nMFCC statistics")
    shown = ["scream_mean", "scream_std", "non_scream_mean", "non_scream_std", "roc_auc_alone"]
    print(statistics.loc[FEATURE_NAMES[: 2 * N_MFCC], shown].round(2).to_string())
    if copies is not None:
        apart = copies[copies["split"] != copies["split_of_copy"]]
        screams = (apart[["label", "label_of_copy"]] == "scream").any(axis=1).sum()
        tested = (apart[["split", "split_of_copy"]] == "test").any(axis=1).sum()
        print(f"\nclips that sound nearly the same, in different groups: {len(copies)} pairs; of {len(apart)} the two lie on two "
              f"sides of the split, {tested} with one in the test part, {screams} with a scream")
    print(f"\nwrote {', '.join(paths.values())}")
    return 0


def main(argv=None):
    args = parse_arguments(argv)
    return analyse_data_set(args) if args.dataset else analyse_recordings(args)


if __name__ == "__main__":
    run_stage(main)
