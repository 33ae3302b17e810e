"""Raw scores to probabilities, so that 0.5 is each model's operating point and the six can vote."""

import numpy as np

# A model's operating point lies so far on the way from the middle of the held-out windows without a scream to the upper
# quartile of those with one: where five-fold cross-validation and 70 minutes of ambience give few false alarms. The
# highest few scores of other sounds would be the more direct measure, but they differ from one held-out set to the next.
OTHERS_QUANTILE, SCREAMS_QUANTILE = 0.5, 0.75
OPERATING_SHARE = 0.75
LEAST_QUANTILE = 0.95  # of the others lies below it, however weak the model is


def fit_calibration(label, score):
    """Operating point and steepness of a model from held-out windows.

    label: int [n], 1 = scream, both labels present; score: float [n], higher = more scream-like. Returns {"threshold",
    "slope"} for `probability_of`. The slope is that of Platt (1999), fitted by maximum likelihood with the threshold held
    fixed and both classes given equal weight. Raises ValueError if a label is missing.
    """
    label, score = np.asarray(label), np.asarray(score, float)
    if len(np.unique(label)) < 2:
        raise ValueError("an operating point needs windows with and without a scream")
    low, high = np.quantile(score[label == 0], OTHERS_QUANTILE), np.quantile(score[label == 1], SCREAMS_QUANTILE)
    threshold = float(max(low + OPERATING_SHARE * (high - low), np.quantile(score[label == 0], LEAST_QUANTILE)))
    threshold += 1e-6 * max(1.0, abs(threshold))  # where all scores are the same, nothing is a scream
    distance = score - threshold
    weight = np.where(label == 1, 0.5 / (label == 1).sum(), 0.5 / (label == 0).sum())
    slopes = np.geomspace(0.05, 20, 200) / max(float(score.std()), 1e-9)
    signed = np.where(label == 1, distance, -distance)
    losses = [(weight * np.logaddexp(0, -slope * signed)).sum() for slope in slopes]
    return {"threshold": threshold, "slope": float(slopes[int(np.argmin(losses))])}


def log_odds(probability, bound=1e-13):
    """Probabilities (0-1) to log-odds; those below `bound` count as that, those above 1 - `bound`, too: all are finite."""
    bounded = np.clip(probability, bound, 1 - bound)
    return np.log(bounded / (1 - bounded))


def from_log_odds(log_odds):
    """Log-odds to probabilities, the inverse of log_odds."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))


def probability_of(score, calibration):
    """Raw scores [n] -> probabilities [n]; 0.5 at the operating point."""
    return from_log_odds(calibration["slope"] * (np.asarray(score, float) - calibration["threshold"]))
