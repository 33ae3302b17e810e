"""The vote with known answers, and models that are loaded only when they are what their papers say."""

import hashlib
import json
import os
import pickle
import shutil

import joblib
import numpy as np
import pytest
import torch
from synthetic_artifacts import train_all_models, write_artifacts

from utils.artifacts import ArtifactError, list_pickle, sha256_of
from utils.audio import WINDOW, clean_window
from utils.ensemble import (CLASSICAL_FILES, MODEL_FILES, MODEL_NAMES, NETWORK_FILES, Ensemble, combine, forest_share,
                            load_ensemble)

YES, NO = 0.9, 0.1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    return train_all_models(write_artifacts(folder / "made"), folder / "models")


@pytest.fixture
def models(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "models")


@pytest.fixture(scope="module")
def windows():
    rng = np.random.default_rng(0)
    sounds = [rng.normal(0, 0.1, WINDOW) * np.sin(np.arange(WINDOW) / (100 + 900 * i)) for i in range(7)]
    return [clean_window(sound.astype(np.float32)) for sound in sounds]


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def path_of(models, name, suffix=None):
    path = models / MODEL_FILES[name]
    return path.with_suffix(suffix) if suffix else path


# the vote

@pytest.mark.parametrize("votes, verdict", [
    ("yyyyyy", True), ("yyyyyn", True), ("yyyynn", True), ("yynnnn", False), ("nnnnnn", False),
    ("yyyyy", True), ("yyynn", True), ("yynnn", False), ("y", True), ("n", False)])
def test_majority(votes, verdict):
    probability, n_votes, called = combine([[YES if vote == "y" else NO for vote in votes]])
    assert n_votes.tolist() == [votes.count("y")] and called.tolist() == [verdict]
    assert probability.shape == (1,) and 0 <= probability[0] <= 1


def test_majority_does_not_depend_on_who_votes_how():
    probabilities = np.array([[YES if i >> model & 1 else NO for model in range(6)] for i in range(64)])
    _, votes, verdict = combine(probabilities)
    assert votes.tolist() == [i.bit_count() for i in range(64)]
    assert verdict[votes > 3].all() and not verdict[votes < 3].any()


@pytest.mark.parametrize("yes, no, verdict", [(0.99, 0.45, True), (0.55, 0.01, False)])
def test_three_to_three_is_decided_by_the_ensemble_probability(yes, no, verdict):
    probability, votes, called = combine([[yes, yes, yes, no, no, no]])
    assert votes[0] == 3 and called[0] == verdict == (probability[0] >= 0.5)


def test_one_half_is_a_yes():
    _, votes, verdict = combine([[0.5] * 6, [np.nextafter(0.5, 0)] * 6])
    assert votes.tolist() == [6, 0] and verdict.tolist() == [True, False]


def test_a_sure_minority_does_not_overrule_the_majority():
    assert combine([[1.0, 1.0, 0.49, 0.49, 0.49, 0.49]])[2].tolist() == [False]
    assert combine([[0.0, 0.0, 0.51, 0.51, 0.51, 0.51]])[2].tolist() == [True]


def test_probability_stays_between_0_and_1_and_ranks():
    rng = np.random.default_rng(0)
    probabilities = np.vstack([rng.random((500, 6)), np.zeros(6), np.ones(6)])
    probability, votes, verdict = combine(probabilities)
    assert ((probability >= 0) & (probability <= 1)).all() and probability[-2] < 0.01 and probability[-1] > 0.99
    assert votes.min() >= 0 and votes.max() <= 6 and verdict.dtype == bool
    higher = combine(np.clip(probabilities + 0.05, 0, 1))[0]
    assert (higher >= probability - 1e-12).all()  # where every model is surer, so is the ensemble


