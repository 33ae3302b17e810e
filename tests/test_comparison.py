"""Tables that compare the models: clip level, known answers, and no test on clips that a model has seen."""

import contextlib
import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import soundfile
from stand_in import StandIn, scene, sounding
from synthetic_artifacts import write_artifacts
from window_table import window_table

from utils.artifacts import ArtifactError
from utils.comparison import (VOTE, StoredClip, clip_scores, confused_classes, figure_rows, figures_of, file_sizes,
                              mean_over_windows, plot_comparison, refuse_seen_clips, reliability, score_rows,
                              warn_of_few_clips)
from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_S, clean_window, read_audio, trim_silence
from utils.background_noise import subtract_own_noise
from utils.dataset import Clip, choose_split, read_windows
from utils.ensemble import MODEL_FILES, combine
from utils.extraction import describe_clip
from utils.features import describe_window
from utils.loudness import window_level
from utils.noise_level import NOISE_FILE, NoiseLevel
from utils.ranking import recording_probabilities
from utils.scan import scan
from utils.tables import markdown_table, write_csv, write_text


REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def windows_of(rows):
    """Windows from (file, label, source, sound class)."""
    file, label, source, sound_class = zip(*rows)
    return window_table(file, label, source=source, sound_class=sound_class)


class ThreeModels:
    noise = None
    names = ("svm", "cnn", "cnn_mel")

    @staticmethod
    def combine(probabilities):
        return combine(probabilities)

    @staticmethod
    def score(windows):
        return np.full((len(windows), 3), 0.001)


ROWS = np.array([0, 1, 2, 3])
PROBABILITIES = np.array([[0.9, 0.1, 0.2], [0.2, 0.6, 0.7], [0.6, 0.1, 0.1], [0.1, 0.6, 0.3]])


@pytest.fixture
def windows(tmp_path):
    """Two windows each of two clips of steady noise, no part of which is louder than the rest, and one more that no test uses."""
    paths = [str(tmp_path / f"{name}.wav") for name in "ab"]
    for path in paths:
        soundfile.write(path, sounding(0) / 5, SAMPLE_RATE)
    return windows_of([(paths[0], 1, "field", "voice"), (paths[0], 1, "field", "voice"), (paths[1], 0, "field", "dog"),
                       (paths[1], 0, "field", "dog"), ("unused", 1, "field", "voice")])


def test_a_clip_is_ranked_as_a_recording_and_is_called_if_one_window_is(windows):
    label, scores = clip_scores(windows, ROWS, ThreeModels(), PROBABILITIES)
    assert label.tolist() == [1, 0]
    ranked = recording_probabilities(windows.rows(ROWS), PROBABILITIES[:, 0])
    assert scores["svm"][0] == pytest.approx(ranked) and 0.2 < ranked[0] < 0.9 and 0.1 < ranked[1] < 0.6
    assert scores["svm"][1].tolist() == [True, True] and scores["cnn_mel"][1].tolist() == [True, False]
    # two of three say scream in one window of a; in b each window has one vote, and votes of two windows do not add up
    assert scores[VOTE][1].tolist() == [True, False]
    assert list(scores) == ["svm", "cnn", "cnn_mel", VOTE]


def test_a_model_that_is_sure_is_ranked_as_if_it_were_alone_in_the_vote(windows):
    _, scores = clip_scores(windows, ROWS, ThreeModels(), np.array([[1.0, 0.0, 0.5]] * 4))
    assert [scores[name][0][0] for name in ThreeModels.names] == pytest.approx([0.999, 0.001, 0.5]), "no odds beyond 1:1000"


def stored(path, starts_s):
    return StoredClip(str(path), np.round(starts_s, 4))  # as the table has them


def window_of(clip, start_s):
    return clip.cut(round(start_s, 4), round(start_s, 4) + WINDOW_S)


