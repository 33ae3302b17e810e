"""How noisy a window is and what that does to the verdict on a clip of a few seconds."""

import json

import numpy as np
import pytest
from stand_in import StandIn, sounding

from utils import extraction, noise_level, scenes
from utils.artifacts import ArtifactError, write_json
from utils.audio import SAMPLE_RATE, WINDOW, clean_window
from utils.background_noise import subtract_own_noise
from utils.dataset import Clip
from utils.ensemble import Ensemble, verdict_in_noise
from utils.events import Background
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS, describe_window
from utils.noise_level import NOISE_FILE, NOISY_FROM, NoiseLevel, as_json, fit_noise_level, read_noise_level
from utils.scan import scan, verdicts_alone

SETTINGS = {"signal": SIGNAL_SETTINGS}


def level_of_first_feature(probability_at_1):
    """A NoiseLevel that looks at the first feature only."""
    coefficients = np.zeros(34)
    coefficients[0] = np.log(probability_at_1 / (1 - probability_at_1))
    return NoiseLevel(np.zeros(34), np.ones(34), coefficients, 0.0)


def features_with(first):
    features = np.zeros((len(first), 34))
    features[:, 0] = first
    return features


def test_noise_shifts_from_its_least_probability_in_a_straight_line():
    level = level_of_first_feature(0.9)
    assert level.probability(features_with([0, 1, -1])) == pytest.approx([0.5, 0.9, 0.1])
    assert NoiseLevel(np.full(34, 0.5), np.full(34, 2.0), level.coefficients, 0.0).probability(features_with([4.5])) == \
        pytest.approx([0.9**2 / (0.9**2 + 0.1**2)])
    shift = level.shift(features_with([0, 1, -1, 100]))
    assert shift == pytest.approx([1.75 * (0.5 - 0.2) / 0.8, 1.75 * (0.9 - 0.2) / 0.8, 0, 1.75])
    assert NOISY_FROM == 0.2 and noise_level.MOST_SHIFT == 1.75


def test_noise_is_told_by_what_differs_whatever_its_unit():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(300, 34)) * 1000
    noisy = rng.normal(size=(300, 34)) * 1000
    noisy[:, 5] += 5000
    level = fit_noise_level(clean, noisy)
    assert level.probability(clean).mean() < 0.1 and level.probability(noisy).mean() > 0.9
    assert np.argmax(np.abs(level.coefficients)) == 5


def test_what_is_written_is_what_is_read(tmp_path):
    rng = np.random.default_rng(1)
    level = fit_noise_level(rng.normal(size=(50, 34)), rng.normal(1, 1, size=(50, 34)))
    write_json(tmp_path / NOISE_FILE, as_json(level, SETTINGS, all_data=False))
    features = rng.normal(size=(9, 34))
    assert read_noise_level(tmp_path).probability(features) == pytest.approx(level.probability(features), abs=0)
    assert read_noise_level(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("change, says", [
    (lambda stored: stored.pop("intercept"), "does not describe"),
    (lambda stored: stored["mean"].pop("rms_std"), "does not describe"),
    (lambda stored: stored["coefficients"].update(mfcc1_mean="x"), "does not describe"),
    (lambda stored: stored["scale"].update(mfcc1_mean=0.0), "other settings"),
    (lambda stored: stored.update(intercept=float("nan")), "other settings"),
    (lambda stored: stored["settings"].update(signal={"hop": 1}), "other settings"),
])
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, says):
    stored = json.loads(json.dumps(as_json(level_of_first_feature(0.9), SETTINGS, all_data=False)))
    change(stored)
    (tmp_path / NOISE_FILE).write_text(json.dumps(stored))
    with pytest.raises(ArtifactError, match=says) as refused:
        read_noise_level(tmp_path)
    assert NOISE_FILE in str(refused.value) and "train_ml.py" in str(refused.value)


def at(log_odds):
    """Six models that all say so."""
    return np.full(6, 1 / (1 + np.exp(-log_odds)))


def test_both_looks_count_alike_and_the_shift_raises_every_model():
    assert verdict_in_noise(at(-1), at(-0.4), 0.71) and not verdict_in_noise(at(-1), at(-0.4), 0.69)
    assert verdict_in_noise(at(-1), at(1.1), 0.0) and not verdict_in_noise(at(-1), at(0.9), 0.0)
    one_is_against = np.r_[at(1)[:3], at(-0.5)[:2], at(-3)[:1]]
    assert verdict_in_noise(one_is_against, one_is_against, 0.51), "the majority decides, not the mean"
    assert not verdict_in_noise(one_is_against, one_is_against, 0.0)


class HearsAgain(Ensemble):
    """An ensemble that hears in windows without their noise what it is told, and remembers how often it was asked."""

    def __init__(self, again, noise):
        super().__init__({}, {}, {}, {}, "cpu", noise=noise)
        self.again, self.heard = again, []

    def score(self, windows):
        self.heard.append(windows)
        return np.stack([self.again] * len(windows))