def test_weights_are_named_by_their_hashes():
    def weights(**hashes):
        reports = {name: {"sha256": digest, "calibration": {}} for name, digest in hashes.items()}
        return Ensemble({}, {}, reports, {}, "cpu").weights

    one = weights(svm="a" * 64, cnn="b" * 64)
    assert one == weights(cnn="b" * 64, svm="a" * 64) and len(one) == 8 and int(one, 16)
    assert len({one, weights(svm="a" * 64), weights(svm="c" * 64, cnn="b" * 64), weights(svm="b" * 64, cnn="a" * 64)}) == 4


def test_nothing_to_vote_on():
    probability, votes, verdict = combine(np.zeros((0, 6)))
    assert len(probability) == len(votes) == len(verdict) == 0


# scores

def test_six_models_score_every_window(trained, windows):
    ensemble = load_ensemble(trained, device="cpu", threads=1)
    assert list(ensemble.names) == list(MODEL_NAMES) and ensemble.missing == {}
    probabilities = ensemble.score(windows)
    assert probabilities.shape == (len(windows), 6) and probabilities.dtype == np.float64
    assert np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1
    assert [len(part) for part in ensemble.combine(probabilities)] == [len(windows)] * 3


def test_score_of_a_window_does_not_depend_on_the_others(trained, windows):
    ensemble = load_ensemble(trained, device="cpu", threads=1)
    together = ensemble.score(windows)
    for n in (1, 2, 3, 5):
        assert np.array_equal(ensemble.score(windows[:n]), together[:n])
    assert np.array_equal(ensemble.score(windows[::-1])[::-1], together)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_share_of_a_forest_is_what_scikit_learn_says(trained, dtype):
    forest = load_ensemble(trained, ("random_forest",), "cpu", 1).classical["random_forest"]
    features = np.random.default_rng(0).normal(0, 30, (50, 34)).astype(dtype)
    expected = forest.predict_proba(features)[:, 1]
    assert len(np.unique(expected)) > 5
    np.testing.assert_array_equal(forest_share(forest, features), expected)


def test_no_windows(trained):
    ensemble = load_ensemble(trained, device="cpu", threads=1)
    assert ensemble.score_described(np.zeros((0, 34), np.float32), *[np.zeros((0, 128, 128), np.float32)] * 2).shape == (0, 6)


def test_number_of_threads_changes_no_verdict(trained, windows):
    before = torch.get_num_threads()
    try:
        one, two = (load_ensemble(trained, device="cpu", threads=n).score(windows) for n in (1, 2))
    finally:
        torch.set_num_threads(before)
    assert np.abs(one - two).max() < 1e-5
    assert np.array_equal(combine(one)[2], combine(two)[2])


def test_one_model_alone_says_what_it_says_among_others(trained, windows):
    ensemble = load_ensemble(trained, device="cpu", threads=1)
    together = ensemble.score(windows)
    for column, name in enumerate(MODEL_NAMES):
        assert np.array_equal(load_ensemble(trained, (name,), "cpu", 1).score(windows)[:, 0], together[:, column])
        assert np.array_equal(ensemble.only(name).score(windows)[:, 0], together[:, column])


def test_one_half_is_the_operating_point_of_every_model(models, windows):
    """Shifting the stored threshold of a model by its own score makes that window's probability one half."""
    from utils.ensemble import classical_score
    from utils.features import describe_windows

    ensemble = load_ensemble(models, device="cpu", threads=1)
    features, stft_db, mel_db = describe_windows(windows)
    raw = {name: classical_score(pipeline, features) for name, pipeline in ensemble.classical.items()}
    raw |= ensemble.network_scores(stft_db, mel_db)
    for name in MODEL_NAMES:
        threshold = float(raw[name][2])
        edit_json(path_of(models, name, ".json"), lambda report, at=threshold: report["calibration"].update(threshold=at))
    probabilities = load_ensemble(models, device="cpu", threads=1).score_described(features, stft_db, mel_db)
    assert probabilities[2] == pytest.approx(0.5, abs=1e-4)


# models that are missing or not what they should be

