"""Figures with known answers, from scores made by hand."""

import warnings

import numpy as np
import pytest
from window_table import window_table

from utils.evaluation import clip_figures, group_intervals, highest_window, ranking_figures, recall_at, verdict_figures


def test_verdict_figures_of_ten_clips():
    #        5 others, one called a scream      5 screams, two missed
    label = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    verdict = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    figures = verdict_figures(label, verdict)
    assert figures["confusion_matrix"] == [[4, 1], [2, 3]]  # rows true, columns called: [[tn, fp], [fn, tp]]
    assert figures["accuracy"] == pytest.approx(7 / 10)
    assert figures["precision"] == pytest.approx(3 / 4)
    assert figures["recall"] == pytest.approx(3 / 5)
    assert figures["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert figures["false_positive_rate"] == pytest.approx(1 / 5)
    assert figures["mcc"] == pytest.approx((3 * 4 - 1 * 2) / np.sqrt(4 * 5 * 5 * 6))


def test_ranking_figures_of_six_clips():
    label, score = np.array([1, 0, 1, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    figures = ranking_figures(label, score)
    assert figures["roc_auc"] == pytest.approx((3 + 2 + 0) / 9)
    assert figures["average_precision"] == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    assert figures["recall_at_1_fpr"] == pytest.approx(1 / 3)  # only .9 lies above the best of the others


def test_recall_at_the_quantile_of_the_others():
    label = np.repeat([0, 1], [1000, 4])
    score = np.concatenate([np.arange(1000.0), [2000, 995, 960, 100]])
    assert recall_at(label, score, 0.01) == pytest.approx(2 / 4)
    assert recall_at(label, score, 0.05) == pytest.approx(3 / 4)
    assert recall_at(label, score, 0.5) == pytest.approx(3 / 4)
    assert recall_at(label, np.zeros(len(label)), 0.01) == 0  # a model that says the same of everything finds nothing


def test_perfect_and_inverted_ranking():
    label, score = np.array([0, 0, 1, 1]), np.array([1.0, 2, 3, 4])
    assert set(ranking_figures(label, score).values()) == {1.0}
    assert ranking_figures(label, -score)["roc_auc"] == 0


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_only(value):
    label = np.full(5, value)
    assert ranking_figures(label, np.arange(5.0)) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that a class is missing, which is the point here
        figures = verdict_figures(label, label)
    assert figures["accuracy"] == 1 and np.isfinite(figures["mcc"])
    assert figures["confusion_matrix"] == ([[5, 0], [0, 0]] if value == 0 else [[0, 0], [0, 5]])
    assert figures["false_positive_rate"] == 0


def test_a_clip_counts_with_its_highest_window():
    file = np.array(["b", "a", "b", "c", "a"], dtype=object)
    label, score = highest_window(file, [1, 0, 1, 0, 0], np.array([0.2, -3.0, 0.9, 0.4, -5.0]))
    assert label.tolist() == [0, 1, 0]
    assert score.tolist() == [-3.0, 0.9, 0.4]


def test_clip_figures_count_clips_call_at_one_half_and_rank_as_recordings():
    file, label, start_s = list("aabccd"), [1, 1, 0, 0, 0, 1], np.array([0, 1.0, 0, 0, 1.0, 0])
    probability = np.array([0.1, 0.5, 0.4999, 0.2, 0.8, 0.3])
    figures = clip_figures(window_table(file, label, start_s=start_s), probability)
    assert (figures["clips"], figures["screams"]) == (4, 2)
    assert figures["confusion_matrix"] == [[1, 1], [1, 1]]  # one window of a and of c reaches 0.5
    assert figures["roc_auc"] == 0  # but beside its other window a ranks below b
    figures = clip_figures(window_table(file, label, start_s=10 * start_s), probability)
    assert figures["roc_auc"] == 1 / 4  # ten seconds apart they do not change each other
    assert all(isinstance(v, (float, int, list)) for v in figures.values())  # goes into JSON


def run_of(n_groups, per_group, recall, seed=0):
    """(label, probability, verdict), group: half of the groups are screams, all clips of a group alike."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_groups) % 2
    found = (label == 1) & (rng.permutation(n_groups) < recall * n_groups)
    probability = np.where(found, 0.9, rng.uniform(0, 0.4, n_groups))
    group = np.repeat(np.arange(n_groups), per_group)
    return (label[group], probability[group], probability[group] > 0.5), group


def test_an_interval_holds_the_figure_and_is_as_wide_as_the_groups_are_few():
    widths = {}
    for n_groups, per_group in ((400, 1), (400, 5), (20, 20)):
        (label, probability, verdict), group = run_of(n_groups, per_group, 0.7)
        intervals = group_intervals([(label, probability, verdict)], group)
        low, high = intervals["recall"]
        assert low <= verdict[label == 1].mean() <= high and intervals["false_positive_rate"] == (0, 0)
        assert set(intervals) == {*ranking_figures(label, probability), "recall", "false_positive_rate"}
        widths[n_groups, per_group] = high - low
    assert widths[400, 5] == pytest.approx(widths[400, 1], abs=0.02), "five clips of a group tell no more than one"
    assert widths[400, 1] == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 200), rel=0.2)  # the normal approximation
    assert widths[20, 20] > 3 * widths[400, 5]


def test_the_median_of_three_trainings_has_the_interval_of_the_middle_one():
    runs, group = zip(*(run_of(100, 2, recall) for recall in (0.5, 0.7, 0.9)))
    middle = group_intervals([runs[1]], group[0])
    of_three = group_intervals(runs, group[0])
    assert of_three["recall"] == pytest.approx(middle["recall"], abs=0.03)


def test_resamples_of_one_label_are_left_out():
    label = np.array([1, 1, 0, 0])
    right = [(label, label.astype(float), label == 1)]
    for group in (label, np.zeros(4)):
        intervals = group_intervals(right, group)
        assert intervals.pop("false_positive_rate") == (0, 0) and set(intervals.values()) == {(1, 1)}
