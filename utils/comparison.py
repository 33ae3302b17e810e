"""Six models and their vote side by side: tables and figures from scores on held-out windows."""

import functools
import os
import sys
import time

import numpy as np

from utils.artifacts import ArtifactError, read_json, training_settings
from utils.audio import SAMPLE_RATE, WINDOW_S, AudioError, read_audio_again, trim_silence, window_starts
from utils.calibration import log_odds
from utils.dataset import EXTRACT, HOW_TO_GROUP, MEL_NPY, STFT_NPY, read_spectrograms
from utils.ensemble import MODEL_FILES, MODEL_NAMES
from utils.evaluation import group_intervals, highest_window, ranking_figures, verdict_figures
from utils.figures import empty_figure, import_seaborn, save_figure
from utils.noise_level import NOISE_FILE
from utils.ranking import PARTS, RecordingProbability
from utils.scan import Judge, ScoredWindow, hear_loud_part

VOTE = "vote"
MEAN = "vote, mean of windows"  # a clip's probability as audio taggers are usually scored, for comparison with them
FEW_CLIPS = 10  # with fewer of a label each of them is worth more than 0.1 of recall or of the false-positive rate
ROUNDED = 2  # samples by which the start of a window in the table may be off
COLUMNS = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "F1", "roc_auc": "ROC-AUC", "mcc": "MCC",
           "average_precision": "AP", "recall_at_1_fpr": "recall at 1 % FP", "recall_at_5_fpr": "recall at 5 % FP",
           "false_positive_rate": "FP rate", "ms_per_window": "ms/window", "file_mb": "MB"}


def score_rows(ensemble, windows, data_dir, manifest, rows, batch=256):
    """Probabilities [len(rows), n_models] of stored windows; the spectrograms are read from data_dir in pieces.

    Raises ArtifactError if there are no rows.
    """
    if not len(rows):
        raise ArtifactError(f"there are no clips to test on: {HOW_TO_GROUP}")
    stft = read_spectrograms(data_dir, STFT_NPY, len(windows), manifest)
    mel = read_spectrograms(data_dir, MEL_NPY, len(windows), manifest)
    scored = []
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        scored.append(ensemble.score_described(
            windows.features[part].astype(np.float32), stft[part].astype(np.float32), mel[part].astype(np.float32)))
    return np.concatenate(scored)


def time_models(ensemble, windows, data_dir, manifest, rows, repeats=5):
    """Milliseconds per window of each model on its own, the best of several runs over one batch."""
    stft = read_spectrograms(data_dir, STFT_NPY, len(windows), manifest)[rows[:64]].astype(np.float32)
    mel = read_spectrograms(data_dir, MEL_NPY, len(windows), manifest)[rows[:64]].astype(np.float32)
    features = windows.features[rows[:64]].astype(np.float32)
    milliseconds = {}
    for name in ensemble.names:
        alone = ensemble.only(name)
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            alone.score_described(features, stft, mel)
            seconds.append(time.perf_counter() - began)
        milliseconds[name] = min(seconds) / len(features) * 1000
    return milliseconds


class StoredClip:
    """The samples of a clip as stage 1 has cut them into windows, read when they are first asked for; see scan.RecentSamples."""

    def __init__(self, path, starts_s):
        """starts_s: starts of the clip's windows in the table, in seconds [n]."""
        self.path, self.starts_s = path, np.asarray(starts_s)

    @functools.cached_property
    def samples_and_starts(self):
        """(float32 [n], offset of each window in the file [n_windows]): silence at both ends is left out.

        Raises ArtifactError if the clip cannot be read, or is not the one that stage 1 has read.
        """
        try:
            samples, offset = trim_silence(read_audio_again(self.path))
        except AudioError as error:
            raise ArtifactError(f"{error}; the vote hears some windows again, in the clips that {EXTRACT} has read") from error
        starts = np.array(window_starts(len(samples))) + offset
        if np.abs(starts - self.starts_s[:, None] * SAMPLE_RATE).min(axis=1).max() > ROUNDED:
            raise ArtifactError(f"{self.path} is not what {EXTRACT} has read: run it again")
        return samples, starts

    def cut(self, from_s, to_s):
        """The samples between two moments of the file, fewer where the clip begins or ends: float32 [n]."""
        samples, starts = self.samples_and_starts
        first = round(from_s * SAMPLE_RATE)
        window = starts[np.abs(starts - first).argmin()]
        first = (window if abs(window - first) <= ROUNDED else first) - starts[0]
        return samples[max(0, first) : max(0, first + round((to_s - from_s) * SAMPLE_RATE))]