def test_the_samples_of_a_stored_clip_are_those_that_stage_1_described(tmp_path):
    """The clip begins and ends with silence, which stage 1 leaves out; the table holds the starts rounded."""
    rng, path = np.random.default_rng(0), tmp_path / "clip.wav"
    samples = np.concatenate([np.zeros(7_001), rng.uniform(-0.5, 0.5, 100_003), np.zeros(9_000)])
    soundfile.write(path, samples, SAMPLE_RATE)
    features, _, _, starts_s, level_db, _ = describe_clip(Clip(str(path), "scream", "s", "g", "c"))
    assert len(features) == 3
    clip = stored(path, starts_s)
    for row in (2, 0, 1):
        described, _, _ = describe_window(clean_window(window_of(clip, starts_s[row])))
        np.testing.assert_array_equal(described, features[row])
        assert level_db[row] == window_level(window_of(clip, starts_s[row])), "as main.py hears it"
    whole, _ = trim_silence(read_audio(str(path)))
    np.testing.assert_array_equal(clip.cut(-30.0, starts_s[1]), whole[: WINDOW // 2])
    np.testing.assert_array_equal(clip.cut(starts_s[2], 100.0), whole[WINDOW:])
    assert not len(clip.cut(-30.0, 0.0))


def test_a_clip_that_has_changed_is_refused(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 100_000), SAMPLE_RATE)
    assert len(window_of(stored(path, [0.0, 1.4745]), 1.4745)) == WINDOW
    with pytest.raises(ArtifactError, match=r"clip\.wav .*extract_features\.py"):
        window_of(stored(path, [0.0, 1.5]), 0.0)


def test_a_clip_that_is_gone_is_named():
    with pytest.raises(ArtifactError, match=r"^gone\.wav: .*extract_features\.py"):
        window_of(stored("gone.wav", [0.0]), 0.0)


def test_the_vote_hears_noisy_windows_again(tmp_path):
    """Both windows of the clip are noisy and likely enough; it is the second that is a scream without its noise."""
    heard, samples = [], sounding(0)[:60_000]
    soundfile.write(tmp_path / "b.wav", np.tile(samples, 2)[:90_000] / 5, SAMPLE_RATE, subtype="FLOAT")
    windows = windows_of([(str(tmp_path / "b.wav"), 0, "field", "dog")] * 2)
    windows.start_s[:] = 1.4744, 0.0  # in any order

    class Again(ThreeModels):
        noise = NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), 30.0)

        @staticmethod
        def score(windows):
            heard.append(windows[0])
            return np.full((1, 3), 0.9 if len(heard) == 2 else 0.001)

    label, scores = clip_scores(windows, np.array([0, 1]), Again(), np.full((2, 3), 0.2))
    assert label.tolist() == [0] and scores[VOTE][1].tolist() == [True] and len(heard) == 2
    clip = stored(tmp_path / "b.wav", [0.0, 1.4745])
    np.testing.assert_array_equal(heard, [clean_window(subtract_own_noise(window_of(clip, start))) for start in (0.0, 1.4745)])
    assert scores[VOTE][0] == pytest.approx(0.2), "ranking does not know of the noise"


def test_a_clip_is_called_as_main_calls_it(tmp_path):
    """A weak scream beside some seconds of noise: no window is called by the vote, but it stands out."""
    soundfile.write(tmp_path / "a.wav", scene(8, [(2.0, 0.7)], snr=0), SAMPLE_RATE, subtype="FLOAT")
    ensemble, described = StandIn(), []
    record = scan([read_audio(str(tmp_path / "a.wav"))], ensemble, on_window=described.append)
    probabilities = np.stack([window.probabilities for window in described])
    assert record["verdict"] == "scream" and not any(window.verdict for window in described)
    ensemble.noise = None
    windows = windows_of([(str(tmp_path / "a.wav"), 1, "field", "voice")] * len(described))
    windows.start_s[:] = [window.start_s for window in described]
    rows = np.random.default_rng(0).permutation(len(described))
    windows.band_level_db[:] = [window.band_level_db for window in described]
    _, scores = clip_scores(windows, rows, ensemble, probabilities[rows])
    assert scores[VOTE][1].tolist() == [True]
    assert scores[VOTE][0] == pytest.approx(record["probability"], abs=1e-6)


