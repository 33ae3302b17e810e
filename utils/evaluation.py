"""Figures of a detector: computed once here, for training, comparison and model cards alike."""

import numpy as np
from sklearn.metrics import (accuracy_score, average_precision_score, confusion_matrix, f1_score, matthews_corrcoef,
                             precision_score, roc_auc_score)

from utils.ranking import recording_probabilities


def metrics_of(all_data):
    """What the figures in a model's JSON were measured on, for its field of this name."""
    return ("the same settings trained on the training split; these weights have since seen all clips" if all_data
            else "these weights")


def recall_at(label, score, false_positive_rate):
    """Share of screams above the score that only this share of the others exceeds (their own quantile)."""
    return float((score[label == 1] > np.quantile(score[label == 0], 1 - false_positive_rate)).mean())


def ranking_figures(label, score):
    """ROC-AUC, average precision, recall at 1 % and 5 % false positives. label: int [n], score: float [n].

    Empty when one of the two classes is missing.
    """
    if len(set(label)) < 2:
        return {}
    return {"roc_auc": float(roc_auc_score(label, score)), "average_precision": float(average_precision_score(label, score)),
            "recall_at_1_fpr": recall_at(label, score, 0.01), "recall_at_5_fpr": recall_at(label, score, 0.05)}


def group_intervals(runs, group, resamples=1000, seed=0):
    """How far the figures of clips may be by chance: {figure: (low, high)}, 95 % intervals by bootstrap over whole groups.

    Clips of one recording or contributor are no independent tests: groups are drawn with replacement, with all of their clips.
    runs: [(label, probability, verdict)], each [n_clips], of the same clips by models of one or several trainings, whose median
    counts. group: [n_clips]. Resamples without clips of both labels are left out.
    """
    rng, drawn = np.random.default_rng(seed), []
    members = [np.flatnonzero(group == name) for name in np.unique(group)]
    for _ in range(resamples):
        clips = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if len(set(runs[0][0][clips])) < 2:
            continue
        figures = [ranking_figures(label[clips], probability[clips]) | recall_and_false_positives(label[clips], verdict[clips])
                   for label, probability, verdict in runs]
        drawn.append({name: np.median([run[name] for run in figures]) for name in figures[0]})
    return {name: tuple(np.percentile([one[name] for one in drawn], [2.5, 97.5])) for name in drawn[0]} if drawn else {}


def recall_and_false_positives(label, verdict):
    """Recall and false-positive rate of verdicts [n]; 0 where there is no clip of that label."""
    called = {name: verdict[label == of] for name, of in (("recall", 1), ("false_positive_rate", 0))}
    return {name: float(verdicts.mean()) if len(verdicts) else 0.0 for name, verdicts in called.items()}


def verdict_figures(label, verdict):
    """Accuracy, precision, recall, F1, MCC, false-positive rate and confusion matrix [[tn, fp], [fn, tp]] of verdicts [n]."""
    rates = recall_and_false_positives(np.asarray(label), np.asarray(verdict))
    return {
        "accuracy": float(accuracy_score(label, verdict)), "precision": float(precision_score(label, verdict, zero_division=0)),
        "recall": rates["recall"], "f1": float(f1_score(label, verdict, zero_division=0)),
        "mcc": float(matthews_corrcoef(label, verdict)), "false_positive_rate": rates["false_positive_rate"],
        "confusion_matrix": confusion_matrix(label, verdict, labels=[0, 1]).tolist(),
    }


def clip_figures(windows, probability):
    """All figures at clip level: a clip is called a scream if one window reaches 0.5.

    Clips are ranked as recordings are, but without a look at loud parts, which takes the audio (compare_models.py has it).

    windows: utils.dataset.Windows; probability: [n_windows].
    """
    clip_label, highest = highest_window(windows.file, windows.label, probability)
    ranking = ranking_figures(clip_label, recording_probabilities(windows, probability))
    return verdict_figures(clip_label, highest >= 0.5) | ranking | {"clips": len(clip_label), "screams": int(clip_label.sum())}


def highest_window(file, label, score):
    """Per clip, sorted by file: its label [n_clips] and the highest score of its windows [n_clips]."""
    files, index = np.unique(file, return_inverse=True)
    highest = np.full(len(files), -np.inf)
    np.maximum.at(highest, index, score)
    clip_label = np.zeros(len(files), int)
    np.maximum.at(clip_label, index, np.asarray(label, int))
    return clip_label, highest