@pytest.mark.parametrize("first, probability, noisy, verdict, looks", [
    (-1.0, 0.9, 30, True, 1), (-1.0, 0.05, 30, False, 1), (-2.9, 0.9, 30, True, 1), (-3.0, 0.9, 30, False, 0),
    (0.1, 0.1, 30, True, 0), (-1.0, 0.9, -30, False, 0),
], ids=["heard again", "not heard again", "just probable enough", "too improbable", "a scream in any case", "no noise"])
def test_a_noisy_window_is_heard_again(first, probability, noisy, verdict, looks):
    ensemble = HearsAgain(np.full(6, probability), NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), float(noisy)))
    assert verdicts_alone(ensemble, at(first)[None], np.zeros((1, 34)), sounding).tolist() == [verdict]
    assert len(ensemble.heard) == looks


def test_each_window_is_heard_with_its_own_sound():
    ensemble = HearsAgain(at(2.0), level_of_first_feature(0.999))
    probabilities, features = np.stack([at(-1), at(1), at(-1)]), features_with([-1, 1, 1])
    assert verdicts_alone(ensemble, probabilities, features, sounding).tolist() == [False, True, True]
    [heard] = ensemble.heard
    np.testing.assert_array_equal(heard[0], clean_window(subtract_own_noise(sounding(2))))


def test_what_is_nothing_but_noise_is_heard_as_it_is():
    quiet = np.zeros(WINDOW, np.float32)
    for log_odds, verdict in ((-1.0, True), (-2.0, False)):  # the shift is 1.75
        ensemble = HearsAgain(at(9), NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), 30.0))
        assert verdicts_alone(ensemble, at(log_odds)[None], np.zeros((1, 34)), lambda index: quiet).tolist() == [verdict]
        assert not ensemble.heard


def test_without_a_noise_level_the_vote_alone_decides():
    ensemble = HearsAgain(at(9), None)
    assert verdicts_alone(ensemble, np.array([[0.4] * 6, [0.6] * 6]), np.zeros((2, 34)), sounding).tolist() == [False, True]
    assert not ensemble.heard


def test_the_noise_counts_only_where_nothing_before_is_known():
    background = Background(1.5)
    asked = []

    def alone():
        asked.append(True)
        return True

    judged = [background.judge(index * 1.5, 0, 0.3, False, lambda starts: np.ones(len(starts)), alone) for index in range(20)]
    assert sum(judged) == len(asked) and judged[0] and not any(judged[-10:])


class InNoise(StandIn):
    """The stand-in with a noise level that hears noise everywhere, or nowhere."""

    def __init__(self, intercept, **options):
        super().__init__(**options)
        self.noise = NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), intercept)



@pytest.mark.parametrize("seconds, noisy, verdict", [(4, -30, "non_scream"), (4, 30, "scream"), (60, 30, "scream")])
def test_a_weak_scream_in_a_noisy_clip_is_an_event(seconds, noisy, verdict):
    rng = np.random.default_rng(3)
    samples = 0.1 * rng.normal(size=seconds * SAMPLE_RATE)
    at = np.arange(SAMPLE_RATE)
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE] += 0.1 * np.sin(2 * np.pi * 2000 * at / SAMPLE_RATE)
    quiet = scan([samples.astype(np.float32)], InNoise(-30.0))
    assert quiet["verdict"] == "non_scream" and 0.1 < quiet["probability"] < 0.5
    record = scan([samples.astype(np.float32)], InNoise(float(noisy)))
    assert record["verdict"] == verdict
    assert record["probability"] == quiet["probability"], "ranking does not know of the noise"
    assert all(event["start_s"] < 3 for event in record["events"]) and len(record["events"]) == (verdict == "scream")


def test_rows_in_noise_hold_clip_and_noise(monkeypatch):
    rng = np.random.default_rng(4)
    at = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    sounds = {"tone": np.sin(2 * np.pi * 1000 * at).astype(np.float32), "hiss": scenes.coloured_noise(WINDOW, rng, 0.0)}
    monkeypatch.setattr(extraction, "read_audio", lambda path: sounds[path])
    clip, noise = (Clip(name, "non_scream", "s", name, name) for name in ("tone", "hiss"))
    rows = extraction.describe_noisy(clip, [noise] * 5, [0, 1])
    assert [background for background, _ in rows] == [noise] * 5
    zcr = [features[FEATURE_NAMES.index("zcr_mean")] for _, features in rows]
    alone = describe_window(np.resize(sounds["tone"], WINDOW))[0][FEATURE_NAMES.index("zcr_mean")]
    assert len(set(zcr)) == 5 and min(zcr) > 1.2 * alone, "five levels of noise"
