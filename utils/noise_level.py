"""How noisy a window is, heard from its 34 features, and how much that lowers the operating point of the models.

Noise makes every sound less like a scream to the models, screams and others alike: it shifts their log-odds more than it
confuses them (models/EXPERIMENTS.md). Where a recording tells its background, utils.events judges a window beside it. A
clip of a few seconds tells little or nothing, so there the noise is estimated from the window itself, too.
"""

import os
from dataclasses import dataclass

import numpy as np

from utils.artifacts import ArtifactError, read_json
from utils.calibration import from_log_odds
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS

NOISE_FILE = "noise.json"
NOISY_FROM = 0.2  # up to this probability of noise nothing changes ...
MOST_SHIFT = 1.75  # ... from there the log-odds rise in a straight line up to so much more where noise is certain
PART_SHIFT, PART_LACKS = 0.75, 0.5  # the loud part of a window alone gets this share of it, and must lie so far above 0.5


@dataclass
class NoiseLevel:
    """A logistic regression on the 34 features: windows with noise mixed in (-2.5 to 12.5 dB below) or without."""

    mean: np.ndarray  # [34] of the features
    scale: np.ndarray  # [34]
    coefficients: np.ndarray  # [34]
    intercept: float

    def probability(self, features):
        """Of noise, 0-1: features [n, 34] -> [n]."""
        standardised = (np.asarray(features, float) - self.mean) / self.scale  # [n, 34]
        return from_log_odds(standardised @ self.coefficients + self.intercept)

    def shift(self, features):
        """What the noise of a window is worth in log-odds, 0 to MOST_SHIFT: features [n, 34] -> [n]."""
        return MOST_SHIFT * np.clip((self.probability(features) - NOISY_FROM) / (1 - NOISY_FROM), 0, 1)


# where there was nothing to learn from: hears no noise anywhere
NO_NOISE = NoiseLevel(np.zeros(len(FEATURE_NAMES)), np.ones(len(FEATURE_NAMES)), np.zeros(len(FEATURE_NAMES)), -30.0)


def fit_noise_level(clean, noisy):
    """NoiseLevel from features of windows as they are [n, 34] and with noise mixed in [m, 34]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([clean, noisy])
    scaler = StandardScaler().fit(features)
    regression = LogisticRegression(C=0.1, max_iter=2000).fit(
        scaler.transform(features), np.repeat([0, 1], [len(clean), len(noisy)]))
    return NoiseLevel(scaler.mean_, scaler.scale_, regression.coef_[0], float(regression.intercept_[0]))


def read_noise_level(models_dir):
    """The NoiseLevel that train_ml.py has put beside the models, or None. Raises ArtifactError if it is not to be used."""
    path, command = os.path.join(models_dir, NOISE_FILE), "python train_ml.py"
    if not os.path.isfile(path):
        return None
    stored = read_json(path, command)
    try:
        arrays = [np.array([stored[name][feature] for feature in FEATURE_NAMES], float)
                  for name in ("mean", "scale", "coefficients")]
        level, signal = NoiseLevel(*arrays, float(stored["intercept"])), stored["settings"]["signal"]
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path} does not describe a noise level: run {command} again") from None
    if signal != SIGNAL_SETTINGS or not np.isfinite([*arrays, np.full(len(FEATURE_NAMES), level.intercept)]).all() \
            or not (level.scale > 0).all():
        raise ArtifactError(f"{path} was made with other settings, or is damaged: run {command} again")
    return level


def as_json(level, settings, all_data):
    """A NoiseLevel as train_ml.py writes it: its numbers by the names of the features, and what it was learned from."""
    return {name: dict(zip(FEATURE_NAMES, map(float, getattr(level, name)))) for name in ("mean", "scale", "coefficients")} | {
        "intercept": level.intercept, "settings": settings, "training": {"all_data": all_data}}