def test_a_clip_is_ranked_as_main_ranks_it_and_as_each_stage_for_one_model(tmp_path):
    """A tone that fills a small part of its windows: there it is heard alone, and counts for more."""

    class Only(StandIn):
        def __init__(self, column):
            super().__init__(0.75)
            self.column, self.names = column, StandIn.names[column : column + 1]

        def score(self, windows):
            return StandIn(0.75).score(windows)[:, [self.column]]

    soundfile.write(tmp_path / "a.wav", scene(5, [(2.0, 0.3)], snr=12), SAMPLE_RATE, subtype="FLOAT")
    ensemble, described, samples = StandIn(0.75), [], read_audio(str(tmp_path / "a.wav"))
    record = scan([samples], ensemble, on_window=described.append)
    ensemble.noise = None
    windows = windows_of([(str(tmp_path / "a.wav"), 1, "field", "voice")] * len(described))
    windows.start_s[:] = [window.start_s for window in described]
    windows.band_level_db[:] = [window.band_level_db for window in described]
    probabilities = np.stack([window.probabilities for window in described])
    _, scores = clip_scores(windows, np.arange(len(described)), ensemble, probabilities)
    assert scores[VOTE][0] == pytest.approx(record["probability"], abs=1e-6)
    assert scores[VOTE][0] > recording_probabilities(windows, ensemble.combine(probabilities)[0]) + 0.01
    for column, name in enumerate(ensemble.names):
        assert scores[name][0] == pytest.approx(scan([samples], Only(column))["probability"], abs=1e-6)


def test_the_mean_over_windows_is_that_of_log_odds(windows):
    mean = mean_over_windows(windows, ROWS, np.array([0.9, 0.9, 0.5, 0.8]))
    assert mean.tolist() == pytest.approx([np.log(9), np.log(4) / 2])


def test_figures_of_the_models_and_the_vote(windows):
    figures = figures_of(*clip_scores(windows, ROWS, ThreeModels(), PROBABILITIES))
    assert figures["svm"]["confusion_matrix"] == [[0, 1], [0, 1]] and figures["svm"]["roc_auc"] == 1
    assert figures[VOTE]["accuracy"] == 1 and figures["cnn"]["roc_auc"] == 0.5


def test_table_has_a_row_per_model_and_only_figures_that_are_there():
    header, rows = figure_rows({"svm": {"accuracy": 0.98765, "roc_auc": 1.0}, VOTE: {"accuracy": 0.5}})
    assert header == ["model", "accuracy", "ROC-AUC"]
    assert rows == [["svm", "0.988", "1.000"], [VOTE, "0.500", ""]]
    lines = markdown_table(header, rows).splitlines()
    assert lines[0] == "| model | accuracy | ROC-AUC |" and len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


def test_most_confused_classes():
    rows = [(f"scream{i}", 1, "field", "voice") for i in range(3)] + [(f"dog{i}", 0, "home", "dog") for i in range(100)]
    rows += [(f"siren{i}", 0, "street", "siren") for i in range(100)]
    probability = np.concatenate([np.full(100, 0.1), np.ones(3), np.full(99, 0.2), [0.9]])  # of clips, sorted by file
    windows, order = windows_of(rows), np.arange(len(rows))
    assert confused_classes(windows, order, probability) == [("street/siren", 1, 100)]
    probability[:3] = [0.95, 0.96, 0.97]  # three dogs above the siren: two of them are the 1 % of 200
    assert confused_classes(windows, order, probability)[0][0] == "home/dog"
    assert len(confused_classes(windows, order, probability, most=1)) == 1


def test_reliability():
    label, probability = np.array([0, 1, 1, 1, 0]), np.array([0.1, 0.1, 0.9, 1.0, 0.05])
    mean, share = reliability(label, probability, bins=2)
    assert mean.tolist() == pytest.approx([0.25 / 3, 0.95]) and share.tolist() == pytest.approx([1 / 3, 1])


