"""How much the augmented copies count for the classical models."""

import argparse
import csv

import numpy as np
import pytest
from window_table import window_table

import train_ml
from train_ml import copy_weights
from utils.artifacts import ArtifactError
from utils.features import FEATURE_NAMES

ARGS = argparse.Namespace(seed=0, jobs=1)


def table(label, group, features, mixed=False):
    n = len(label)
    return window_table([f"{name}.wav" for name in group], label, features=features, source=["made"] * n, group=group,
                        split=["train"] * n, mix_group=["rain" if mixed else ""] * n, mix_source=["made" if mixed else ""] * n)


@pytest.fixture
def rows_and_copies():
    """Twelve recordings of each label, at 1 and -1 in all features, and two copies of each; one hides screams: it lies where the
    other sounds are."""
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0], 12)
    group = [f"scream {i}" for i in range(12)] + [f"other {i}" for i in range(12)]
    features = rng.normal(0, 0.1, (24, 34)) + np.where(label == 1, 1, -1)[:, None]
    copies = np.tile(features, (2, 1))
    copies[24:36] -= 2
    return table(label, group, features), table(np.tile(label, 2), group * 2, copies, mixed=True)


def write_bare_table(path, names):
    """A table of file, label and features without groups; every other row is a scream."""
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", *FEATURE_NAMES])
        for i, name in enumerate(names):
            rows.writerow([f"{name}.wav", "scream" if i % 2 else "non_scream", *rng.normal(i % 2, 1, 34)])
    return str(path)


@pytest.mark.parametrize("names, split, says", [
    ([f"a{i}" for i in range(24)], "group", "no group of clips can be held out for the test; names with numbers"),
    ("abcdefgh", "random", "--split random needs at least 10 rows of each label"), ("abc", "random", "at least 10 rows"),
    ("abc", "group", "no group of clips can be held out|needs clips of both labels"),
], ids=["one group", "few", "tiny", "tiny, groups"])
def test_a_table_too_small_to_split_is_refused_before_anything_is_written(tmp_path, names, split, says):
    table = write_bare_table(tmp_path / "t.csv", names)
    with pytest.raises(ArtifactError, match=says):
        train_ml.main(["--features", table, "--models", str(tmp_path / "models"), "--split", split, "--jobs", "1"])
    assert not list(tmp_path.glob("models/*.pkl"))


def test_a_small_table_with_groups_is_learned_without_a_random_split_beside(tmp_path, capsys):
    table = write_bare_table(tmp_path / "t.csv", ["az", "by", "cx", "dw", "ev", "fu", "gt", "hs"])
    assert train_ml.main(["--features", table, "--models", str(tmp_path), "--jobs", "1"]) == 0
    assert len(list(tmp_path.glob("*.pkl"))) == 3 and "with a random split" not in capsys.readouterr().out


def test_a_random_split_has_the_seed_of_the_published_figures(tmp_path, capsys):
    table = write_bare_table(tmp_path / "t.csv", "abcdefgh")
    with pytest.raises(SystemExit):
        train_ml.main(["--features", table, "--models", str(tmp_path), "--split", "random", "--seed", "7"])
    assert "--split random has seed 42" in capsys.readouterr().err


def test_a_copy_counts_the_less_the_less_its_scream_is_heard(rows_and_copies):
    rows, copies = rows_and_copies
    weights = copy_weights(rows, copies, ARGS)
    assert weights.shape == (24 + 48,)
    clips, clear, hidden = weights.reshape(3, 24)[:, :12]
    assert len(set(clips)) == 1 and clips[0] >= clear.max(), "the clips themselves count fully"
    assert clear.min() > 1.5 * hidden.max() and hidden.min() > 0
    np.testing.assert_array_equal(weights.reshape(3, 24)[:, 12:], 1.0)  # other sounds: a copy of them never hides what they are
    screams = np.concatenate([rows.label, copies.label]) == 1
    assert weights[screams].mean() == pytest.approx(1.0), "the two labels stay balanced"


def test_weights_are_the_squares_of_the_probabilities(rows_and_copies, monkeypatch):
    rows, copies = (some.rows(np.isin(some.group, [f"{name} {i}" for name in ("scream", "other") for i in range(4)]))
                    for some in rows_and_copies)
    probability = np.zeros(8 + 16)
    probability[8:12], probability[16:20] = [1, 0.5, 0.1, 0], 0.5  # of the copies of screams; the last is hidden completely
    monkeypatch.setattr(train_ml, "cross_val_predict", lambda *_, **__: np.stack([1 - probability, probability], axis=1))
    weights = np.array([1, 1, 1, 1, 1, 0.25, 0.01, 0.0004, 0.25, 0.25, 0.25, 0.25])
    screams = np.concatenate([rows.label, copies.label]) == 1
    np.testing.assert_allclose(copy_weights(rows, copies, ARGS)[screams], weights / weights.mean())


def test_no_recording_tells_how_well_its_own_copies_are_heard(rows_and_copies):
    """A scream like no other one is not known from its own rows."""
    rows, copies = rows_and_copies
    for some in (rows, copies):
        some.features[some.group == "scream 0"] = -6
    weights = copy_weights(rows, copies, ARGS)
    odd = weights[24:][copies.group == "scream 0"]
    assert odd.max() < 0.5 * weights[0]


def test_synthesised_signals_count_a_little_more_than_other_sounds(rows_and_copies):
    rows, copies = rows_and_copies
    for some in (rows, copies):
        some.source[np.isin(some.group, ["other 0", "other 1"])] = "synthesised"
    others = copy_weights(rows, copies, ARGS).reshape(3, 24)[:, 12:]
    np.testing.assert_array_equal(others, np.tile([1.5] * 2 + [1.0] * 10, (3, 1)))


def test_without_recordings_to_judge_by_all_rows_count_alike(rows_and_copies):
    rows, copies = (some.rows(np.isin(some.group, ["scream 0", "scream 1", "other 0", "other 1"])) for some in rows_and_copies)
    np.testing.assert_array_equal(copy_weights(rows, copies, ARGS), np.ones(4 + 8))


def test_the_svm_and_the_logistic_regression_learn_with_weights_the_forest_without(rows_and_copies):
    rows, copies = rows_and_copies
    weights = np.where(np.arange(24 + 48) < 24, 1.0, 1e-6)  # the copies as good as left out
    split, evaluated = np.full(24, "train", object), {"calibration": {}, "training": {"tuned": {}}}
    hidden = copies.features[24:36]  # screams of copies, where other sounds are
    for name, pipeline in train_ml.build_pipelines(0).items():
        unweighted = train_ml.build_pipelines(0)[name].fit(*train_ml.with_copies(rows, copies))
        train_ml.train(name, pipeline, rows, {"train": copies}, weights, split, evaluated, ARGS)
        score, plain = (train_ml.classical_score(fitted, hidden) for fitted in (pipeline, unweighted))
        if name == "random_forest":
            np.testing.assert_array_equal(score, plain)
        else:
            assert (score < plain).all(), name
