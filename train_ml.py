"""Stage 2: train the three classical models (SVM, random forest, logistic regression) on the 34 features.

    python train_ml.py                                          about 30 s on 2 CPU cores
    python train_ml.py --features table.csv --models DIR        any table with file,label and the 34 features
    python train_ml.py --features table.csv --models DIR --split random      as others report: 80/20, stratified

Reads audio_features.csv, data/augmented_features.csv and data/noise_features.csv (python extract_features.py makes them).
Writes three scikit-learn pipelines and a JSON beside each (settings, operating point, figures) to models/, and noise.json,
by which the vote knows how noisy a short clip is.
A bare table has no groups: near-identical rows and neighbouring file numbers are then grouped, and the accuracy of a
random split, which puts near copies on both sides, is printed beside the honest one.
"""

import argparse
import os

import joblib
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.svm import SVC

from utils.artifacts import (ArtifactError, atomic_path, check_evaluated, check_output, library_versions, list_pickle, read_json,
                             run_stage, sha256_of, write_json)
from utils.calibration import fit_calibration, probability_of
from utils.dataset import (AUGMENTED_CSV, EXTRACT, HOW_TO_GROUP, NOISE_CSV, SYNTHESISED, add_split_options, check_size,
                           check_split_options, choose_split, copies_of, group_near_copies, next_command, read_manifest,
                           read_windows, spread_groups)
from utils.ensemble import CLASSICAL_FILES, classical_score
from utils.evaluation import clip_figures, highest_window, metrics_of
from utils.features import SIGNAL_SETTINGS
from utils.noise_level import NO_NOISE, NOISE_FILE, as_json, fit_noise_level

# Smooth boundaries only: sharper ones win inside the collections and lose on others (models/EXPERIMENTS.md).
SVM_GRID = {"svc__C": [0.25, 0.5, 1], "svc__gamma": [0.001, 0.002, 0.003]}
UNTUNED_SVM = {"svc__C": 0.5, "svc__gamma": 0.002}  # where there are too few recordings to choose by
TUNING_FOLDS = 4
WEIGHTED = ("svm", "logistic_regression")  # by copy_weights: the forest gains nothing and hears less in noise (EXPERIMENTS.md)
LEAST_HEARD = 0.02  # of a scream in a copy
SIGNAL_WEIGHT = 1.5  # of a synthesised siren, beep, note, tone or noise; another sound has 1
RANDOM_SPLIT_GRID = {"svc__C": [0.5, 1, 4, 16], "svc__gamma": [0.003, 0.01, 0.03, 0.06]}
PUBLISHED_SEED = 42  # of the published figures that --split random is compared with
LEAST_RANDOM_ROWS = 10  # of each label: a fifth is held out, and of the rest each of five folds needs one


def build_pipelines(seed):
    """Untrained pipelines: a classifier behind its scaling, screams weighted as much as all other sounds."""
    return {
        "svm": make_pipeline(StandardScaler(), SVC(kernel="rbf", class_weight="balanced", cache_size=500)),
        "random_forest": make_pipeline(StandardScaler(), RandomForestClassifier(
            100, max_features=6, criterion="entropy", class_weight="balanced", random_state=seed)),
        "logistic_regression": make_pipeline(PowerTransformer(), LogisticRegression(class_weight="balanced", max_iter=2000)),
    }


def recording_folds(windows, seed):
    """Cross-validation over whole recordings of the training rows; None where a label has too few of them."""
    if min(len(set(windows.group[windows.label == label])) for label in (0, 1)) < TUNING_FOLDS:
        return None
    return StratifiedGroupKFold(TUNING_FOLDS, shuffle=True, random_state=seed)


