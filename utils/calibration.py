"""Raw scores to probabilities, so that 0.5 is each model's operating point and the six can vote."""

import numpy as np

# Of the held-out windows without a scream, and of their noisy copies, at most this share lies above a model's operating
# point. The largest share, in steps of 0.1 %, with which 70 minutes of ambience from other recordings gave one false alarm.
FALSE_POSITIVE_RATE = 0.006


def fit_calibration(label, score, false_positive_rate=FALSE_POSITIVE_RATE):
    """Operating point and steepness of a model from held-out windows.

    label: int [n], 1 = scream; score: float [n], higher = more scream-like. Returns {"threshold", "slope"} for
    `probability_of`. The threshold is the smallest one with at most `false_positive_rate` of the others above it.
    The slope is that of Platt (1999), fitted by maximum likelihood with the threshold held fixed and both classes
    given equal weight.
    """
    label, score = np.asarray(label), np.asarray(score, float)
    others = np.sort(score[label == 0])
    allowed = int(false_positive_rate * len(others))  # how many may lie above
    threshold = float(others[len(others) - 1 - allowed])
    threshold += 1e-6 * max(1.0, abs(threshold))  # strictly above it
    distance = score - threshold
    weight = np.where(label == 1, 0.5 / max(1, (label == 1).sum()), 0.5 / len(others))
    slopes = np.geomspace(0.05, 20, 200) / max(float(score.std()), 1e-9)
    signed = np.where(label == 1, distance, -distance)
    losses = [(weight * np.logaddexp(0, -slope * signed)).sum() for slope in slopes]
    return {"threshold": threshold, "slope": float(slopes[int(np.argmin(losses))])}


def probability_of(score, calibration):
    """Raw scores [n] -> probabilities [n]; 0.5 at the operating point."""
    return 1 / (1 + np.exp(-np.clip(calibration["slope"] * (np.asarray(score, float) - calibration["threshold"]), -30, 30)))
