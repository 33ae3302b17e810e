"""Stage 3: the six models and their vote, side by side, on clips that none of them has seen.

    python compare_models.py                     the test split: table, models/comparison.csv, .md and .png
    python compare_models.py --transfer          train on some collections, test on others: models/transfer.md and .png
    python compare_models.py --cross-validate 5  every clip tested once, by models that never saw its group

The vote hears noisy windows and loud parts of windows again: the clips must lie where extract_features.py has read them.
The first takes half a minute. The other two train through the stage scripts, in checkpoints/, and continue where they were
interrupted; models there of other artifacts or options are trained again. On 2 CPU cores with --jobs 2, three seeds of
--transfer take about 75 minutes, 5-fold cross-validation 60.
"""

import argparse
import importlib
import os
import subprocess
import sys
import threading

import numpy as np

from utils.artifacts import REPOSITORY, ArtifactError, check_output, make_folder, other_settings, read_json, run_stage
from utils.comparison import (MEAN, VOTE, clip_groups, clip_scores, confused_classes, figure_rows, figures_of, file_sizes,
                              intervals_of, mean_over_windows, plot_comparison, plot_transfer, refuse_seen_clips, score_rows,
                              time_models, warn_of_few_clips)
from utils.dataset import FEATURES_CSV, SYNTHESISED, choose_split, read_manifest, read_windows
from utils.ensemble import MODEL_FILES, load_ensemble, training_command
from utils.evaluation import ranking_figures
from utils.noise_level import NOISE_FILE
from utils.options import add_trust_option
from utils.tables import markdown_table, write_csv, write_text

# whole collections on one side only; petz and animalia came later and take part in neither side
SIDES = {"A": ("noise-of-life", "esc10", "baby-cry-detection"),
         "B": ("screamingstrike", "cdogs", "cpsc870", "cs679-asylum", "spankthefox", "actionmovie", "openclonk", "opensoldat",
               "wbwwb", "emogator", "fsdkaggle2018", "moodist")}
DIRECTIONS = (("A", "B"), ("B", "A"))  # (trained on, tested on)
STAGES = ("train_ml.py", "train_cnn.py", "train_cnn_mel.py", "train_cnn_lstm.py")
CLIP_LEVEL = ("Clip level: clips, without silence at their ends, are ranked by the probability that main.py gives them "
              "(utils/ranking.py).")
DEVELOPMENT = ("Figures of development: training, operating points and rules were chosen with a look at figures of these clips, "
               "too (models/README.md, models/EXPERIMENTS.md).")
