"""The probability that ranks recordings: known answers, and the same as a plain computation over all windows at once."""

import numpy as np
import pytest
from window_table import window_table

from utils.calibration import log_odds
from utils.ranking import RecordingProbability, recording_probabilities
from utils.signal_settings import SAMPLE_RATE, WINDOW_HOP

HOP_S = WINDOW_HOP / SAMPLE_RATE  # windows of a recording begin 1.47 s apart


def probability_of_log_odds(score):
    return 1 / (1 + np.exp(-np.asarray(score, float)))


def recording(scores, starts=None, levels=None):
    """RecordingProbability of windows with these log-odds, as log-odds; all are as loud as each other unless levels say more."""
    ranked, n = RecordingProbability(), len(scores)
    starts = np.arange(n) * HOP_S if starts is None else starts
    for start_s, score, level_db in zip(starts, scores, np.zeros(n) if levels is None else levels):
        ranked.add(start_s, probability_of_log_odds(score), level_db)
    return float(log_odds(ranked.finish()))


def plain(starts, scores, levels):
    """The same by its definition: around each window the neighbours within five half windows, weights the square root of the
    odds times power, of which a neighbour has at most that of the window itself."""
    means = []
    for start, level in zip(starts, levels):
        near = np.abs(starts - start) <= 5 * HOP_S + 0.01
        power = 10 ** (np.minimum(levels[near], level) / 10)
        means.append(np.average(scores[near], weights=np.exp(scores[near] / 2) * power))
    return max(means)


def test_no_window_and_silence_are_improbable():
    ranked = RecordingProbability()
    assert ranked.finish() == 0
    for start_s in range(5):
        ranked.add(start_s, 0.0, -144.0)
    assert ranked.finish() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 5, 50])
@pytest.mark.parametrize("probability", [0.001, 0.5, 0.631643, 0.999])
def test_windows_that_agree_count_as_one(n, probability):
    ranked = RecordingProbability()
    for index in range(n):
        ranked.add(index * HOP_S, probability, -20.0 - index)
    assert ranked.finish() == pytest.approx(probability, abs=1e-12)


def test_neighbours_count_with_the_square_root_of_their_odds():
    assert recording([2.0, 0.0]) == pytest.approx(2 / (1 + np.exp(-1)))
    assert recording([0.0, 2.0, 1.0]) == pytest.approx((2 + np.exp(-0.5)) / (1 + np.exp(-0.5) + np.exp(-1)))


def test_a_quieter_neighbour_counts_less_and_a_louder_one_no_more():
    weight = np.exp(-1)
    for quieter_db, power in ((3, 10**-0.3), (20, 0.01)):
        assert recording([2.0, 0.0], levels=[-10, -10 - quieter_db]) == pytest.approx(2 / (1 + weight * power))
    assert recording([2.0, 0.0], levels=[-10, 0]) == pytest.approx(2 / (1 + weight)), "a bang beside a scream"


def test_a_background_of_any_length_changes_a_louder_scream_little():
    assert recording([-2.0] * 5 + [1.0] + [-2.0] * 5, levels=[-40] * 5 + [-15] + [-40] * 5) == pytest.approx(1.0, abs=0.03)


def test_all_levels_may_be_higher_or_lower():
    scores, levels = [0.3, -1.0, 0.9, -2.0], np.array([-30.0, -12.0, -20.0, -50.0])
    assert recording(scores, levels=levels - 60) == pytest.approx(recording(scores, levels=levels))


def test_silence_beside_a_scream_does_not_count_against_it():
    assert recording([-30.0, 1.5, -30.0], levels=[-144, -20, -144]) == pytest.approx(1.5)


@pytest.mark.parametrize("apart_s, is_neighbour", [(5 * HOP_S, True), (6 * HOP_S, False)])
def test_only_windows_within_five_half_windows_are_neighbours(apart_s, is_neighbour):
    expected = 1 / (1 + np.exp(-0.5)) if is_neighbour else 1.0
    assert recording([1.0, 0.0], [0.0, apart_s]) == pytest.approx(expected)
    assert recording([0.0, 1.0], [0.0, apart_s]) == pytest.approx(expected)


def test_what_is_far_away_changes_nothing():
    around = [-1.0, 0.5, 2.0, 0.0, -2.0, -1.0, -3.0]
    assert recording([-4.0] * 500 + around + [-4.0] * 500) == pytest.approx(recording([-4.0] * 10 + around + [-4.0] * 10))


@pytest.mark.parametrize("seed", range(20))
def test_window_by_window_it_is_the_same_as_all_at_once(seed):
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.choice([0.3, 1.0, HOP_S, 9.0], 60))
    scores, levels = rng.normal(-1, 2, 60), rng.uniform(-60, 0, 60)
    assert recording(scores, starts, levels) == pytest.approx(plain(starts, scores, levels))
    assert scores.min() <= recording(scores, starts, levels) <= scores.max()


