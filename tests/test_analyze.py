"""Pictures and statistics: every asked-for panel is there, with units, and the numbers are those of the recording."""

import os
import struct
import subprocess
import sys
import weakref

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import REPOSITORY

import analyze_audio
from utils import analysis_plots
from utils.artifacts import ArtifactError
from utils.features import FEATURE_NAMES
from utils.signal_settings import SAMPLE_RATE


class ThreeModels:
    """An ensemble that hears a scream where a window's second half is not silent."""

    names, missing = ["svm", "cnn", "cnn_mel"], {}

    def score(self, windows):
        return np.array([[0.9, 0.8, 0.1] if np.abs(window[40_000:]).max() > 0 else [0.2, 0.1, 0.3] for window in windows])

    def combine(self, probabilities):
        votes = (probabilities >= 0.5).sum(axis=1)
        return probabilities.mean(axis=1), votes, votes >= 2


@pytest.fixture
def recording(tmp_path):
    """Six seconds: three of a 1,000 Hz tone at half amplitude, then three of nearly nothing."""
    time = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    samples = np.where(time < 3, 0.5, 1e-3) * np.sin(2 * np.pi * 1000 * time)
    path = tmp_path / "tone.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    return str(path)


@pytest.fixture
def drawn(monkeypatch):
    """Figures that would be saved, so that a test can look at their axes."""
    figures = []
    monkeypatch.setattr(analyze_audio, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def png_size(path):
    with open(path, "rb") as file:
        head = file.read(24)
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def labels_of(figure):
    return [f"{axes.get_xlabel()} {axes.get_ylabel()}".replace("\n", " ").strip() for axes in figure.axes]


def test_frames_of_a_tone(recording):
    samples = analyze_audio.read_stretch(recording, 0, 600)
    described = analysis_plots.describe_frames(samples)
    frame = 60  # at 1.4 s
    loudest = described["power"][:, frame].argmax() * SAMPLE_RATE / 2048
    assert abs(loudest - 1000) < 11
    assert 10 * np.log10(described["power"][:, frame].max()) == pytest.approx(20 * np.log10(0.5), abs=1)
    assert described["rms"][frame] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert described["zcr"][frame] == pytest.approx(2000 / SAMPLE_RATE, rel=0.05)
    assert described["centroid"][frame] == pytest.approx(1000, rel=0.02)
    assert described["rolloff"][frame] == pytest.approx(1000, rel=0.03)
    assert described["mfcc"].shape == (13, 1 + len(samples) // 512) and described["mel_power"].shape[0] == 128


def test_columns_average_without_losing_frames():
    values = np.arange(5003, dtype=float)[None].repeat(2, axis=0)
    drawn = analysis_plots.columns(values)
    assert drawn.shape[1] <= analysis_plots.MAX_COLUMNS and drawn[0, 0] == 1 and drawn[0, -1] == 5001.5
    assert analysis_plots.columns(values[:, :7]).tolist() == values[:, :7].tolist()


def test_stretch_of_a_recording(recording):
    assert len(analyze_audio.read_stretch(recording, 2.5, 1.5)) == 1.5 * SAMPLE_RATE
    stretch = analyze_audio.read_stretch(recording, 2.5, 1.5)
    assert np.abs(stretch[: SAMPLE_RATE // 2]).max() > 0.4 > 0.01 > np.abs(stretch[SAMPLE_RATE // 2 + 1 :]).max()
    assert len(analyze_audio.read_stretch(recording, 5, 100)) == SAMPLE_RATE
    with pytest.raises(analyze_audio.AudioError, match=r"tone.wav: ends after 6.0 s, before --start 7"):
        analyze_audio.read_stretch(recording, 7, 1)


def test_what_lies_before_the_stretch_is_not_kept(monkeypatch):
    made, alive = [], []

    class Block(np.ndarray):
        """An array that a weak reference can point to, as a view of one."""

    def blocks(_):
        for _ in range(20):
            block = np.zeros(SAMPLE_RATE, np.float32).view(Block)
            made.append(weakref.ref(block))
            yield block
            alive.append(sum(one() is not None for one in made))

    monkeypatch.setattr(analyze_audio, "read_blocks", blocks)
    assert len(analyze_audio.read_stretch("a.wav", 18, 1.5)) == 1.5 * SAMPLE_RATE
    assert len(made) == 20 and max(alive) <= 2


def test_panels_and_units_of_a_recording(recording, drawn):
    samples = analyze_audio.read_stretch(recording, 0, 600)
    assert analyze_audio.draw_stretch(recording, samples, 0.0, None, "unused.png") is None
    labels = labels_of(drawn[0])
    for wanted in ("amplitude (full scale 1)", "spectrogram Hz", "mel-spectrogram Hz", "MFCC number",
                   "RMS level dB of full scale", "zero crossings per sample", "time in s frequency Hz", "dB of full scale"):
        assert wanted in labels
    assert drawn[0].axes[0].get_title().startswith("tone.wav") and drawn[0].axes[0].get_xlim() == (0, 6)


def test_votes_are_drawn_below(recording, drawn):
    samples = analyze_audio.read_stretch(recording, 0, 600)
    assert analyze_audio.draw_stretch(recording, samples, 100.0, ThreeModels(), "unused.png") == "scream"
    rows = next(axes for axes in drawn[0].axes if "svm" in [tick.get_text() for tick in axes.get_yticklabels()])
    assert [tick.get_text() for tick in rows.get_yticklabels()] == ["svm", "cnn", "cnn_mel", "all together", "events"]
    numbers = [text.get_text() for text in rows.texts]
    assert numbers[:4] == ["0.90", "0.80", "0.10", "0.60"]  # the first window, from the bottom row up
    assert len(rows.lines) >= 2 and rows.get_xlim() == (100, 106)  # an event; times go on from --start
    assert rows.lines[0].get_xdata()[0] >= 100 and rows.collections[0].get_coordinates()[..., 0].min() == 100
    assert "2 of 3 votes" in drawn[0].axes[0].get_title()


@pytest.mark.filterwarnings("error:n_fft")
@pytest.mark.parametrize("samples, ensemble", [(np.zeros(30_000), None), (np.zeros(30_000), ThreeModels()), (np.zeros(5), None),
                                               (np.ones(700) * 0.1, ThreeModels())])
def test_silence_and_very_short_recordings_have_a_picture(tmp_path, samples, ensemble):
    picture = tmp_path / "a.png"
    analyze_audio.draw_stretch(os.fsdecode(b"caf\xe9.wav"), samples.astype(np.float32), 0.0, ensemble, picture)
    assert png_size(picture)[0] > 1000


def test_command_line_without_a_screen(recording, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    run = subprocess.run(
        [sys.executable, "analyze_audio.py", "--file", str(tmp_path / "broken.wav"), recording, "--out", str(tmp_path / "out"),
         "--models", str(tmp_path / "no models")], cwd=REPOSITORY, capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")})
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert [line for line in run.stderr.splitlines() if line.startswith("error: ") and "broken.wav" in line]
    assert "the pictures show no votes: " in run.stderr and "Warning" not in run.stderr
    assert "no such folder of models; python train_ml.py" in run.stderr
    pictures = list((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 1 and min(png_size(pictures[0])) > 1000 and str(pictures[0]) in run.stdout


@pytest.mark.parametrize("options", [
    ["--file", "a.wav", "--dataset"], ["--start=-1"], ["--duration=0"], ["--duration=1e-5"], ["--start=nan"]])
def test_bad_options_give_2(options):
    with pytest.raises(SystemExit) as stopped:
        analyze_audio.main(options)
    assert stopped.value.code == 2


def test_data_set_pictures_and_statistics(tiny_artifacts, tmp_path, capsys, monkeypatch):
    figures, save = [], analyze_audio.save_figure
    monkeypatch.setattr(analyze_audio, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    assert analyze_audio.main(["--dataset", str(tiny_artifacts / "audio_features.csv"), "--out", str(tmp_path / "out")]) == 0
    for name in ("features", "mfcc", "counts"):
        assert min(png_size(tmp_path / "out" / f"dataset_{name}.png")) > 800
    printed = capsys.readouterr().out
    assert "60 clips, 60 windows" in printed and "Converted_Separately" in printed

    features, mfcc, counts = figures
    titles = [axes.get_title().split("\n")[0] for axes in features.axes]
    assert titles[:34] == FEATURE_NAMES
    assert dict(zip(titles, labels_of(features)))["spectral_centroid_mean"] == "Hz"
    assert len(mfcc.axes) == 2
    assert {text.get_text() for text in counts.axes[0].get_yticklabels()} == {"Converted_Separately", "esc50", "field"}
    assert {text.get_text().strip() for text in counts.axes[0].texts} == {"12 + 12", "0 + 16", "10 + 10"}

    statistics = pd.read_csv(tmp_path / "out" / "dataset_statistics.csv", index_col="feature")
    table = pd.read_csv(tiny_artifacts / "audio_features.csv")
    screams, others = table[table["label"] == "scream"], table[table["label"] == "non_scream"]
    assert list(statistics.index) == FEATURE_NAMES
    assert statistics.loc["rms_mean", "scream_mean"] == pytest.approx(screams["rms_mean"].mean(), rel=1e-4)
    assert statistics.loc["mfcc2_std", "non_scream_50%"] == pytest.approx(others["mfcc2_std"].median(), rel=1e-4)
    better = (screams["rms_std"].to_numpy()[:, None] > others["rms_std"].to_numpy()).mean()
    assert statistics.loc["rms_std", "roc_auc_alone"] == pytest.approx(better, abs=1e-4)
    assert features.axes[titles.index("rms_std")].get_title() == f"rms_std\nAUC {better:.2f}"


def test_table_of_one_label_is_one_sentence(tiny_artifacts, tmp_path):
    table = pd.read_csv(tiny_artifacts / "audio_features.csv")
    table[table["label"] == "scream"].to_csv(tmp_path / "screams.csv", index=False)
    with pytest.raises(ArtifactError, match=r"screams.csv holds only scream rows"):
        analyze_audio.main(["--dataset", str(tmp_path / "screams.csv"), "--out", str(tmp_path)])


def test_bare_table_needs_no_source(tiny_artifacts, tmp_path, capsys, drawn):
    table = pd.read_csv(tiny_artifacts / "audio_features.csv")[["file", "label", *FEATURE_NAMES]]
    table.to_csv(tmp_path / "bare.csv", index=False)
    assert analyze_audio.main(["--dataset", str(tmp_path / "bare.csv"), "--out", str(tmp_path)]) == 0
    assert "not given" in capsys.readouterr().out


def test_a_picture_that_cannot_be_written_does_not_keep_the_next_one_back(tmp_path, monkeypatch, capsys):
    def save_the_second(figure, path):
        if not written:
            written.append(None)
            raise ArtifactError(f"{path}: cannot be written (No space left on device)")
        written.append(path)

    written = []
    monkeypatch.setattr(analyze_audio, "save_figure", save_the_second)
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", np.sin(np.arange(22_050) / 9), 22_050)
    assert analyze_audio.main(["--file", str(tmp_path), "--out", str(tmp_path), "--models", str(tmp_path)]) == 1
    assert len(written) == 2 and "error: " in capsys.readouterr().err


def test_near_copies_in_other_groups_are_listed(tiny_artifacts, tmp_path, capsys):
    table = pd.read_csv(tiny_artifacts / "audio_features.csv")
    scream, other = table.index[table["label"] == "scream"][0], table.index[table["label"] == "non_scream"][0]
    copies = table.loc[[scream, other, other]].assign(file=["x.wav", "y.wav", "z.wav"], group=["a", "b", table["group"][other]])
    table["split"], copies["split"] = "train", ["test", "train", "test"]
    pd.concat([table, copies]).to_csv(tmp_path / "table.csv", index=False)
    assert analyze_audio.main(["--dataset", str(tmp_path / "table.csv"), "--out", str(tmp_path / "out")]) == 0
    listed = pd.read_csv(tmp_path / "out/dataset_near_copies.csv")
    pairs = {tuple(sorted(pair)) for pair in listed[["file", "copy"]].itertuples(index=False)}
    assert pairs == {tuple(sorted((table["file"][scream], "x.wav"))), tuple(sorted((table["file"][other], "y.wav"))),
                     ("y.wav", "z.wav")}  # not z.wav and its original: they are of one group
    printed = capsys.readouterr().out
    assert "3 pairs; of 2 the two lie on two sides of the split, 2 with one in the test part, 1 with a scream" in printed