def tune_svm(pipeline, windows, args):
    """C and gamma by cross-validation on the training rows: group-aware, judged by average precision.

    For --split random, groups and ranking are left out here too, as in the published figures.
    """
    if args.split == "random":
        folds = StratifiedKFold(5, shuffle=True, random_state=args.seed)
        search = GridSearchCV(pipeline, RANDOM_SPLIT_GRID, scoring="accuracy", cv=folds, n_jobs=args.jobs, refit=False)
    else:
        folds = recording_folds(windows, args.seed)
        if not folds:
            print(f"SVM: too few recordings to tune it by, so {UNTUNED_SVM}; {HOW_TO_GROUP}")
            return UNTUNED_SVM
        search = GridSearchCV(pipeline, SVM_GRID, scoring="average_precision", cv=folds, n_jobs=args.jobs, refit=False)
    search.fit(windows.features, windows.label, groups=None if args.split == "random" else windows.group)
    print(f"SVM: {search.best_params_}, cross-validated {search.scoring.replace('_', ' ')} {search.best_score_:.3f}")
    return search.best_params_


def can_split_at_random(windows):
    """Whether both labels have enough rows for a random split and its cross-validation."""
    return min((windows.label == label).sum() for label in (0, 1)) >= LEAST_RANDOM_ROWS


def random_split(windows):
    """80/20, stratified by label, as published figures are made; no group is kept together."""
    test = train_test_split(np.arange(len(windows)), test_size=0.2, random_state=PUBLISHED_SEED, stratify=windows.label)[1]
    split = np.full(len(windows), "train", dtype=object)
    split[test] = "test"
    return split


def grouped_split(windows, seed):
    """80/20 of whole groups, for a table that brings no split."""
    label = np.where(windows.label == 1, "scream", "non_scream")
    part = spread_groups(label, windows.source, windows.group, [0.8, 0.2], seed)
    return np.where(part == 1, "test", "train").astype(object)


def evaluate(pipeline, windows, split, calibration):
    """Clip-level figures of each part of the split; the test part also gets its report and its distance to training."""
    figures = {}
    for part in ("train", "validation", "test"):
        rows = windows.rows(split == part)
        if not len(rows):
            continue
        probability = probability_of(classical_score(pipeline, rows.features), calibration)
        figures[part] = clip_figures(rows, probability)
        if part == "test":
            label, highest = highest_window(rows.file, rows.label, probability)
            figures[part]["train_test_accuracy_gap"] = figures["train"]["accuracy"] - figures[part]["accuracy"]
            figures[part]["classification_report"] = classification_report(
                label, highest >= 0.5, labels=[0, 1], target_names=["non_scream", "scream"], zero_division=0)
    return figures


def print_figures(name, figures):
    print(f"\n{name}")
    for part, values in figures.items():
        print(f"  {part:10} " + "  ".join(f"{key} {value:.4f}" for key, value in values.items() if isinstance(value, float)))
    if "test" in figures:
        (tn, fp), (fn, tp) = figures["test"]["confusion_matrix"]
        print(f"  test confusion matrix (rows true non_scream, scream): [[{tn}, {fp}], [{fn}, {tp}]]")
        print(figures["test"]["classification_report"])


def with_copies(rows, copies):
    """(features, labels) of the rows of clips, followed by those of their augmented copies if there are any."""
    tables = [rows] if copies is None else [rows, copies]
    return np.concatenate([table.features for table in tables]), np.concatenate([table.label for table in tables])


def copy_weights(rows, copies, args):
    """How much each training row counts, float [rows + copies]; screams have mean 1, as other sounds but synthesised signals.

    In some copies the other sound hides the scream, and to learn those as screams costs rank where nothing hides it. So a copy
    of a scream counts with the square of the probability that a random forest gives it which has not heard its recording.
    Pure screams then count more, and sirens would be taken for them: synthesised signals count a little more, too.
    """
    weights = np.where(np.concatenate([rows.source, copies.source]) == SYNTHESISED, SIGNAL_WEIGHT, 1.0)
    folds = recording_folds(rows, args.seed)
    if not folds or not len(copies):
        return weights
    features, label = with_copies(rows, copies)
    probability = cross_val_predict(build_pipelines(args.seed)["random_forest"], features, label, cv=folds, n_jobs=args.jobs,
                                    groups=np.concatenate([rows.group, copies.group]), method="predict_proba")[:, 1]
    copied_screams = len(rows) + np.flatnonzero(copies.label == 1)
    weights[copied_screams] = np.maximum(probability[copied_screams], LEAST_HEARD) ** 2
    weights[label == 1] /= weights[label == 1].mean()
    return weights