def report(all_data=False, options=None, **settings):
    """What refuse_seen_clips and train_missing read of a model's JSON."""
    return {"training": {"all_data": all_data}, "settings": {"fingerprint": "f", "options": options or {}} | settings}


def test_models_that_may_have_seen_test_clips_are_not_tested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fair = {"svm": report(split="group", sources=None, folds=None), "cnn": report(options={"sources": None, "folds": None})}
    refuse_seen_clips("models", fair, "f")
    for unfair, why in [
        (report(all_data=True), r"cnn in models were trained on all clips.*without --all-data"),
        (report(fingerprint="g"), r"cnn in models were trained from other artifacts"),
        (report(options={"sources": ["esc10"]}), r"cnn in models were trained with --sources, --folds or --split random"),
        (report(options={"folds": 5, "fold": 0}), r"cnn in models were trained with --sources, --folds"),
        (report(split="random"), r"cnn in models were trained with --sources, --folds or --split random"),
    ]:
        with pytest.raises(ArtifactError, match=why) as caught:
            refuse_seen_clips("models", fair | {"cnn": unfair}, "f")
        assert "\n" not in str(caught.value) and "svm" not in str(caught.value)
    os.mkdir("models")
    (tmp_path / "models/noise.json").write_text(json.dumps(report()))
    refuse_seen_clips("models", fair, "f")
    (tmp_path / "models/noise.json").write_text(json.dumps(report(all_data=True)))
    with pytest.raises(ArtifactError, match=r"^noise\.json in models were trained on all clips"):
        refuse_seen_clips("models", fair, "f")


def test_without_test_clips_one_sentence(windows):
    with pytest.raises(ArtifactError, match=r"no clips to test on: .*column group"):
        score_rows(ThreeModels(), windows, "data", {}, np.array([], int))


@pytest.mark.parametrize("n_screams, n_others, few", [(9, 50, True), (50, 9, True), (0, 50, True), (10, 10, False)])
def test_figures_of_few_clips_come_with_a_caution(n_screams, n_others, few, capsys):
    warn_of_few_clips(np.repeat([1, 0], [n_screams, n_others]), "the test split")
    said = capsys.readouterr().err
    assert said.startswith("note: the test split has few clips to test on") is few
    assert (f"(screams: {n_screams}, others: {n_others})" in said) is few
    assert said.count("\n") == few


def test_sizes_and_files(tmp_path):
    (tmp_path / MODEL_FILES["svm"]).write_bytes(bytes(2_500_000))
    assert file_sizes(tmp_path, ["svm"]) == {"svm": 2.5}
    write_csv(tmp_path / "a.csv", ["model", "x"], [["svm, really", "1"]])
    with open(tmp_path / "a.csv", newline="") as file:
        assert list(csv.reader(file)) == [["model", "x"], ["svm, really", "1"]]
    write_text(tmp_path / "a.md", "# a\n")
    assert (tmp_path / "a.md").read_text() == "# a\n"


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], 20)
    scores = {name: (rng.random(40), rng.random(40) > 0.5) for name in (*MODEL_FILES, VOTE)}
    plot_comparison(tmp_path / "a.png", label, scores, "test")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_transfer_sides_share_no_collection():
    import compare_models

    one, other = (set(names) for names in compare_models.SIDES.values())
    assert one and other and not one & other