def scored_windows(windows, ensemble, probabilities):
    """The ScoredWindows of a clip in their order, from its windows (utils.dataset.Windows) and their [n, n_models] scores."""
    pooled, votes, verdict = ensemble.combine(probabilities)
    scored = []
    for row in np.argsort(windows.start_s, kind="stable"):
        start_s = float(windows.start_s[row])
        end_s = start_s + WINDOW_S
        scored.append(ScoredWindow(start_s, end_s, (start_s, end_s), 0.0, float(windows.band_level_db[row]), probabilities[row],
                                   float(pooled[row]), int(votes[row]), bool(verdict[row])))
    return scored


def clip_verdict(clip, ensemble, scored):
    """Whether main.py would find a scream in a StoredClip with these ScoredWindows."""
    judge, known = Judge(clip, ensemble), []
    for window in scored:
        known += judge.add(window)
    return any(called for _, called in [*known, *judge.finish()])


def loud_part_heard_by(columns, clip, ensemble, window):
    """What the models of these columns say of the loud part of a ScoredWindow that ranking asks for: [2, n], or None."""
    heard = hear_loud_part(clip, ensemble, window, **PARTS)
    return None if heard is None else heard[:, columns]


def clip_probabilities(clip, ensemble, scored):
    """What main.py would give a StoredClip with these ScoredWindows: with each model alone, and with all: [n_models + 1]."""
    every = list(range(len(ensemble.names)))
    voters = [*([column] for column in every), every]
    recordings = [RecordingProbability() for _ in voters]
    for window in scored:
        of_each, _, _ = ensemble.combine(window.probabilities[:, None])  # as if it were alone in the vote
        for recording, columns, probability in zip(recordings, voters, [*of_each, window.probability], strict=True):
            recording.add(window.start_s, float(probability), window.band_level_db,
                          functools.partial(loud_part_heard_by, columns, clip, ensemble, window))
    return [recording.finish() for recording in recordings]


def clip_scores(windows, rows, ensemble, probabilities):
    """Clip level: label [n_clips], {model or "vote": (probability [n_clips], verdict [n_clips])}.

    A clip's probability is that of utils.ranking, as main.py gives it with all models or one (inference_svm.py). A model calls
    it a scream if one window reaches 0.5, the vote if main.py would find an event in what stage 1 has cut into windows.
    """
    tested = windows.rows(rows)
    clip_label, _ = highest_window(tested.file, tested.label, probabilities[:, 0])
    _, index = np.unique(tested.file, return_inverse=True)
    ranked, called = [], []
    for rows_of_clip in np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1]):
        clip_windows = tested.rows(rows_of_clip)
        clip = StoredClip(clip_windows.file[0], clip_windows.start_s)
        scored = scored_windows(clip_windows, ensemble, probabilities[rows_of_clip])
        ranked.append(clip_probabilities(clip, ensemble, scored))
        called.append(clip_verdict(clip, ensemble, scored))
    scores = {name: (probability, highest_window(tested.file, tested.label, score)[1] >= 0.5)
              for name, probability, score in zip(ensemble.names, np.transpose(ranked), probabilities.T)}
    scores[VOTE] = np.array(ranked)[:, -1], np.array(called)
    return clip_label, scores


