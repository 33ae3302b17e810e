"""0.5 is the operating point, a fixed share of the way from the held-out others to the held-out screams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.calibration import fit_calibration, log_odds, probability_of


def labels_and_scores(n_others=1000, n_screams=200, seed=0, distance=3.0):
    rng = np.random.default_rng(seed)
    return (np.repeat([0, 1], [n_others, n_screams]),
            np.concatenate([rng.normal(0, 1, n_others), rng.normal(distance, 1, n_screams)]))


def test_the_operating_point_lies_three_quarters_of_the_way_to_the_upper_quartile_of_the_screams():
    label, score = np.repeat([0, 1], [101, 5]), np.concatenate([np.arange(101.0), [0.0, 100.0, 150.0, 250.0, 900.0]])
    assert np.quantile(score[:101], 0.95) < 200  # which is the least that it could be
    assert fit_calibration(label, score)["threshold"] == pytest.approx(50 + 0.75 * (250 - 50), abs=1e-3)


@pytest.mark.parametrize("direction", [0, 1, -1])
def test_a_model_that_tells_nothing_apart_calls_few_others_a_scream(direction):
    """Screams no higher than the others, or lower: the quantiles alone would put the operating point among the others."""
    label, score = labels_and_scores(distance=0.2 * direction)
    assert (probability_of(score[label == 0], fit_calibration(label, score)) >= 0.5).mean() == pytest.approx(0.05, abs=0.002)


def test_the_highest_few_others_do_not_move_it():
    label, score = labels_and_scores()
    before = fit_calibration(label, score)["threshold"]
    score[np.argsort(score[:1000])[-5:]] += 100
    assert fit_calibration(label, score)["threshold"] == pytest.approx(before, abs=1e-6)


@given(scores=st.lists(st.sampled_from([-1e9, -3.0, 0.0, 0.5, 0.5000001, 2.0, 1e9]), min_size=1, max_size=300))
def test_ties_and_extremes_give_a_finite_operating_point(scores):
    score = np.array([*scores, scores[0]])
    label = np.append(np.zeros(len(scores), int), 1)
    calibration = fit_calibration(label, score)
    assert np.isfinite([*calibration.values()]).all() and calibration["slope"] > 0
    if len(set(scores)) == 1:
        assert (probability_of(score, calibration) < 0.5).all()


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


def test_constant_scores_are_no_scream():
    label = np.repeat([0, 1], [150, 50])
    for value in (-1e6, 0.0, 1.0, 1e6):
        assert (probability_of(np.full(200, value), fit_calibration(label, np.full(200, value))) < 0.5).all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_is_refused(label):
    with pytest.raises(ValueError, match="with and without a scream"):
        fit_calibration(np.full(200, label), np.arange(200.0))


def test_log_odds_are_finite_and_bounded():
    np.testing.assert_allclose(log_odds(np.array([0.5, 0.9, 0.1])), [0, np.log(9), -np.log(9)])
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    np.testing.assert_allclose(log_odds(np.array([0.0, 0.01, 1.0]), 0.02), [-np.log(49), -np.log(49), np.log(49)])