def test_transfer_on_other_collections_says_what_to_do_before_it_trains(tmp_path, monkeypatch):
    import compare_models

    monkeypatch.setattr(compare_models, "train_missing", None)  # would fail
    write_artifacts(tmp_path)
    options = ["--transfer", "--features", str(tmp_path / "audio_features.csv"), "--data", str(tmp_path / "data"),
               "--models", str(tmp_path / "models")]
    monkeypatch.setattr(compare_models, "SIDES", {"A": ("source-0", "esc10"), "B": ("moodist",)})
    with pytest.raises(ArtifactError) as caught:
        compare_models.main(options)
    assert str(caught.value) == (
        f"{tmp_path}/audio_features.csv has no clips of side A: esc10; of side B: moodist. It has clips of source-0, source-1. "
        "SIDES at the top of compare_models.py names the collections: put yours there")
    monkeypatch.setattr(compare_models, "SIDES", {"A": ("source-0",), "B": ("source-1",)})
    windows = read_windows(tmp_path / "audio_features.csv")
    windows.label[windows.source == "source-1"] = 0
    with pytest.raises(ArtifactError, match=r"side B \(source-1\) needs clips of both labels in table.csv; SIDES at the top"):
        compare_models.check_sides(windows, "table.csv")
    assert not (tmp_path / "models").exists()


def test_sides_without_clips_of_groups_of_their_own_are_refused(tmp_path, monkeypatch):
    import compare_models

    monkeypatch.setattr(compare_models, "SIDES", {"A": ("source-0",), "B": ("source-1",)})
    windows = read_windows(write_artifacts(tmp_path) / "audio_features.csv")
    compare_models.check_sides(windows, "table.csv")
    windows.group[(windows.source == "source-0") & (windows.label == 1)] = "both"
    compare_models.check_sides(windows, "table.csv")
    windows.group[np.flatnonzero((windows.source == "source-1") & (windows.label == 0))[0]] = "both"
    with pytest.raises(ArtifactError, match=r"without the groups that have clips in B, too, side A has no clips of both "
                                            r"labels in table.csv; SIDES at the top"):
        compare_models.check_sides(windows, "table.csv")


def test_transfer_counts_clips_of_a_group_that_was_learned_from_apart(tmp_path, monkeypatch, capsys):
    """Copies may lie in two collections: they share a group, and are no test for what has learned from one of them."""
    import compare_models

    tested, learned_from = [], {}

    def score(ensemble, windows, data_dir, manifest, rows):
        tested.append(rows)
        of_known_groups = np.isin(windows.group[rows], "both")[:, None]  # these clips are ranked wrongly, the others well
        return np.where((windows.label[rows] == 1)[:, None] == of_known_groups, 0.1, 0.9) * np.ones(3)

    monkeypatch.setattr(compare_models, "SIDES", {"A": ("source-0",), "B": ("source-1",)})
    monkeypatch.setattr(compare_models, "train_missing", lambda args, tasks, fingerprint: learned_from.update(tasks))
    monkeypatch.setattr(compare_models, "load_all_models", lambda folder, trust: ThreeModels())
    monkeypatch.setattr(compare_models, "score_rows", score)
    monkeypatch.setattr(compare_models, "plot_transfer", lambda *_: None)
    windows = read_windows(write_artifacts(tmp_path) / "audio_features.csv")
    source, shared = windows.source, np.isin(windows.group, ["group-0", "group-3"])  # of source-0 and of source-1
    assert set(source[shared]) == {"source-0", "source-1"}
    windows.group[shared] = "both"
    args = compare_models.parse_arguments(["--transfer", "--models", str(tmp_path)])
    compare_models.transfer(args, windows, {"fingerprint": "f"})
    assert [line.split(" has few clips ")[0] for line in capsys.readouterr().err.splitlines()] == ["note: side B", "note: side A"]
    assert [task["sources"] for task in learned_from.values()] == [["source-0"], ["source-1"]]
    for rows, other in zip(tested, ("source-1", "source-0"), strict=True):
        assert rows.tolist() == np.flatnonzero(source == other).tolist()
    directions = (tmp_path / "transfer.md").read_text().split("## Trained on ")[1:]
    for side, report, other in zip("AB", directions, ("source-1", "source-0"), strict=True):
        n_clips, n_known = (len(set(windows.file[(source == other) & chosen])) for chosen in (~shared, shared))
        assert f"\n\n{n_clips} clips, " in report and 0 < n_known < n_clips
        rows = dict(re.findall(r"^\| (vote|mean|svm|vote, and .*?) \| (?:[^|]*\| ){2}([\d.]+) \|", report, re.M))
        assert rows.keys() >= {"vote", "svm"}, report
        assert float(rows["vote"]) == float(rows["svm"]) == 1 > float(rows[f"vote, and {n_known} clips of groups in {side}"])