def train(name, pipeline, windows, extra, weights, split, evaluated, args):
    """Fit one pipeline on the training rows and their augmented copies, in place. Returns its operating point.

    extra: {part of the split: augmented rows}. weights: of the training rows and their copies, or None. evaluated: with
    --all-data the JSON of the evaluated model, whose settings and operating point are kept, else None.
    """
    rows = windows.rows(split == "train")
    if name == "svm":
        pipeline.set_params(**(evaluated["training"]["tuned"] if evaluated else tune_svm(pipeline, rows, args)))
    classifier, _ = pipeline.steps[-1]
    weighted = {f"{classifier}__sample_weight": weights} if name in WEIGHTED else {}
    pipeline.fit(*with_copies(rows, extra.get("train")), **weighted)
    held_out = windows.rows(split == "validation")
    if evaluated:
        return evaluated["calibration"]
    if len(set(held_out.label)) == 2:
        features, label = with_copies(held_out, extra.get("validation"))
        return fit_calibration(label, classical_score(pipeline, features))
    return {"threshold": 0.0, "slope": 1.0}  # no screams or no other sounds held out: the classifier's own decision


def save(name, pipeline, calibration, metrics, settings, args):
    path = os.path.join(args.models, CLASSICAL_FILES[name])
    with atomic_path(path) as temporary:
        joblib.dump(pipeline, temporary, compress=3)
    digest = sha256_of(path)
    tuned = {key: pipeline.get_params()[key] for key in SVM_GRID} if name == "svm" else {}
    write_json(os.path.splitext(path)[0] + ".json", {
        "model": name, "file": os.path.basename(path), "sha256": digest, "settings": settings, "calibration": calibration,
        "metrics": metrics, "metrics_of": metrics_of(args.all_data), "training": {"all_data": args.all_data, "tuned": tuned},
        "versions": library_versions("scikit-learn", "numpy", "joblib"),
    })
    list_pickle(path, digest)
    print(f"  wrote {path} ({os.path.getsize(path) / 1e6:.2f} MB)")


def train_all(windows, extra, split, settings, args, write=True):
    """Train and evaluate the three pipelines; with `write`, print and save them. Returns {model: {part: figures}}."""
    figures, weights = {}, None
    if "train" in extra:
        weights = copy_weights(windows.rows(split == "train"), extra["train"], args)
    for name, pipeline in build_pipelines(args.seed).items():
        json_path = os.path.join(args.models, os.path.splitext(CLASSICAL_FILES[name])[0] + ".json")
        evaluated = read_json(json_path, "train_ml.py without --all-data") if args.all_data else None
        if evaluated:
            check_evaluated(json_path, evaluated, settings)
        calibration = train(name, pipeline, windows, extra, weights, split, evaluated, args)
        figures[name] = evaluate(pipeline, windows, split, calibration)
        if write:
            print_figures(name, figures[name])
            metrics = evaluated["metrics"] if evaluated else figures[name]
            save(name, pipeline, calibration, metrics, settings, args)
    return figures


