"""0.5 is the operating point: the smallest score with at most 0.6 % of the held-out others above it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.calibration import fit_calibration, probability_of


def labels_and_scores(n_others=1000, n_screams=200, seed=0, distance=3.0):
    rng = np.random.default_rng(seed)
    return (np.repeat([0, 1], [n_others, n_screams]),
            np.concatenate([rng.normal(0, 1, n_others), rng.normal(distance, 1, n_screams)]))


def test_exactly_the_allowed_share_of_others_lies_above():
    label, score = np.repeat([0, 1], [400, 1]), np.concatenate([np.arange(400.0), [500.0]])
    calibration = fit_calibration(label, score)
    assert 397 < calibration["threshold"] < 398  # 398 and 399 are the two of 400 that may lie above
    assert (probability_of(np.arange(400.0), calibration) >= 0.5).sum() == 2


@pytest.mark.parametrize("n_others", [1, 2, 50, 99, 100, 101, 1234])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05])
def test_never_more_others_above_than_allowed(n_others, rate):
    label, score = labels_and_scores(n_others, 20)
    probability = probability_of(score[label == 0], fit_calibration(label, score, rate))
    assert (probability >= 0.5).sum() <= rate * n_others
    if int(rate * n_others):
        assert (probability >= 0.5).sum() == int(rate * n_others)  # and no more strictness than asked for


@given(scores=st.lists(st.sampled_from([-1e9, -3.0, 0.0, 0.5, 0.5000001, 2.0, 1e9]), min_size=1, max_size=300))
def test_ties_and_extremes_do_not_break_the_promise(scores):
    others = np.array(scores)
    label, score = np.append(np.zeros(len(others), int), 1), np.append(others, 1.0)
    assert (probability_of(others, fit_calibration(label, score)) >= 0.5).sum() <= 0.006 * len(others)


def test_one_half_exactly_at_the_threshold():
    calibration = fit_calibration(*labels_and_scores())
    assert probability_of([calibration["threshold"]], calibration)[0] == 0.5
    assert probability_of([np.nextafter(calibration["threshold"], -np.inf) - 1e-9], calibration)[0] < 0.5


def test_higher_scores_never_get_lower_probabilities():
    calibration = fit_calibration(*labels_and_scores())
    probability = probability_of(np.sort(np.random.default_rng(1).normal(0, 10, 10_000)), calibration)
    assert calibration["slope"] > 0 and (np.diff(probability) >= 0).all()
    assert probability[0] < 0.01 and probability[-1] > 0.99


@pytest.mark.filterwarnings("error")
def test_huge_scores_give_probabilities():
    calibration = fit_calibration(*labels_and_scores())
    probability = probability_of([-np.inf, -1e300, -1e9, 0, 1e9, 1e300, np.inf], calibration)
    assert ((probability >= 0) & (probability <= 1)).all()
    assert probability[0] < 1e-6 and probability[-1] > 1 - 1e-6


def test_scale_and_shift_of_a_score_do_not_matter():
    label, score = labels_and_scores()
    one = probability_of(score, fit_calibration(label, score))
    other = probability_of(100 * score + 7, fit_calibration(label, 100 * score + 7))
    assert np.abs(one - other).max() < 0.01


def test_clear_separation_gives_steeper_probabilities_than_overlap():
    clear = fit_calibration(*labels_and_scores(distance=8))
    overlap = fit_calibration(*labels_and_scores(distance=2))
    assert clear["slope"] > overlap["slope"]


def test_works_without_screams_and_for_constant_scores():
    label = np.zeros(200, int)
    assert (probability_of(np.arange(200.0), fit_calibration(label, np.arange(200.0))) >= 0.5).sum() == 1
    assert (probability_of(np.ones(200), fit_calibration(label, np.ones(200))) < 0.5).all()