def test_senseless_number_of_folds_is_refused():
    import compare_models

    with pytest.raises(SystemExit) as caught:
        compare_models.parse_arguments(["--cross-validate", "2"])
    assert caught.value.code == 2


def training_that_ends_with(status):
    """A process as train_missing starts it, in a `with`."""
    return contextlib.nullcontext(types.SimpleNamespace(wait=lambda: status, terminate=lambda: None))


def stages_run(monkeypatch, folder, options, fingerprint="f", words=()):
    """Names of the stage scripts that train_missing starts for a folder, and the options of the first."""
    import compare_models

    commands = []
    monkeypatch.setattr(compare_models.subprocess, "Popen",
                        lambda command, **_: commands.append(command[1:]) or training_that_ends_with(0))
    args = compare_models.parse_arguments(["--cross-validate", "5", *words])
    compare_models.train_missing(args, {str(folder): options}, fingerprint)
    return [pathlib.Path(command[0]).name for command in commands], commands[0][1:] if commands else []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_run_that_is_ended_leaves_no_training_behind(tmp_path):
    """SIGTERM reaches the run alone; the two stage scripts that it has started must not go on in its folders."""
    stage = "import os, time; open(os.path.join({folder!r}, str(os.getpid())), 'w').close(); time.sleep(60)"
    (tmp_path / "pids").mkdir()
    (tmp_path / "train_ml.py").write_text(stage.format(folder=str(tmp_path / "pids")))
    script = (f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); import compare_models as c; from utils.artifacts import *\n"
              f"c.REPOSITORY = {str(tmp_path)!r}; args = c.parse_arguments(['--cross-validate', '5', '--jobs', '2'])\n"
              f"tasks = {{{str(tmp_path)!r} + '/' + name: {{'fold': 1}} for name in 'ab'}}\n"
              "run_stage(lambda: c.train_missing(args, tasks, 'f'))")
    run = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    for _ in range(300):
        if len(os.listdir(tmp_path / "pids")) == 2:
            break
        time.sleep(0.1)
    run.terminate()
    err = run.communicate(timeout=30)[1]
    pids = [int(name) for name in os.listdir(tmp_path / "pids")]
    assert len(pids) == 2 and run.returncode == 143 and err.endswith("interrupted; nothing half-written is left\n")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("words", [["--seeds", "3"], ["--epochs", "1"], ["--jobs", "2"],
                                   ["--cross-validate", "5", "--seeds", "3"]])
def test_options_that_nothing_would_read_are_refused(words, capsys):
    import compare_models

    with pytest.raises(SystemExit) as caught:
        compare_models.parse_arguments(words)
    assert caught.value.code == 2 and "needs --transfer" in capsys.readouterr().err