def mean_over_windows(windows, rows, probability):
    """Per clip, sorted by file, the mean log-odds of its windows: float [n_clips]."""
    _, index = np.unique(windows.file[rows], return_inverse=True)
    return np.bincount(index, log_odds(probability)) / np.bincount(index)


def warn_of_few_clips(label, tested):
    """Say that the figures of a test are rough where there are few clips of a label. tested: the test, in words."""
    n_screams, n_others = int((label == 1).sum()), int((label == 0).sum())
    if min(n_screams, n_others) < FEW_CLIPS:
        print(f"note: {tested} has few clips to test on (screams: {n_screams}, others: {n_others}): a single one changes the "
              "figures a lot, whatever their digits", file=sys.stderr)


def figures_of(label, scores):
    """{model: all its figures} from clip_scores."""
    return {name: verdict_figures(label, verdict) | ranking_figures(label, probability)
            for name, (probability, verdict) in scores.items()}


def clip_groups(windows, rows):
    """Per clip, sorted by file, its group: [n_clips]."""
    _, first = np.unique(windows.file[rows], return_index=True)
    return windows.group[rows][first]


def intervals_of(group, runs):
    """A sentence with 95 % intervals of the vote's figures. group: [n_clips]; runs: what clip_scores returns, per training."""
    label = runs[0][0]
    intervals = group_intervals([(label, *scores[VOTE]) for label, scores in runs], group)
    figures = ", ".join(f"{COLUMNS[name]} {low:.3f} to {high:.3f}" for name, (low, high) in intervals.items())
    return (f"95 % intervals of the vote (bootstrap over whole groups; the {label.sum()} screams are of "
            f"{len(set(group[label == 1]))} groups): {figures}.\n")


def confused_classes(windows, rows, ranked, most=5):
    """The sound classes with most clips above the 1 % false-positive level: [(class, clips above, clips)].

    ranked: the probabilities of the clips, sorted by file: [n_clips].
    """
    tested = windows.rows(rows)
    names = np.array([f"{s}/{c}" for s, c in zip(tested.source, tested.sound_class)])
    _, first = np.unique(tested.file, return_index=True)
    others = tested.label[first] == 0
    above = others & (ranked > np.quantile(ranked[others], 0.99))
    clip_class = names[first]
    counted = [(str(name), int((above & (clip_class == name)).sum()), int((clip_class == name).sum()))
               for name in np.unique(clip_class[above])]
    return sorted(counted, key=lambda row: (-row[1], row[0]))[:most]


def figure_rows(figures):
    """Header and rows of text for a table with a row per entry of {model: figures}; a figure that is missing is empty."""
    keys = [key for key in COLUMNS if any(key in values for values in figures.values())]
    rows = [[name] + [f"{values[key]:.3f}" if key in values else "" for key in keys] for name, values in figures.items()]
    return ["model"] + [COLUMNS[key] for key in keys], rows


def file_sizes(models_dir, names):
    """{model: size of its file in MB}."""
    return {name: os.path.getsize(os.path.join(models_dir, MODEL_FILES[name])) / 1e6 for name in names}


