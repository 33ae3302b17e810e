"""The probability that ranks recordings: known answers, and the same as a plain computation over all windows at once."""

import numpy as np
import pytest

from utils.calibration import log_odds
from utils.ranking import RecordingProbability, recording_probabilities
from utils.signal_settings import SAMPLE_RATE, WINDOW_HOP

HOP_S = WINDOW_HOP / SAMPLE_RATE  # windows of a recording begin 1.47 s apart


def probability_of_log_odds(score):
    return 1 / (1 + np.exp(-np.asarray(score, float)))


def recording(scores, starts=None):
    """RecordingProbability of windows with these log-odds, as log-odds."""
    ranked = RecordingProbability()
    for start_s, score in zip(np.arange(len(scores)) * HOP_S if starts is None else starts, scores):
        ranked.add(start_s, probability_of_log_odds(score))
    return float(log_odds(ranked.finish()))


def plain(starts, scores):
    """The same by its definition: around each window the neighbours within three half windows, weights odds squared."""
    means = []
    for start in starts:
        near = np.abs(starts - start) <= 3 * HOP_S + 0.01
        means.append(np.average(scores[near], weights=np.exp(2 * (scores[near] - scores.max()))))
    return max(means)


def test_no_window_and_silence_are_improbable():
    ranked = RecordingProbability()
    assert ranked.finish() == 0
    for start_s in range(5):
        ranked.add(start_s, 0.0)
    assert ranked.finish() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 5, 50])
@pytest.mark.parametrize("probability", [0.001, 0.5, 0.631643, 0.999])
def test_windows_that_agree_count_as_one(n, probability):
    ranked = RecordingProbability()
    for index in range(n):
        ranked.add(index * HOP_S, probability)
    assert ranked.finish() == pytest.approx(probability, abs=1e-12)


def test_neighbours_count_with_the_square_of_their_odds():
    assert recording([2.0, 0.0]) == pytest.approx(2 / (1 + np.exp(-4)))
    assert recording([0.0, 2.0, 1.0]) == pytest.approx((2 + np.exp(-2)) / (1 + np.exp(-2) + np.exp(-4)))


def test_silence_beside_a_scream_does_not_count_against_it():
    assert recording([-30.0, 1.5, -30.0]) == pytest.approx(1.5)


@pytest.mark.parametrize("apart_s, is_neighbour", [(3 * HOP_S, True), (4 * HOP_S, False)])
def test_only_windows_within_three_half_windows_are_neighbours(apart_s, is_neighbour):
    expected = 1 / (1 + np.exp(-2)) if is_neighbour else 1.0
    assert recording([1.0, 0.0], [0.0, apart_s]) == pytest.approx(expected)
    assert recording([0.0, 1.0], [0.0, apart_s]) == pytest.approx(expected)


def test_what_is_far_away_changes_nothing():
    around = [-1.0, 0.5, 2.0, 0.0, -2.0, -1.0, -3.0]
    assert recording([-4.0] * 500 + around + [-4.0] * 500) == pytest.approx(recording([-4.0] * 6 + around + [-4.0] * 6))


@pytest.mark.parametrize("seed", range(20))
def test_window_by_window_it_is_the_same_as_all_at_once(seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.3, 1.0, HOP_S, 6.0], 60))
    scores = rng.normal(-1, 2, 60)
    assert recording(scores, starts) == pytest.approx(plain(starts, scores))
    assert scores.min() <= recording(scores, starts) <= scores.max()


def test_a_long_recording_takes_no_more_memory():
    ranked = RecordingProbability()
    for index in range(10_000):
        ranked.add(index * HOP_S, 0.1)
        assert len(ranked.windows) <= 8


def test_a_table_of_windows_gives_each_file_in_order_of_its_name():
    file = np.array(["b", "a", "b", "c", "b"], dtype=object)
    start_s = np.array([5 * HOP_S, 0.0, 0.0, 0.0, HOP_S])
    scores = np.array([1.0, -2.0, 0.5, 3.0, -1.0])
    expected = [-2.0, plain(np.array([0, HOP_S, 5 * HOP_S]), np.array([0.5, -1.0, 1.0])), 3.0]
    assert log_odds(recording_probabilities(file, start_s, probability_of_log_odds(scores))).tolist() == pytest.approx(expected)