def test_only_what_is_not_trained_yet_is_trained(tmp_path, monkeypatch):
    """Models of another fold, of other artifacts, or of other epochs are no models of this run."""
    from compare_models import STAGES
    from train_cnn import SETTINGS as stft
    from train_cnn_lstm import SETTINGS as lstm
    from train_cnn_mel import SETTINGS as mel

    settings = {"cnn": stft, "cnn_mel": mel, "cnn_lstm": lstm}
    wanted = {"folds": 5, "fold": 1}
    scripts, words = stages_run(monkeypatch, tmp_path, wanted)
    assert scripts == list(STAGES) and words[-4:] == ["--folds", "5", "--fold", "1"]
    for name, file in MODEL_FILES.items():
        made = report(options=wanted | settings.get(name, {}))
        (tmp_path / file).with_suffix(".json").write_text(json.dumps(made))
    assert stages_run(monkeypatch, tmp_path, wanted)[0] == ["train_ml.py"], "the noise level is missing"
    (tmp_path / NOISE_FILE).write_text(json.dumps(report(options=wanted)))
    assert stages_run(monkeypatch, tmp_path, wanted)[0] == []
    assert stages_run(monkeypatch, tmp_path, {"folds": 5, "fold": 2})[0] == list(STAGES)
    assert stages_run(monkeypatch, tmp_path, {"sources": ["esc10"], "seed": 0})[0] == list(STAGES)
    assert stages_run(monkeypatch, tmp_path, wanted, "g")[0] == list(STAGES)
    assert stages_run(monkeypatch, tmp_path, wanted, words=["--epochs", "1"])[0] == list(STAGES[1:])
    (tmp_path / "cnn_model.json").write_text(json.dumps(report(options=wanted | stft | {"scenes": "none"})))
    assert stages_run(monkeypatch, tmp_path, wanted)[0] == ["train_cnn.py"]
    (tmp_path / "cnn_model.json").write_text("{")
    assert stages_run(monkeypatch, tmp_path, wanted)[0] == ["train_cnn.py"]


def test_stage_that_fails_names_its_log(tmp_path, monkeypatch):
    import compare_models

    monkeypatch.setattr(compare_models.subprocess, "Popen", lambda *_, **__: training_that_ends_with(1))
    args = compare_models.parse_arguments(["--transfer"])
    with pytest.raises(ArtifactError, match=r"train_ml.py failed; see .*train_ml.log"):
        compare_models.train_missing(args, {str(tmp_path / "a"): {}}, "f")


def test_cross_validation_takes_models_of_its_own_folds_and_all_six(tmp_path, monkeypatch):
    import compare_models

    asked, trusted = {}, []
    monkeypatch.setattr(compare_models, "train_missing", lambda args, tasks, fingerprint: asked.update(tasks))
    monkeypatch.setattr(compare_models, "load_ensemble", lambda folder, threads, trust_unlisted: (
        trusted.append(trust_unlisted) or types.SimpleNamespace(missing={"svm": "no svm"})))
    windows = read_windows(write_artifacts(tmp_path) / "audio_features.csv")
    for words in ([], ["--trust-models"]):
        args = compare_models.parse_arguments(["--cross-validate", "3", *words])
        with pytest.raises(ArtifactError, match="needs all six models: no svm"):
            compare_models.cross_validate(args, windows, {"fingerprint": "f"})
    assert trusted == [False, True]
    assert list(asked.values()) == [{"folds": 3, "fold": fold, "seed": 0} for fold in range(3)]  # a seed deals the folds


def test_cross_validation_tests_each_clip_once_by_models_of_the_fold_that_held_it_out(tmp_path, monkeypatch):
    import compare_models

    tested = []
    windows = read_windows(write_artifacts(tmp_path) / "audio_features.csv")
    held_out = [choose_split(windows, folds=3, fold=fold, seed=0) == "test" for fold in range(3)]

    def score(folder, windows, data_dir, manifest, rows):
        tested.append((folder, rows))
        return np.random.default_rng(0).random((len(rows), 3))

    class Named(ThreeModels):
        def __init__(self, folder):
            self.folder = folder

    monkeypatch.setattr(compare_models, "train_missing", lambda *_: None)
    monkeypatch.setattr(compare_models, "load_all_models", lambda folder, trust: Named(folder))
    monkeypatch.setattr(compare_models, "score_rows", lambda ensemble, *words: score(ensemble.folder, *words))
    args = compare_models.parse_arguments(["--cross-validate", "3", "--models", str(tmp_path), "--work", "w"])
    compare_models.cross_validate(args, windows, {"fingerprint": "f"})
    for fold, (folder, rows) in enumerate(tested):
        assert folder == os.path.join("w", "folds-3", str(fold)) and rows.tolist() == np.flatnonzero(held_out[fold]).tolist()
    report = (tmp_path / "cross_validation.md").read_text()
    assert "95 % intervals of the vote" in report