TRANSFER_COLUMNS = ("roc_auc", "average_precision", "recall_at_1_fpr", "recall_at_5_fpr", "recall", "false_positive_rate")


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default=FEATURES_CSV, metavar="CSV")
    parser.add_argument("--data", default="data", metavar="DIR")
    parser.add_argument("--models", default="models", metavar="DIR", help="models to compare; reports go to this folder too")
    parser.add_argument("--transfer", action="store_true", help="whole-source hold-out in both directions")
    parser.add_argument("--cross-validate", type=int, metavar="K", help="group-safe K-fold cross-validation")
    parser.add_argument("--seeds", type=int, default=1,
                        help="with --transfer: seeds to train, the median is reported (default %(default)s)")
    parser.add_argument("--work", default="checkpoints", metavar="DIR",
                        help="models of --transfer and --cross-validate (default %(default)s)")
    parser.add_argument("--epochs", type=int, help="with either: epochs of the networks (default: as the stage scripts)")
    parser.add_argument("--jobs", type=int, default=1,
                        help="with either: stage scripts that train at the same time (default %(default)s)")
    add_trust_option(parser)
    args = parser.parse_args(argv)
    for name, default, needed in (("seeds", 1, args.transfer), ("epochs", None, args.transfer or args.cross_validate),
                                  ("jobs", 1, args.transfer or args.cross_validate)):
        if getattr(args, name) != default and not needed:
            parser.error(f"--{name} needs --transfer{'' if name == 'seeds' else ' or --cross-validate'}")
    if args.cross_validate is not None and args.cross_validate < 3:
        parser.error("--cross-validate needs at least 3 parts")
    for name in ("seeds", "epochs", "jobs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return args


def epochs_given(args):
    """How a report names --epochs: a quick look must not read as the published figures."""
    return f" --epochs {args.epochs}" if args.epochs else ""


def is_trained(path, wanted):
    """Whether the JSON of a model says that it was trained with these settings: {name: value}."""
    try:
        return not other_settings(read_json(path, "the training script"), wanted)
    except ArtifactError:
        return False


def train_missing(args, tasks, fingerprint):
    """Run the stage scripts for {folder: their options} where such models are not there yet, `jobs` at a time.

    tasks: {folder: {"sources": [...], "seed": 0} or {"folds": 5, "fold": 0}}. fingerprint: of the artifacts to learn from; a
    model that was made from others, or with other options, is trained again.
    """
    from joblib import Parallel, delayed

    def run(folder, options, stage):
        wanted = dict(options)
        if stage != "train_ml.py":
            wanted |= importlib.import_module(os.path.splitext(stage)[0]).SETTINGS
            wanted["epochs"] = args.epochs or wanted["epochs"]
        made = [name for name in MODEL_FILES if training_command(name) == f"python {stage}"]
        files = [os.path.splitext(MODEL_FILES[name])[0] + ".json" for name in made]
        if stage == "train_ml.py":
            files.append(NOISE_FILE)
        if all(is_trained(os.path.join(folder, file), wanted | {"fingerprint": fingerprint}) for file in files):
            return
        if stopped.is_set():
            return
        command = [sys.executable, os.path.join(REPOSITORY, stage),
                   "--features", args.features, "--data", args.data, "--models", folder]
        for name, value in wanted.items():
            command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        if args.jobs > 1:
            command += ["--jobs", "1"] if stage == "train_ml.py" else ["--threads", "1"]
        print("training:", stage, *command[2:], file=sys.stderr, flush=True)
        log = os.path.join(folder, os.path.splitext(stage)[0] + ".log")
        make_folder(folder)
        with open(log, "w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
            training.append(process)
            if process.wait() and not stopped.is_set():
                raise ArtifactError(f"{stage} failed; see {log}")

    training, stopped = [], threading.Event()
    try:
        Parallel(args.jobs, backend="threading")(
            delayed(run)(folder, options, stage) for stage in STAGES for folder, options in tasks.items())
    except BaseException:  # also SIGTERM, which reaches this process alone: nobody trains on for a run that is over
        stopped.set()
        for process in training:
            process.terminate()
        raise


def load_all_models(folder, trust):
    """The ensemble in a folder that --transfer or --cross-validate trained; ArtifactError if one of the six is missing."""
    # one thread: on a busy machine several wait for each other, ten times as long in all
    ensemble = load_ensemble(folder, threads=1, trust_unlisted=trust)
    if ensemble.missing:
        raise ArtifactError(f"the vote of the report needs all six models: {'; '.join(ensemble.missing.values())}")
    return ensemble


def compare_test_split(args, windows, manifest):
    ensemble = load_ensemble(args.models, trust_unlisted=args.trust_models)
    for why in ensemble.missing.values():
        print(f"left out: {why}", file=sys.stderr)
    refuse_seen_clips(args.models, ensemble.reports, manifest["fingerprint"])
    rows = np.flatnonzero(windows.split == "test")
    probabilities = score_rows(ensemble, windows, args.data, manifest, rows)
    label, scores = clip_scores(windows, rows, ensemble, probabilities)
    warn_of_few_clips(label, "the test split")
    figures = figures_of(label, scores)
    milliseconds, sizes = time_models(ensemble, windows, args.data, manifest, rows), file_sizes(args.models, ensemble.names)
    for name in ensemble.names:
        figures[name] |= {"ms_per_window": milliseconds[name], "file_mb": sizes[name]}
    figures[VOTE] |= {"ms_per_window": sum(milliseconds.values()), "file_mb": sum(sizes.values())}
    header, table = figure_rows(figures)
    title = (f"test split: {len(label)} clips, {label.sum()} of them screams; no group of clips is in training and test; "
             f"networks in {ensemble.runtime}")
    if ensemble.missing:
        title += f"; without {', '.join(ensemble.missing)}"
    text = f"{title}\n\n" + markdown_table(header, table) + "\n" + intervals_of(clip_groups(windows, rows), [(label, scores)])
    print(text)
    write_csv(os.path.join(args.models, "comparison.csv"), header, table)
    write_text(os.path.join(args.models, "comparison.md"),
               f"# Comparison of the models\n\n`python compare_models.py`, {text}\n{DEVELOPMENT}\n")
    plot_comparison(os.path.join(args.models, "comparison.png"), label, scores, title)
    print(f"wrote comparison.csv, comparison.md and comparison.png to {args.models}")


def in_new_groups(windows, train):
    """Which windows are of a group without clips on side `train`: bool [n_windows]. Copies may lie in two collections."""
    return ~np.isin(windows.group, windows.group[np.isin(windows.source, SIDES[train])])


def check_sides(windows, features):
    """ArtifactError unless table `features` has clips of each collection in SIDES, on each side of both labels to test."""
    here = "SIDES at the top of compare_models.py names the collections: put yours there"
    absent = {side: [name for name in names if name not in windows.source] for side, names in SIDES.items()}
    if any(absent.values()):
        named = "; ".join(f"of side {side}: {', '.join(names)}" for side, names in absent.items() if names)
        own = ", ".join(sorted(set(windows.source) - {SYNTHESISED}))
        raise ArtifactError(f"{features} has no clips {named}. It has clips of {own}. {here}")
    for side, names in SIDES.items():
        if len(set(windows.label[np.isin(windows.source, names)])) < 2:
            raise ArtifactError(f"side {side} ({', '.join(names)}) needs clips of both labels in {features}; {here}")
    for train, test in DIRECTIONS:
        left = np.isin(windows.source, SIDES[test]) & in_new_groups(windows, train)
        if len(set(windows.label[left])) < 2:
            raise ArtifactError(f"without the groups that have clips in {train}, too, side {test} has no clips of both labels in "
                                f"{features}; {here}")


def transfer(args, windows, manifest):
    """Train on side A, test on side B, and the other way round."""
    check_sides(windows, args.features)
    check_output(os.path.join(args.models, "transfer.md"))
    folder_of = {(train, seed): os.path.join(args.work, "transfer", f"{train}-seed{seed}")
                 for train, _ in DIRECTIONS for seed in range(args.seeds)}
    train_missing(args, {folder: {"sources": list(SIDES[train]), "seed": seed} for (train, seed), folder in folder_of.items()},
                  manifest["fingerprint"])
    text, drawn = [], {}
    for train, test in DIRECTIONS:
        every_row = np.flatnonzero(np.isin(windows.source, SIDES[test]))
        rows = every_row[in_new_groups(windows, train)[every_row]]
        new = np.isin(np.unique(windows.file[every_row]), windows.file[rows])  # [n_clips], sorted by file
        runs, scored, confused = [], [], None
        for seed in range(args.seeds):
            ensemble = load_all_models(folder_of[train, seed], args.trust_models)
            probabilities = score_rows(ensemble, windows, args.data, manifest, every_row)
            every_label, every_score = clip_scores(windows, every_row, ensemble, probabilities)
            label, scores = every_label[new], {name: tuple(values[new] for values in both) for name, both in every_score.items()}
            voted, _, _ = ensemble.combine(probabilities)
            mean = mean_over_windows(windows, every_row, voted)
            runs.append(figures_of(label, scores) | {MEAN: ranking_figures(label, mean[new])})
            if not new.all():
                of_vote = figures_of(every_label, {VOTE: every_score[VOTE]})
                runs[-1][f"{VOTE}, and {(~new).sum()} clips of groups in {train}"] = of_vote[VOTE]
            scored.append((label, scores))
            confused = confused or confused_classes(windows, rows, scores[VOTE][0])
            drawn.setdefault(f"{train} → {test}", (label, scores))
        warn_of_few_clips(label, f"side {test}")
        median = {name: {key: float(np.median([run[name][key] for run in runs])) for key in TRANSFER_COLUMNS if key in figures}
                  for name, figures in runs[0].items()}
        header, table = figure_rows(median)
        text.append(
            f"## Trained on {train}, tested on {test}\n\n{len(label)} clips, {label.sum()} of them screams; "
            f"{'median of ' + str(args.seeds) + ' seeds' if args.seeds > 1 else 'one seed'}.\n\n{markdown_table(header, table)}\n"
            f"{intervals_of(clip_groups(windows, rows), scored)}\n"
            f"Most confused by the vote, clips above its 1 % false-positive level (seed 0): "
            + ", ".join(f"{name} ({above} of {n})" for name, above, n in confused) + ".\n")
    sides = "\n".join(f"- {side}: {', '.join(names)}" for side, names in SIDES.items())
    report = (f"# Transfer: whole collections held out\n\n`python compare_models.py --transfer --seeds {args.seeds}"
              f"{epochs_given(args)}`. "
              f"{CLIP_LEVEL} No clip of a tested collection was used for training, for stopping, or for the "
              "operating point. Clips of groups that have clips on both sides are left out; if there are any, a last row counts "
              "them, too. "
              f"{DEVELOPMENT}\n\n{sides}\n\n" + "\n".join(text))
    print(report)
    write_text(os.path.join(args.models, "transfer.md"), report)
    plot_transfer(os.path.join(args.models, "transfer.png"), drawn)


def cross_validate(args, windows, manifest):
    """Every clip scored once by models that saw none of its group."""
    k = args.cross_validate
    check_output(os.path.join(args.models, "cross_validation.md"))
    # the seed deals the folds: models of another one have seen clips of this test part
    folders = {os.path.join(args.work, f"folds-{k}", str(fold)): {"folds": k, "fold": fold, "seed": 0} for fold in range(k)}
    train_missing(args, folders, manifest["fingerprint"])
    per_fold, labels, groups, pooled, means = [], [], [], {}, []
    for fold, folder in enumerate(folders):
        rows = np.flatnonzero(choose_split(windows, folds=k, fold=fold, seed=0) == "test")
        ensemble = load_all_models(folder, args.trust_models)
        probabilities = score_rows(ensemble, windows, args.data, manifest, rows)
        label, scores = clip_scores(windows, rows, ensemble, probabilities)
        per_fold.append(figures_of(label, scores)[VOTE])
        labels.append(label)
        groups.append(clip_groups(windows, rows))
        means.append(mean_over_windows(windows, rows, ensemble.combine(probabilities)[0]))
        for name, (probability, verdict) in scores.items():
            pooled.setdefault(name, []).append((probability, verdict))
    label = np.concatenate(labels)
    warn_of_few_clips(label, "the table")
    scores = {name: tuple(np.concatenate(parts) for parts in zip(*runs)) for name, runs in pooled.items()}
    header, table = figure_rows(figures_of(label, scores) | {MEAN: ranking_figures(label, np.concatenate(means))})
    folds_header, folds_table = figure_rows({f"vote, fold {i}": figures for i, figures in enumerate(per_fold)})
    report = (f"# Cross-validation\n\n`python compare_models.py --cross-validate {k}{epochs_given(args)}`: {len(label)} clips, "
              f"{label.sum()} of them screams, each scored once by models that saw none of its group; scores of all folds "
              f"pooled. {CLIP_LEVEL} {DEVELOPMENT}\n\n" + markdown_table(header, table) + "\n"
              + intervals_of(np.concatenate(groups), [(label, scores)]) + "\n" + markdown_table(folds_header, folds_table))
    print(report)
    write_text(os.path.join(args.models, "cross_validation.md"), report)


def main(argv=None):
    args = parse_arguments(argv)
    manifest = read_manifest(args.data)
    windows = read_windows(args.features, manifest)
    if args.transfer:
        transfer(args, windows, manifest)
    if args.cross_validate:
        cross_validate(args, windows, manifest)
    if not args.transfer and not args.cross_validate:
        compare_test_split(args, windows, manifest)
    return 0


if __name__ == "__main__":
    run_stage(main)