def reliability(label, probability, bins=8):
    """Mean probability and share of screams in bins of probability that hold clips: two arrays."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    used = [i for i in range(bins) if (index == i).any()]
    return (np.array([probability[index == i].mean() for i in used]), np.array([label[index == i].mean() for i in used]))


def plot_comparison(path, label, scores, title):
    """ROC, precision-recall, reliability and a confusion matrix per model and for the vote, in one figure."""
    from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

    figure = empty_figure(17, 12, dpi=80)
    axes = figure.subplots(3, 4)
    figure.suptitle(title)
    roc, recall_axis, calibration, spare = axes[0]
    for name, (probability, _) in scores.items():
        style = {"linewidth": 2.5, "color": "black"} if name == VOTE else {"linewidth": 1.2}
        RocCurveDisplay.from_predictions(label, probability, ax=roc, name=name, curve_kwargs=style)
        PrecisionRecallDisplay.from_predictions(label, probability, ax=recall_axis, name=name, curve_kwargs=style)
        calibration.plot(*reliability(label, probability), marker=".", label=name, **style)
    roc.set(xlim=(0, 0.3), ylim=(0.6, 1.005), title="ROC (left part)", xlabel="false-positive rate", ylabel="recall")
    recall_axis.set(title="precision and recall", xlabel="recall", ylabel="precision")
    calibration.plot([0, 1], [0, 1], ":", color="grey")
    calibration.set(title="reliability: 0.5 is the operating point", xlabel="probability", ylabel="share of screams")
    for axis in (roc, recall_axis, calibration):
        axis.legend(fontsize=7)
    for axis, (name, (_, verdict)) in zip([*axes[1], *axes[2]], scores.items()):
        draw_confusion(axis, name, np.array(verdict_figures(label, verdict)["confusion_matrix"]))
    for axis in (spare, *[*axes[1], *axes[2]][len(scores):]):
        axis.set_axis_off()
    save_figure(figure, path)


def plot_transfer(path, drawn):
    """ROC curves per direction: {title: (label, scores)}."""
    from sklearn.metrics import RocCurveDisplay

    figure = empty_figure(7 * len(drawn), 6, dpi=90)
    axes = figure.subplots(1, len(drawn), squeeze=False)
    for axis, (title, (label, scores)) in zip(axes[0], drawn.items()):
        for name, (probability, _) in scores.items():
            style = {"linewidth": 2.5, "color": "black"} if name == VOTE else {"linewidth": 1.2}
            RocCurveDisplay.from_predictions(label, probability, ax=axis, name=name, curve_kwargs=style)
        axis.set(xscale="log", xlim=(1e-3, 1), title=f"trained → tested: {title}", xlabel="false-positive rate", ylabel="recall")
        axis.legend(fontsize=8)
    save_figure(figure, path)


def draw_confusion(axis, name, matrix):
    import_seaborn().heatmap(matrix, annot=True, fmt="d", cbar=False, cmap="Blues", ax=axis,
                             xticklabels=["non_scream", "scream"], yticklabels=["non_scream", "scream"])
    axis.set(title=name, xlabel="called", ylabel="true")


def refuse_seen_clips(models_dir, reports, fingerprint):
    """ArtifactError when any of the models, or the noise.json beside them, may have learned from clips of the test split.

    reports: {model: its JSON}; fingerprint: of the artifacts of stage 1 whose test split is to be used.
    """
    seen, elsewhere, other_part = [], [], []
    noise = os.path.join(models_dir, NOISE_FILE)
    if os.path.isfile(noise):
        reports = reports | {NOISE_FILE: read_json(noise, "python train_ml.py")}
    for name in (*MODEL_NAMES, NOISE_FILE):
        if name not in reports:
            continue
        settings = training_settings(reports[name])
        if reports[name].get("training", {}).get("all_data"):
            seen.append(name)
        elif settings.get("fingerprint") != fingerprint:
            elsewhere.append(name)
        elif settings.get("sources") or settings.get("folds") or settings.get("split", "group") != "group":
            other_part.append(name)
    if seen:
        raise ArtifactError(
            f"{', '.join(seen)} in {models_dir} were trained on all clips, so a test on them would flatter; for honest figures "
            f"train without --all-data into another folder (--models DIR) and compare with --models DIR")
    if elsewhere:
        raise ArtifactError(
            f"{', '.join(elsewhere)} in {models_dir} were trained from other artifacts than these of {EXTRACT}, maybe with "
            f"another split: run the training scripts again, or give their --features and --data")
    if other_part:
        raise ArtifactError(
            f"{', '.join(other_part)} in {models_dir} were trained with --sources, --folds or --split random, so the test split "
            f"may hold clips that they learned from: train without these options into another folder (--models DIR)")
