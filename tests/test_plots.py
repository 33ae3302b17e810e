import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE
from utils.plots import MAX_COLUMNS, SpectrogramOverview, short_clock, draw_recording, plot_path, plot_recording, thin_out

NAMES = ("svm", "cnn")


def window(start_s, probabilities):
    return SimpleNamespace(start_s=start_s, end_s=start_s + 2.949, probabilities=np.array(probabilities),
                           probability=float(np.mean(probabilities)), votes=int(np.sum(np.array(probabilities) >= 0.5)))


def record_of(file, events=()):
    return {"file": str(file), "duration_s": 8.0, "models": dict.fromkeys(NAMES), "events": list(events)}


def tone(seconds, hz, rate=SAMPLE_RATE):
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate).astype(np.float32)


def test_overview_shows_a_tone_where_it_is():
    overview = SpectrogramOverview()
    sound = np.concatenate([np.zeros(SAMPLE_RATE, np.float32), tone(1.0, 2000), np.zeros(SAMPLE_RATE, np.float32)])
    assert sum(len(block) for block in overview.watch(np.array_split(sound, 7))) == len(sound)
    mel_db = overview.decibels()
    assert overview.duration_s == 3.0 and mel_db.shape == (128, -(-len(sound) // 512))
    loud = np.flatnonzero(mel_db.max(axis=0) > -20) * 512 / SAMPLE_RATE
    assert abs(loud[0] - 1.0) < 0.1 and abs(loud[-1] - 2.0) < 0.1
    assert mel_db[:, mel_db.shape[1] // 2].argmax() == 64  # 25.08 of 49.91 mel, 129 steps, first band at step 1


@pytest.mark.parametrize("sizes", [1, 100, 22_050, 10**9])
def test_overview_does_not_depend_on_block_size(sizes):
    sound = np.random.default_rng(0).standard_normal(30_000 if sizes == 1 else 130_000).astype(np.float32)
    whole, pieces = SpectrogramOverview(), SpectrogramOverview()
    whole.add(sound)
    for first in range(0, len(sound), sizes):
        pieces.add(sound[first : first + sizes])
    np.testing.assert_allclose(pieces.decibels(), whole.decibels(), atol=1e-3)


def test_long_recording_keeps_its_shape_in_bounded_memory():
    """20 minutes, silent but for a tone in the second quarter."""
    overview, silence = SpectrogramOverview(), np.zeros(SAMPLE_RATE, np.float32)
    sound = tone(1.0, 1000)
    for second in range(1200):
        overview.add(sound if 300 <= second < 600 else silence)
        assert len(overview.columns) < MAX_COLUMNS and len(overview.pending) < SAMPLE_RATE + 2 * overview.column_samples + 2048
    loud = np.flatnonzero(overview.decibels().max(axis=0) > -20) * overview.column_samples / SAMPLE_RATE
    assert MAX_COLUMNS / 2 <= overview.decibels().shape[1] <= MAX_COLUMNS
    assert abs(loud[0] - 300) < 2 and abs(loud[-1] - 600) < 2


def test_thinning_keeps_every_peak():
    values = np.zeros((24_000, 2))
    values[12_345, 1] = 0.9
    times, thin = thin_out(np.arange(24_000.0), values)
    assert len(times) == len(thin) <= 1500 and thin[:, 1].max() == 0.9 and abs(times[thin[:, 1].argmax()] - 12_345) < 16
    assert thin_out(np.arange(3.0), values[:3])[1].shape == (3, 2)


def test_clock():
    assert [short_clock(seconds) for seconds in (0, 12.5, 59.96, 125, 3723.25)] == ["0:00", "0:12.5", "1:00", "2:05", "1:02:03.2"]


def test_picture_has_a_curve_per_model_and_shades_the_events():
    overview = SpectrogramOverview()
    overview.add(tone(8.0, 800))
    windows = [window(0.0, [0.1, 0.2]), window(1.5, [0.9, 0.7]), window(3.0, [0.2, 0.6])]
    figure = draw_recording(overview, windows, NAMES, record_of("a/night.wav", [{"start_s": 1.5, "end_s": 3.25}]), threshold=0.6)
    above, below, strip = figure.axes
    assert [line.get_label() for line in below.get_lines()[:3]] == ["svm", "cnn", "together"]
    np.testing.assert_allclose(below.get_lines()[1].get_ydata(), [0.2, 0.7, 0.6])
    np.testing.assert_allclose(below.get_lines()[2].get_xdata(), [1.4745, 2.9745, 4.4745])
    assert list(below.get_lines()[3].get_ydata()) == [0.6, 0.6]
    for axes in (above, below, strip):
        [shade] = axes.patches
        assert (shade.get_x(), shade.get_x() + shade.get_width()) == (1.5, 3.25)
    assert [tick.get_text() for tick in strip.get_xticklabels()][1:4] == ["0:00", "0:01", "0:02"]
    assert "night.wav" in above.get_title() and above.get_title().endswith("1 event")


def test_pictures_are_written_apart_for_files_of_one_name(tmp_path):
    overview = SpectrogramOverview()
    overview.add(tone(2.0, 500))
    paths = [plot_path(str(tmp_path / "pictures"), f"{folder}/$x_1$.wav") for folder in "ab"]
    assert paths[0] != paths[1]
    for path in paths:
        plot_recording(path, overview, [], NAMES, record_of("a/$x_1$.wav"))
        assert open(path, "rb").read(8) == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(ArtifactError, match="cannot be written"):
        plot_recording(paths[0] + "/x.png", overview, [], NAMES, record_of("a.wav"))


def test_picture_of_nothing(tmp_path):
    plot_recording(tmp_path / "empty.png", SpectrogramOverview(), [], NAMES, record_of("-"))
    assert os.path.getsize(tmp_path / "empty.png") > 1000


def test_matplotlib_is_imported_only_for_pictures():
    script = "import sys, utils.plots, utils.live, utils.event_files; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