def only_missing(models, name, **options):
    """Load; check that `name` alone is missing and five vote. Returns the sentence."""
    ensemble = load_ensemble(models, device="cpu", threads=1, **options)
    assert list(ensemble.missing) == [name] and list(ensemble.names) == [other for other in MODEL_NAMES if other != name]
    sentence = ensemble.missing[name]
    assert "\n" not in sentence and MODEL_FILES[name].split(".")[0] in sentence
    return sentence


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_missing_model_names_the_file_and_the_command(models, name, windows):
    os.remove(path_of(models, name))
    sentence = only_missing(models, name)
    assert "is missing" in sentence and str(path_of(models, name)) in sentence
    assert f"python train_{name if name in NETWORK_FILES else 'ml'}.py" in sentence
    ensemble = load_ensemble(models, device="cpu", threads=1)
    _, votes, _ = ensemble.combine(ensemble.score(windows))
    assert votes.max() <= 5


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("where", [0, 0.5, -1])
def test_one_flipped_bit_is_noticed(models, name, where):
    path = path_of(models, name)
    content = bytearray(path.read_bytes())
    content[int(where * len(content)) if where >= 0 else -1] ^= 1
    path.write_bytes(content)
    assert "tampered" in only_missing(models, name)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("keep", [0, 0.5, 0.999])
def test_truncated_model_is_noticed(models, name, keep):
    os.truncate(path_of(models, name), int(keep * os.path.getsize(path_of(models, name))))
    assert "truncated" in only_missing(models, name)


@pytest.mark.parametrize("name, other", [("random_forest", "svm"), ("cnn", "cnn_mel"), ("cnn_lstm", "cnn")])
def test_swapped_model_is_noticed(models, name, other):
    shutil.copy(path_of(models, other), path_of(models, name))
    assert "swapped" in only_missing(models, name)


@pytest.mark.parametrize("name, other", [("random_forest", "svm"), ("cnn", "cnn_mel"), ("cnn_lstm", "cnn")])
def test_model_swapped_together_with_its_json_is_noticed(models, name, other):
    for suffix in (None, ".json"):
        shutil.copy(path_of(models, other, suffix), path_of(models, name, suffix))
    only_missing(models, name, trust_unlisted=True)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_other_signal_settings_are_refused(models, name):
    edit_json(path_of(models, name, ".json"), lambda report: report["settings"]["signal"].update(hop=256))
    sentence = only_missing(models, name)
    assert "other signal settings" in sentence and "python train_" in sentence