def with_loud_parts(scores, heard):
    """As recording, of windows whose loud parts alone have these log-odds (None: there is none), and which were asked for.

    The windows are too far from each other to be neighbours.
    """
    ranked, asked = RecordingProbability(), []
    for index, (score, of_part) in enumerate(zip(scores, heard)):
        def hear(index=index, of_part=of_part):
            asked.append(index)
            return None if of_part is None else probability_of_log_odds(of_part)

        ranked.add(20.0 * index, float(probability_of_log_odds(score)), -20.0, hear)
    return float(log_odds(ranked.finish())), asked


def test_a_window_counts_with_its_loud_part_if_that_is_more():
    assert with_loud_parts([-1.0], [[[2.0, 2.0], [2.0, 2.0]]])[0] == pytest.approx(1.5), "half less than what is heard"
    assert with_loud_parts([-1.0], [[[3.0, 2.0], [1.0, 0.0]]])[0] == pytest.approx(1.0), "all models and looks count alike"
    assert with_loud_parts([-1.0], [[[90.0, 0.0], [0.0, 0.0]]])[0] == pytest.approx(np.log(999) / 4 - 0.5), "none beyond 1:1000"
    assert with_loud_parts([-1.0], [[[-1.0], [-0.2]]])[0] == pytest.approx(-1.0)
    assert with_loud_parts([-1.0], [None])[0] == pytest.approx(-1.0)


def test_improbable_windows_are_not_heard_again():
    nothing = [[-9.0]]
    assert with_loud_parts([-2.95], [[[5.0]]]) == (pytest.approx(-2.95), []), "less than 0.05"
    assert with_loud_parts([-2.94], [[[5.0]]]) == (pytest.approx(4.5), [0])
    assert with_loud_parts([1.0, -0.9, -1.1, -1.1], [nothing] * 4)[1] == [0, 1], "2 below the most probable one before"
    assert with_loud_parts([-1.0, 0.5, 0.5], [[[3.4]], nothing, [[9.0]]]) == (pytest.approx(2.9), [0]), "as it was heard"


def asked_late(scores, apart_s=10.0, first_s=120.0):
    """Which windows of a long recording are asked for what is heard of their loud parts; before them is silence."""
    ranked, asked = RecordingProbability(), []
    for index, score in enumerate(scores):
        probability = float(probability_of_log_odds(score))
        ranked.add(first_s + apart_s * index, probability, -20.0, lambda index=index: asked.append(index))
    return asked


def test_later_only_nearly_the_most_probable_windows_of_half_a_minute_are_heard_again():
    assert asked_late([0.5, 0.24, 0.26, 0.5, 0.6]) == [0, 2, 3, 4]
    assert asked_late([0.5, 0.0, 0.0, 0.0, 0.0]) == [0, 4], "30 s after it still counts, 40 s after it no more"
    assert asked_late([0.5, 0.0, 0.0], first_s=99.9) == [0, 1, 2], "in the first two minutes time does not matter"
    assert asked_late([0.5, 0.0, 0.0], first_s=100.1) == [0, 1]
    assert asked_late([0.5, -1.4, -1.6, -1.4, -1.6, -1.4], apart_s=40.0) == [0, 1, 3, 5], "never those far below the best so far"


def test_a_loud_part_counts_among_its_neighbours_as_a_window_does():
    ranked = RecordingProbability()
    ranked.add(0.0, float(probability_of_log_odds(-1.0)), -10.0, lambda: probability_of_log_odds([[2.5]]))
    ranked.add(HOP_S, 0.5, -10.0, lambda: None)
    assert log_odds(ranked.finish()) == pytest.approx(recording([2.0, 0.0]))


def test_a_long_recording_takes_no_more_memory():
    ranked = RecordingProbability()
    for index in range(10_000):
        ranked.add(index * HOP_S, 0.1, -30.0)
        assert len(ranked.windows) <= 12 and len(ranked.recent) <= 21


def test_a_table_of_windows_gives_each_file_in_order_of_its_name():
    start_s = np.array([7 * HOP_S, 0.0, 0.0, 0.0, HOP_S])
    level_db = np.array([-20.0, -30.0, -10.0, 0.0, -15.0])
    scores = np.array([-4.0, -2.0, 0.5, 3.0, -1.0])
    of_b = plain(np.array([0, HOP_S, 7 * HOP_S]), np.array([0.5, -1.0, -4.0]), np.array([-10.0, -15.0, -20.0]))
    table = window_table(list("babcb"), [1] * 5, start_s=start_s, band_level_db=level_db)
    ranked = recording_probabilities(table, probability_of_log_odds(scores))
    assert log_odds(ranked).tolist() == pytest.approx([-2.0, of_b, 3.0])
