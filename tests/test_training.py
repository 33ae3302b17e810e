"""The training loop: the best weights are kept, an interrupted run ends as an undisturbed one, equal seeds give equal weights.

The data are random numbers and the runs a few batches long: what is proved is the loop, not the models.
"""

import argparse
import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch
from synthetic_artifacts import locations, write_artifacts

from utils import training
from utils.artifacts import ArtifactError, sha256_of
from utils.calibration import fit_calibration
from utils.dataset import read_manifest, read_spectrograms, read_windows
from utils.training import BalancedBatches, score_windows, train_network, update_average


pytestmark = pytest.mark.usefixtures("one_thread")
DRAW = training.plot_history


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the training here."""
    monkeypatch.setattr(training, "plot_history", lambda *_: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_artifacts(tmp_path_factory.mktemp("training") / "made")


def arguments(made, models, *options):
    parser = argparse.ArgumentParser()
    training.add_training_options(parser, epochs=4, scenes="hard")
    short = ["--steps", "2", "--batch-size", "8", "--device", "cpu", "--threads", "1"]
    args = parser.parse_args([*locations(made, models), *short, *options])
    training.check_training_options(parser, args)
    return args


def train(made, models, *options, name="cnn"):
    assert train_network(name, arguments(made, models, *options)) == 0
    return torch.load(models / f"{name}_model.pth", weights_only=True)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def report_of(models, name="cnn"):
    return json.loads((models / f"{name}_model.json").read_text())


@pytest.fixture
def averages(monkeypatch):
    """The averaged weights at the end of each epoch."""
    seen, save = [], training.save_state

    def save_and_note(path, state):
        if "average" in state:
            seen.append({key: value.clone() for key, value in state["average"].items()})
        save(path, state)

    monkeypatch.setattr(training, "save_state", save_and_note)
    return seen


def figures_come_as(monkeypatch, values):
    """Let the validation figure of the epochs, for clean clips and for noisy copies, be these values; the last one stays."""
    values = [value for value in values for _ in ("clean", "noisy")]
    monkeypatch.setattr(training, "ranking_figures",
                        lambda *_: {"average_precision": values.pop(0) if len(values) > 1 else values[0], "roc_auc": 0.5})


def interrupt_in_epoch(monkeypatch, epoch, steps=2):
    """Ctrl-C while the last batch of an epoch is made."""
    scenes, calls = training.random_scenes, []

    def scenes_or_stop(*rest):
        calls.append(1)
        if len(calls) == epoch * steps:
            raise KeyboardInterrupt
        return scenes(*rest)

    monkeypatch.setattr(training, "random_scenes", scenes_or_stop)
    return lambda: monkeypatch.setattr(training, "random_scenes", scenes)


# which weights are kept

def test_weights_of_the_best_epoch_are_saved_not_the_last(made, tmp_path, monkeypatch, averages):
    figures_come_as(monkeypatch, [0.3, 0.9, 0.5, 0.4])
    saved = train(made, tmp_path)
    assert not equal(averages[1], averages[3])  # the later epochs did change the weights
    assert equal(saved, averages[1])
    assert report_of(tmp_path)["training"]["best_epoch"] == 2
    history = json.loads((tmp_path / "cnn_history.json").read_text())
    assert [entry["average_precision"] for entry in history] == [0.3, 0.9, 0.5, 0.4]


def test_figures_are_those_of_the_saved_weights(made, tmp_path, monkeypatch):
    figures_come_as(monkeypatch, [0.9, 0.5, 0.4])
    saved = train(made, tmp_path)
    report, manifest = report_of(tmp_path), read_manifest(made / "data")
    windows = read_windows(made / "audio_features.csv", manifest)
    network = training.build_network("cnn")
    network.load_state_dict(saved)
    spectrograms = read_spectrograms(made / "data", training.STFT_NPY, len(windows), manifest)
    for part in ("validation", "test"):
        rows = np.flatnonzero(windows.split == part)
        logits = score_windows(network.to(memory_format=torch.channels_last), spectrograms, rows, torch.device("cpu"))
        probability = training.probability_of(logits, report["calibration"])
        figures = training.clip_figures(windows.rows(rows), probability)
        assert figures["clips"] == report["metrics"][part]["clips"]
        assert figures["confusion_matrix"] == report["metrics"][part]["confusion_matrix"]
        assert figures["roc_auc"] == pytest.approx(report["metrics"][part]["roc_auc"])


def test_weights_are_written_with_their_papers(made, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "plot_history", DRAW)
    saved = train(made, tmp_path, "--epochs", "1")
    report = report_of(tmp_path)
    assert (report["model"], report["file"]) == ("cnn", "cnn_model.pth")
    assert report["sha256"] == sha256_of(tmp_path / "cnn_model.pth")
    assert report["settings"]["fingerprint"] == read_manifest(made / "data")["fingerprint"]
    assert set(report["metrics"]) == {"train", "validation", "test"}
    assert report["versions"]["torch"] == torch.__version__.split("+")[0]
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in saved.values())
    assert not (tmp_path / ".cnn_checkpoint.pth").exists()
    assert (tmp_path / "cnn_history.png").read_bytes()[:4] == b"\x89PNG"


def test_a_place_that_cannot_be_written_is_told_before_training(made, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(training, "random_scenes", None)  # whoever trains fails
    with pytest.raises(ArtifactError, match="file"):
        train(made, tmp_path / "file")


def test_patience_stops(made, tmp_path, monkeypatch, capsys):
    figures_come_as(monkeypatch, [0.3, 0.9, 0.1])
    train(made, tmp_path, "--epochs", "20", "--patience", "3")
    assert report_of(tmp_path)["training"] == {"all_data": False, "epochs": 5, "device": "cpu", "best_epoch": 2,
                                               "precision": training.faster_precision(torch.device("cpu"))}
    assert "no better validation figure for 3 epochs" in capsys.readouterr().out


def test_all_data_trains_as_long_as_the_evaluated_model(made, tmp_path, monkeypatch, averages):
    with pytest.raises(ArtifactError, match=r"run train_cnn.py without --all-data first"):
        train(made, tmp_path, "--all-data")
    with monkeypatch.context() as patched:
        figures_come_as(patched, [0.3, 0.9, 0.5, 0.4])
        train(made, tmp_path)
    before, history = report_of(tmp_path), (tmp_path / "cnn_history.json").read_bytes()
    saved = train(made, tmp_path, "--all-data")
    after = report_of(tmp_path)
    assert (tmp_path / "cnn_history.json").read_bytes() == history  # with figures of validation, which all data leave none for
    assert after["training"]["epochs"] == before["training"]["best_epoch"] == 2 and after["training"]["all_data"]
    assert after["calibration"] == before["calibration"] and after["metrics"] == before["metrics"]
    assert equal(saved, averages[-1])
    for options in (["--seed", "5"], ["--epochs", "7"], ["--scenes", "mild"]):  # another model's operating point and figures
        with pytest.raises(ArtifactError, match=rf"cnn_model.json is of a model with other settings \({options[0][2:]}\)"):
            train(made, tmp_path, "--all-data", *options)
    assert report_of(tmp_path) == after


# interruption and repetition

@pytest.mark.parametrize("name", ["cnn", "cnn_lstm"])
@pytest.mark.parametrize("epoch", [2, 4])
def test_interrupted_run_ends_as_an_undisturbed_one(made, tmp_path, monkeypatch, capsys, name, epoch):
    undisturbed = train(made, tmp_path / "one", name=name)
    again = interrupt_in_epoch(monkeypatch, epoch)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "other", name=name)
    assert os.listdir(tmp_path / "other") == [f".{name}_checkpoint.pth"]  # nothing half-written, no model
    again()
    capsys.readouterr()
    assert equal(train(made, tmp_path / "other", name=name), undisturbed)
    assert f"resumed after epoch {epoch - 1}" in capsys.readouterr().out
    one, other = (report_of(tmp_path / folder, name) for folder in ("one", "other"))
    for report in (one, other):
        report["settings"]["options"].pop("models", None)
    assert one == other
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "other"))


@pytest.mark.parametrize("began_on", ["cpu", "cuda"])
def test_resumed_run_goes_on_in_its_precision_on_such_a_device(made, tmp_path, monkeypatch, began_on):
    """Which is faster is measured, and a busy machine may measure otherwise the second time."""
    monkeypatch.setattr(training, "validation_figures", lambda *_: {})  # the last epoch is the best
    undisturbed = {}
    for precision in (training.BFLOAT16, training.FLOAT32):
        monkeypatch.setattr(training, "faster_precision", lambda device, precision=precision: precision)
        undisturbed[precision] = train(made, tmp_path / precision)
    assert not equal(*undisturbed.values())
    again = interrupt_in_epoch(monkeypatch, 3)
    monkeypatch.setattr(training, "faster_precision", lambda device: training.BFLOAT16)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "other")
    again()
    path = tmp_path / "other/.cnn_checkpoint.pth"
    torch.save(torch.load(path, weights_only=True) | {"device": began_on}, path)
    monkeypatch.setattr(training, "faster_precision", lambda device: training.FLOAT32)
    went_on = train(made, tmp_path / "other")
    assert equal(went_on, undisturbed[training.BFLOAT16]) == (began_on == "cpu")
    assert report_of(tmp_path / "other")["training"]["precision"] == (
        training.BFLOAT16 if began_on == "cpu" else training.FLOAT32)


def test_resumed_run_remembers_the_best_weights(made, tmp_path, monkeypatch, averages):
    figures_come_as(monkeypatch, [0.9, 0.5, 0.4, 0.3])
    again = interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path)
    again()
    assert equal(train(made, tmp_path), averages[0])


def test_interrupted_run_leaves_the_previous_model(made, tmp_path, monkeypatch):
    train(made, tmp_path, "--epochs", "1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path, "--seed", "5")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before} == before


def fail_at_the_end(monkeypatch, made, models):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(training, "write_json", no_space)
        with pytest.raises(OSError, match="No space left"):
            train(made, models, "--seed", "5")


def test_full_disk_at_the_end_leaves_the_previous_model_and_its_papers(made, tmp_path, monkeypatch):
    train(made, tmp_path, "--epochs", "1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fail_at_the_end(monkeypatch, made, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before} == before


@pytest.mark.parametrize("change", [["--seed", "1"], ["--folds", "3", "--fold", "1"], ["--scenes", "mild"]])
def test_checkpoint_of_other_settings_is_not_continued(made, tmp_path, monkeypatch, capsys, change):
    fresh = train(made, tmp_path / "fresh", *change)
    again = interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path / "other")
    again()
    capsys.readouterr()
    assert equal(train(made, tmp_path / "other", *change), fresh)
    assert "of other settings or data" in capsys.readouterr().out


def test_checkpoint_of_other_data_is_not_continued(made, tmp_path, monkeypatch, capsys):
    changed = shutil.copytree(made, tmp_path / "made")
    again = interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(changed, tmp_path / "models")
    again()
    manifest = changed / "data/manifest.json"
    manifest.write_text(manifest.read_text().replace("synthetic", "another"))
    train(changed, tmp_path / "models")
    assert "of other settings or data" in capsys.readouterr().out


def test_a_checkpoint_that_is_something_else_is_not_continued(made, tmp_path, capsys):
    torch.save([1], tmp_path / ".cnn_checkpoint.pth")
    train(made, tmp_path, "--epochs", "1")
    assert "of other settings or data" in capsys.readouterr().out


@pytest.mark.parametrize("wanted, taken", [("float32", "float32"), ("bfloat16", "bfloat16 mixed precision"), ("auto", "made up")])
def test_the_precision_that_is_asked_for_is_taken_and_named(made, tmp_path, monkeypatch, wanted, taken):
    monkeypatch.setattr(training, "faster_precision", lambda device: "made up")
    train(made, tmp_path, "--epochs", "1", "--precision", wanted)
    assert json.loads((tmp_path / "cnn_model.json").read_text())["training"]["precision"] == taken


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 torn"])
def test_damaged_checkpoint_is_not_continued(made, tmp_path, capsys, content):
    (tmp_path / ".cnn_checkpoint.pth").write_bytes(content)
    train(made, tmp_path, "--epochs", "1")
    assert "damaged" in capsys.readouterr().out


def test_random_numbers_of_a_gpu_are_kept_and_cuda_is_left_alone_on_a_cpu(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state of {device}")
    assert training.cuda_random_state(torch.device("cuda")) == "state of cuda"
    monkeypatch.delattr(torch.cuda, "get_rng_state")  # whoever asks for it now fails
    monkeypatch.delattr(torch.cuda, "set_rng_state")
    again = interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path)
    again()
    path = tmp_path / ".cnn_checkpoint.pth"
    state = torch.load(path, weights_only=True)
    assert state.pop("cuda_rng") is None
    torch.save(state, path)  # as it was before it held this
    train(made, tmp_path)
    assert "resumed after epoch 2" in capsys.readouterr().out


def test_restart_ignores_the_checkpoint(made, tmp_path, monkeypatch, capsys):
    again = interrupt_in_epoch(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(made, tmp_path)
    again()
    capsys.readouterr()
    train(made, tmp_path, "--restart")
    assert "resumed" not in capsys.readouterr().out


def test_same_seed_same_bytes_other_seed_other_weights(made, tmp_path):
    one = train(made, tmp_path / "one", "--epochs", "1")
    train(made, tmp_path / "same", "--epochs", "1")
    other = train(made, tmp_path / "other", "--epochs", "1", "--seed", "1")
    assert (tmp_path / "one/cnn_model.pth").read_bytes() == (tmp_path / "same/cnn_model.pth").read_bytes()
    assert not equal(one, other)


# its parts

def windows_of(made):
    return read_windows(made / "audio_features.csv", read_manifest(made / "data"))


def test_batches_hold_a_fixed_share_of_screams_and_the_loss_makes_up_for_it(made):
    windows = windows_of(made)
    rows = np.flatnonzero(windows.split == "train")
    batches = BalancedBatches(windows, rows, 32, np.random.default_rng(0))
    for _ in range(20):
        drawn, backgrounds = batches.draw()
        n_screams = windows.label[drawn].sum()
        assert len(drawn) == len(backgrounds) == 32 and 0 < n_screams < 32
        assert batches.pos_weight == (32 - n_screams) / n_screams  # so both labels weigh the same
        assert set(drawn) <= set(rows) and set(backgrounds) <= set(rows)
        assert not windows.label[backgrounds].any()  # what is mixed in never screams


def test_the_noise_of_validation_windows_never_screams(made, monkeypatch):
    windows, mixed = windows_of(made), []
    rows = np.arange(len(windows))
    numbered = np.broadcast_to(rows[:, None, None].astype(np.float16), (len(rows), 128, 128))

    def remember(batch, noise):
        mixed.extend(noise[:, 0, 0].int().tolist())
        return batch

    monkeypatch.setattr(training, "noisy_copies", remember)
    copies = training.noisy_spectrograms(training.TrainingData(windows, numbered, {}, ""), rows, 0)
    assert copies.shape == (len(rows), 128, 128) and len(mixed) == len(rows)
    assert len(set(mixed)) > 20 and not windows.label[mixed].any()


def test_rare_classes_are_drawn_more_often_than_their_share():
    names = np.array(["common"] * 900 + ["rare"] * 100, dtype=object)
    weights = BalancedBatches.square_root_weights(names)
    assert weights.sum() == pytest.approx(1)
    assert weights[900:].sum() == pytest.approx(10 / (30 + 10))  # sqrt(100) to sqrt(900)


def test_the_average_forgets_the_random_weights_it_began_with():
    left, keeps = 1.0, [training.kept_share(step) for step in range(1, 2000)]
    for keep in keeps:
        left *= keep
    assert left == 0 and keeps == sorted(keeps) and keeps[-1] == training.AVERAGING


def test_a_short_training_writes_what_it_has_learned(made, tmp_path, monkeypatch):
    """Not, for the most part, the random weights that the average began with."""
    monkeypatch.setattr(training, "validation_figures", lambda *_: {})  # the last epoch is the best
    seen = []

    def remember(average, network, keep, update=training.update_average):
        seen.append(copy.deepcopy(average.state_dict()))
        update(average, network, keep)
        seen.append(copy.deepcopy(network.state_dict()))

    monkeypatch.setattr(training, "update_average", remember)
    written = train(made, tmp_path, "--epochs", "2", "--steps", "10")
    weight = "convolutions.0.0.weight"
    learned, random = ((state[weight] - written[weight]).norm() for state in (seen[-1], seen[0]))
    assert learned < random / 2


def test_scenes_are_made_in_the_conditions_asked_for(made, tmp_path, monkeypatch):
    asked = set()
    monkeypatch.setattr(training, "random_scenes", lambda batch, backgrounds, kind, conditions: asked.add(conditions) or batch)
    train(made, tmp_path, "--epochs", "1", "--scenes", "mild")
    assert asked == {"mild"}


@pytest.mark.parametrize("words", [["--seed", "-1"], ["--seed", "4294967296"], ["--threads", "-1"], ["--batch-size", "1"],
                                   ["--steps", "0"]])
def test_senseless_numbers_are_refused(made, tmp_path, capsys, words):
    """A batch of one window has nothing to tell apart: its loss would be 0."""
    with pytest.raises(SystemExit) as stopped:
        arguments(made, tmp_path, *words)
    assert stopped.value.code == 2 and words[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_cannot_be_trained(made, tmp_path, monkeypatch, label):
    windows = windows_of(made)
    windows.label[:] = label
    monkeypatch.setattr(training, "read_windows", lambda *_: windows)
    with pytest.raises(ArtifactError, match="both labels"):
        train(made, tmp_path)
    assert not os.listdir(tmp_path)


def test_negatives_that_look_like_screams_weigh_more():
    logits = torch.tensor([2.0, 0.0, -6.0, 1.0], requires_grad=True)
    label = torch.tensor([0.0, 0.0, 0.0, 1.0])
    training.training_loss(logits, label, torch.tensor(3.0)).backward()
    probability = torch.sigmoid(logits.detach())
    weight = probability[:3].clamp(min=training.LEAST_WEIGHT)
    weight = 3 * weight / weight.sum()  # mean 1
    assert logits.grad[:3].tolist() == pytest.approx((weight * probability[:3] / 4).tolist())
    assert float(logits.grad[3]) == pytest.approx(float(-3 * (1 - probability[3]) / 4))


def test_networks_are_trained_with_that_loss(made, tmp_path, monkeypatch):
    seen, loss = [], training.training_loss
    monkeypatch.setattr(training, "training_loss", lambda *given: seen.append(given[1].tolist()) or loss(*given))
    train(made, tmp_path, "--epochs", "2")
    assert len(seen) == 4 and all(sorted(label) == [0, 0, 0, 0, 0, 0, 1, 1] for label in seen)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_the_loss_of_equal_windows_is_plain_cross_entropy(label):
    logits = torch.full((5,), 0.3)
    loss = training.training_loss(logits, torch.full((5,), label), torch.tensor(1.0))
    assert float(loss) == pytest.approx(np.log1p(np.exp(0.3 if label == 0 else -0.3)))


def test_moving_average():
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(10.0)
    network.num_batches_tracked.fill_(7)
    update_average(average, network, keep=0.75)
    assert average.weight.tolist() == [1.5, 1.5] and average.running_mean.tolist() == [2.5, 2.5]
    assert int(average.num_batches_tracked) == 7 and network.weight.tolist() == [3.0, 3.0]


def test_scores_come_in_the_order_of_the_rows_and_leave_no_trace(made):
    manifest = read_manifest(made / "data")
    spectrograms = read_spectrograms(made / "data", training.MEL_NPY, manifest["windows"], manifest)
    network = training.build_network("cnn_mel").train()
    rows, before = np.array([5, 3, 9, 3]), {key: value.clone() for key, value in network.state_dict().items()}
    scores = score_windows(network, spectrograms, rows, torch.device("cpu"), batch_size=3)
    assert scores.shape == (4,) and scores[1] == pytest.approx(scores[3], abs=1e-5)
    one = [score_windows(network, spectrograms, np.array([row]), torch.device("cpu"))[0] for row in rows]
    assert scores == pytest.approx(one, abs=1e-4)
    assert equal(network.state_dict(), before)
    assert len(score_windows(network, spectrograms, rows[:0], torch.device("cpu"))) == 0


class Fullness(torch.nn.Module):
    """Takes a full spectrogram for a scream."""

    def forward(self, spectrogram):
        return spectrogram.mean(dim=(1, 2))


def test_the_operating_point_counts_noisy_copies_of_the_held_out_windows_too(made, tmp_path):
    data, cpu = training.read_training_data("mel", arguments(made, tmp_path)), torch.device("cpu")
    rows = data.rows[training.held_out_part(data)]
    noisy, again = (training.noisy_spectrograms(data, rows, seed=0) for _ in range(2))
    assert noisy.shape == (len(rows), 128, 128) and np.array_equal(noisy, again)
    clean = fit_calibration(data.windows.label[rows], score_windows(Fullness(), data.spectrograms, rows, cpu))
    found, metrics = training.evaluate_network(Fullness(), data, noisy, cpu)
    assert found["threshold"] > clean["threshold"] + 0.1  # noise fills a spectrogram
    assert set(metrics) == {"train", "validation", "test"}


def test_epochs_are_chosen_by_clean_and_noisy_clips_alike(made, tmp_path, monkeypatch):
    data, cpu = training.read_training_data("mel", arguments(made, tmp_path)), torch.device("cpu")
    values = iter([{"average_precision": 0.9}, {"average_precision": 0.5}])
    monkeypatch.setattr(training, "ranking_figures", lambda *_: next(values))
    noisy = training.noisy_spectrograms(data, data.rows[training.held_out_part(data)], seed=0)
    figures = training.validation_figures(Fullness(), data, noisy, cpu)
    assert figures == {"average_precision": 0.9, "average_precision_in_noise": 0.5, "selected_by": 0.7}


def test_without_both_labels_in_validation_the_last_epoch_is_kept(made, tmp_path):
    data = training.read_training_data("mel", arguments(made, tmp_path))
    data.rows["validation"] = data.rows["validation"][data.windows.label[data.rows["validation"]] == 0]
    assert training.validation_figures(Fullness(), data, None, torch.device("cpu")) == {}
    assert training.held_out_part(data) == "train"


@pytest.mark.parametrize("option", ["--epochs", "--steps", "--batch-size", "--patience"])
def test_senseless_options_are_refused(made, tmp_path, option):
    with pytest.raises(SystemExit) as caught:
        arguments(made, tmp_path, option, "0")
    assert caught.value.code == 2


def test_cuda_without_a_device_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ArtifactError, match="no CUDA device"):
        training.choose_device("cuda")
    assert training.choose_device("auto").type == "cpu"


def test_a_gpu_computes_in_float32_as_a_cpu_does(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert training.choose_device("cpu").type == "cpu" and torch.backends.cudnn.allow_tf32
    assert training.choose_device("auto").type == "cuda" and not torch.backends.cudnn.allow_tf32


def test_weights_of_a_copied_lstm_are_brought_into_one_piece(made, tmp_path, monkeypatch):
    """Else cuDNN warns at every call; a CPU does not care, so the call itself is looked for."""
    flattened, averages, flatten = [], [], torch.nn.LSTM.flatten_parameters
    monkeypatch.setattr(torch.nn.LSTM, "flatten_parameters", lambda lstm: (flattened.append(lstm), flatten(lstm))[1])
    monkeypatch.setattr(training, "update_average", lambda average, *_: averages.append(average))
    train(made, tmp_path, "--epochs", "1", name="cnn_lstm")
    assert averages[0].lstm in flattened


@pytest.mark.parametrize("faster", [True, False])
def test_a_cpu_trains_in_the_faster_precision(monkeypatch, faster):
    """Told by a stand-in for the clock; the random numbers of the scenes must not depend on it."""
    clock = [0.0]

    def convolve(maps, weight, padding):
        clock[0] += 1.0 if torch.is_autocast_enabled("cpu") == faster else 1.5
        return maps

    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(training.F, "conv2d", convolve)
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    before = torch.get_rng_state()
    assert training.bfloat16_is_faster.__wrapped__() is faster
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cpu_without_bfloat16_trains_in_float32(monkeypatch):
    monkeypatch.setattr(training, "cpu_has_bfloat16", lambda: False)
    assert training.bfloat16_is_faster.__wrapped__() is False
    monkeypatch.setattr(training, "bfloat16_is_faster", lambda: False)
    assert training.faster_precision(torch.device("cpu")) == "float32"
    assert training.faster_precision(torch.device("cuda")) == "bfloat16 mixed precision"