def train_noise_level(windows, noisy, split, settings, args):
    """Learn from the training rows and their copies in noise how noisy a window is, and write it beside the models."""
    path = os.path.join(args.models, NOISE_FILE)
    clean = windows.rows((split == "train") & (windows.source != SYNTHESISED))
    level = fit_noise_level(clean.features, noisy.features) if len(noisy) else NO_NOISE
    write_json(path, as_json(level, settings, args.all_data))
    if len(noisy):
        of_noisy, of_clean = ((level.probability(rows.features) >= 0.5).mean() for rows in (noisy, clean))
        print(f"\nnoise: {of_noisy:.3f} of {len(noisy)} windows in noise are heard as such, {of_clean:.3f} of the {len(clean)} "
              "others")
    else:
        print("\nnoise: no rows in noise to learn from, so short clips are judged as if there were none")
    print(f"  wrote {path}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_split_options(parser)
    parser.add_argument("--split", choices=["group", "random"], default="group",
                        help="random: 80/20 without groups, as others report")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(),
                        help="processes that search the SVM's settings and hear the copies (default: one per core)")
    args = parser.parse_args(argv)
    check_split_options(parser, args)
    if args.jobs < 1:
        parser.error("--jobs must be at least 1")
    if args.split == "random" and (args.sources or args.folds or args.all_data):
        parser.error("--split random excludes --sources, --folds and --all-data")
    if args.split == "random":
        if args.seed not in (parser.get_default("seed"), PUBLISHED_SEED):
            parser.error(f"--split random has seed {PUBLISHED_SEED}, as published figures have")
        args.seed = PUBLISHED_SEED

    windows = read_windows(args.features)
    settings = {"signal": SIGNAL_SETTINGS, "split": args.split, "sources": args.sources, "fold": args.fold, "folds": args.folds,
                "seed": args.seed}
    bare = not any(windows.group)
    if bare and (args.sources or args.folds or args.all_data):
        raise ArtifactError(f"{args.features} is a bare table without sources and groups: --sources, --folds and --all-data need "
                            f"one that {EXTRACT} made")
    if bare:
        if args.split == "group":
            print(f"{args.features} has no groups: near-identical rows and neighbouring file numbers are kept together")
        windows.group = group_near_copies(windows)
        extra, split = {}, grouped_split(windows, args.seed)
        settings["signal"] = "unknown: a bare table"  # main.py will not use such models on audio
    else:
        manifest = read_manifest(args.data)
        check_size(args.features, manifest)
        split = choose_split(windows, args.sources, args.folds, args.fold, args.all_data, args.seed)
        copies = read_windows(os.path.join(args.data, AUGMENTED_CSV), manifest)
        extra = {part: copies_of(part, copies, windows, split) for part in ("train", "validation")}
        noisy = copies_of("train", read_windows(os.path.join(args.data, NOISE_CSV), manifest), windows, split)
        settings["fingerprint"] = manifest["fingerprint"]
    if args.split == "random":
        if not can_split_at_random(windows):
            raise ArtifactError(f"{args.features}: --split random needs at least {LEAST_RANDOM_ROWS} rows of each label")
        extra, split = {}, random_split(windows)
    if bare and not (split == "test").any():
        raise ArtifactError(f"{args.features}: no group of clips can be held out for the test; {HOW_TO_GROUP}")
    if len(set(windows.label[split == "train"])) < 2:
        raise ArtifactError(f"{args.features}: the training split needs clips of both labels, scream and non_scream")
    for name in (*CLASSICAL_FILES.values(), NOISE_FILE):
        check_output(os.path.join(args.models, name))
    print(f"windows: {', '.join(f'{(split == part).sum()} {part}' for part in ('train', 'validation', 'test'))}; "
          f"{len(extra.get('train', ()))} augmented rows")
    honest = train_all(windows, extra, split, settings, args)
    if not bare and args.split == "group":
        train_noise_level(windows, noisy, split, settings, args)
    if bare and args.split == "group" and can_split_at_random(windows):
        print("\nwith a random split, near copies on both sides (--split random):")
        as_published = argparse.Namespace(**vars(args) | {"split": "random", "seed": PUBLISHED_SEED})
        for name, figures in train_all(windows, {}, random_split(windows), settings, as_published, write=False).items():
            random, grouped = (which["test"]["accuracy"] for which in (figures, honest[name]))
            print(f"  {name:20} accuracy {random:.4f}; grouped, it is {abs(random - grouped):.4f} "
                  f"{'lower' if grouped < random else 'higher'}")
    if not bare and args.split == "group":  # networks need spectrograms, and know no random split
        same = ("features", "data", "models", "seed", "sources", "folds", "fold", "all_data")
        print("next:", next_command("train_cnn.py", **{name: getattr(args, name) for name in same}))
    return 0


if __name__ == "__main__":
    run_stage(main)