@pytest.mark.parametrize("name", ["svm", "cnn"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff", b"null"])
def test_damaged_json_is_one_sentence(models, name, content):
    path = path_of(models, name, ".json")
    if content is None:
        os.remove(path)
    else:
        path.write_bytes(content)
    assert "python train_" in only_missing(models, name)


@pytest.mark.parametrize("name", ["svm", "cnn"])
@pytest.mark.parametrize("change", [{"settings": []}, {"versions": []}, {"calibration": {}}, {"calibration": None},
                                    {"calibration": {"threshold": float("nan"), "slope": 1.0}},
                                    {"calibration": {"threshold": "1", "slope": 1.0}}], ids=repr)
def test_json_of_another_shape_is_one_sentence(models, name, change):
    edit_json(path_of(models, name, ".json"), lambda report: report.update(change))
    assert "does not describe a model" in only_missing(models, name)


def test_a_folder_that_is_not_there_is_named_once(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere: no such folder of models"):
        load_ensemble(tmp_path / "nowhere")


def test_a_pickle_that_is_none_is_one_sentence_even_when_it_is_trusted(models):
    content = b"this is no pickle"
    path_of(models, "svm").write_bytes(content)
    edit_json(path_of(models, "svm", ".json"), lambda report: report.update(sha256=hashlib.sha256(content).hexdigest()))
    assert "cannot be unpickled" in only_missing(models, "svm", trust_unlisted=True)


@pytest.mark.parametrize("name", ["svm", "cnn"])
@pytest.mark.parametrize("key", ["sha256", "settings", "calibration", "versions"])
def test_json_that_lacks_something_is_one_sentence(models, name, key):
    edit_json(path_of(models, name, ".json"), lambda report: report.pop(key))
    assert "python train_" in only_missing(models, name)


def test_other_scikit_learn_version_is_refused(models):
    edit_json(path_of(models, "svm", ".json"), lambda report: report["versions"].update({"scikit-learn": "0.24.2"}))
    sentence = only_missing(models, "svm")
    assert "0.24.2" in sentence and "installed" in sentence and "python train_ml.py" in sentence
    only_missing(models, "svm", trust_unlisted=True)  # trusting its maker does not make it fit


def test_unlisted_pickle_is_refused_and_accepted_on_request(models, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "lists"))
    for name in set(CLASSICAL_FILES) - {"svm"}:
        list_pickle(path_of(models, name), sha256_of(path_of(models, name)))
    sentence = only_missing(models, "svm")
    assert "neither came with this project nor was trained here" in sentence and "--trust-models" in sentence
    assert load_ensemble(models, device="cpu", threads=1, trust_unlisted=True).missing == {}


def test_a_folder_from_somebody_else_cannot_vouch_for_its_pickles(models, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "other-user"))
    own = {name: sha256_of(models / name) for name in CLASSICAL_FILES.values()}
    (models / "SHA256SUMS.json").write_text(json.dumps(own))
    (models / "own_pickles").write_text("".join(f"{digest} {name}\n" for name, digest in own.items()))
    ensemble = load_ensemble(models, device="cpu", threads=1)
    assert all("--trust-models" in sentence for sentence in ensemble.missing.values())
    assert list(ensemble.missing) == list(CLASSICAL_FILES) and list(ensemble.names) == list(NETWORK_FILES)
    assert load_ensemble(models, device="cpu", threads=1, trust_unlisted=True).missing == {}


class Malicious:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def replace_model(models, name, path):
    """Put another file in a model's place with a JSON that vouches for it."""
    shutil.copy(path, path_of(models, name))
    edit_json(path_of(models, name, ".json"), lambda report: report.update(sha256=sha256_of(path)))


def test_malicious_pickle_is_not_run(models, tmp_path):
    evil, trace = tmp_path / "evil.pkl", tmp_path / "was-run"
    joblib.dump(Malicious(trace), evil)
    shutil.copy(evil, path_of(models, "svm"))
    assert "tampered" in only_missing(models, "svm")  # its JSON does not vouch for it
    replace_model(models, "svm", evil)
    assert "nor was trained here" in only_missing(models, "svm")  # no list knows it
    assert not trace.exists()
    joblib.load(evil)
    assert trace.exists()  # it would have run


def test_malicious_network_is_not_run(models, tmp_path):
    evil, trace = tmp_path / "evil.pth", tmp_path / "was-run"
    for zipped in (True, False):
        if zipped:
            torch.save({"weights": Malicious(trace)}, evil)
        else:
            evil.write_bytes(pickle.dumps(Malicious(trace), protocol=2))
        replace_model(models, "cnn", evil)
        assert "python train_cnn.py" in only_missing(models, "cnn", trust_unlisted=True)
        assert not trace.exists()


def test_weights_of_another_network_are_one_sentence(models, tmp_path):
    torch.save({"output.weight": torch.zeros(1, 3)}, tmp_path / "other.pth")
    replace_model(models, "cnn", tmp_path / "other.pth")
    assert "python train_cnn.py" in only_missing(models, "cnn")


def test_no_model_at_all(tmp_path, models):
    with pytest.raises(ArtifactError) as caught:
        load_ensemble(tmp_path / "nothing here", device="cpu")
    assert "python train_ml.py" in str(caught.value) and "\n" not in str(caught.value)
    os.remove(path_of(models, "svm"))
    with pytest.raises(ArtifactError, match=r"svm_esc50_pipeline.pkl is missing: run python train_ml.py"):
        load_ensemble(models, ("svm",))
