import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, PowerTransformer, StandardScaler
from sklearn.svm import SVC

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE, WINDOW, clean_window
from utils.ensemble import Ensemble
from utils.explain import (MOST_PICTURES, draw_explanation, explain_recording, explain_window, lacks_pictures, occluded,
                           patch_corners, spread_over_patches, strongest_windows)
from utils.features import FEATURE_NAMES, describe_window

CENTROID = FEATURE_NAMES.index("spectral_centroid_mean")


class ListensTo(torch.nn.Module):
    """A network that looks at one place of the spectrogram only: the louder, the more scream."""

    def __init__(self, bands, frames):
        super().__init__()
        self.bands, self.frames = bands, frames

    def forward(self, spectrogram):
        return spectrogram[:, self.bands, self.frames].mean(dim=(1, 2)) / 10


@pytest.fixture(scope="module")
def training_features(tone_window):
    """Tables [400, 34] around the tone window's features, where only the spectral centroid (skewed) tells the labels.

    The window's own centroid lies above nine tenths of them.
    """
    rng, features = np.random.default_rng(0), describe_window(tone_window)[0].astype(float)
    table = features * (1 + 0.1 * rng.standard_normal((400, 34)))
    table[:, CENTROID] = features[CENTROID] * np.exp(0.7 * rng.standard_normal(400) - 0.9)
    return table, (table[:, CENTROID] > 0.6 * features[CENTROID]).astype(int)


def ensemble_of(classical=None, networks=None):
    classical, networks = classical or {}, networks or {}
    reports = {name: {"calibration": {"threshold": 0.0, "slope": 1.0}} for name in [*classical, *networks]}
    return Ensemble(classical, networks, reports, {}, "cpu")


@pytest.fixture(scope="module")
def tone_window():
    """A window with a 3 kHz tone from 1 to 2 s in faint noise."""
    time = np.arange(WINDOW) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 3000 * time) * ((time > 1) & (time < 2))
    return clean_window((0.5 * tone + 0.001 * np.random.default_rng(1).standard_normal(WINDOW)).astype(np.float32))


def test_contributions_of_a_linear_model_are_its_linear_contributions(training_features, tone_window):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(*training_features)
    explanation = explain_window(tone_window, ensemble_of({"logistic_regression": pipeline}))
    scaler, linear = pipeline[0], pipeline[1]
    expected = linear.coef_[0] * (describe_window(tone_window)[0] - scaler.mean_) / scaler.scale_
    np.testing.assert_allclose(explanation["features"]["logistic_regression"], expected, rtol=1e-4, atol=1e-5)
    assert explanation["maps"] == {}


def test_the_only_telling_feature_stands_out_in_a_forest(training_features, tone_window):
    features, label = training_features
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(50, random_state=0)).fit(features, label)
    logistic = make_pipeline(PowerTransformer(), LogisticRegression()).fit(features, label)
    explanation = explain_window(tone_window, ensemble_of({"random_forest": forest, "logistic_regression": logistic}))
    for contributions in explanation["features"].values():
        assert np.abs(contributions).argmax() == CENTROID and contributions[CENTROID] > 0.5


@pytest.mark.parametrize("first_step", [StandardScaler(), PowerTransformer()])
@pytest.mark.parametrize("classifier", [SVC(), RandomForestClassifier(10, random_state=0), LogisticRegression()])
def test_every_classical_model_is_explained_alone(training_features, tone_window, first_step, classifier):
    pipeline = make_pipeline(first_step, classifier).fit(*training_features)
    explanation = explain_window(tone_window, ensemble_of({"svm": pipeline}))
    assert np.isfinite(explanation["features"]["svm"]).all() and explanation["features"]["svm"].any()
    assert draw_explanation(explanation, "a.wav").axes[0].get_title().startswith("svm")


def test_models_that_cannot_be_explained_are_named(training_features, tone_window):
    forest = RandomForestClassifier(5, random_state=0).fit(*training_features)
    scaled = make_pipeline(MinMaxScaler(), LogisticRegression()).fit(*training_features)  # 0 is the smallest, not the typical
    classical = {"random_forest": forest, "logistic_regression": scaled}
    explanation = explain_window(tone_window, ensemble_of(classical, {"cnn": ListensTo(slice(33, 37), slice(0, 128))}))
    assert explanation["features"] == {} and list(explanation["maps"]) == ["cnn"]
    title = draw_explanation(explanation, "a.wav").get_suptitle()
    assert "random_forest, logistic_regression cannot be explained" in title
    with pytest.raises(ArtifactError, match=r"random_forest cannot be explained: no scaling"):
        draw_explanation(explain_window(tone_window, ensemble_of({"random_forest": forest})), "a.wav")


def test_maps_show_where_a_network_listens(tone_window):
    bands, frames = slice(32, 40), slice(48, 80)  # around 3 kHz (band 34 of 86 Hz each), within the tone
    ensemble = ensemble_of(networks={"cnn": ListensTo(bands, frames), "cnn_mel": ListensTo(slice(0, 4), slice(0, 128))})
    explanation = explain_window(tone_window, ensemble)
    contributions = explanation["maps"]["cnn"]
    assert contributions.shape == (128, 128) and explanation["features"] == {}
    inside = contributions[bands, frames].mean()
    outside = contributions.copy()
    outside[32 - 16 : 40 + 16, 48 - 16 : 80 + 16] = 0
    assert inside > 0.1 and np.abs(outside).max() < 1e-4
    assert np.unravel_index(contributions.argmax(), contributions.shape)[0] in range(32, 40)
    assert np.abs(explanation["maps"]["cnn_mel"][32:]).max() < 1e-4


def test_occlusion_only_makes_quieter_and_only_in_its_patch():
    spectrogram = np.random.default_rng(0).normal(-40, 20, (128, 128)).astype(np.float32)
    corners = patch_corners()
    assert len(corners) == 225 and corners[0] == (0, 0) and corners[-1] == (112, 112)
    [copy] = occluded(spectrogram, [(8, 40)])
    assert (copy <= spectrogram).all() and copy[8:24, 40:56].max() <= np.percentile(spectrogram, 10)
    copy[8:24, 40:56] = spectrogram[8:24, 40:56]
    np.testing.assert_array_equal(copy, spectrogram)
    np.testing.assert_allclose(spread_over_patches(np.full(225, 2.0), corners), 2.0)


@pytest.fixture
def recording(tmp_path):
    """12 s of faint noise with 3 kHz tones at 2-3 s and, louder, 7-8 s."""
    time = np.arange(12 * 16_000) / 16_000
    gain = 0.1 * ((time > 2) & (time < 3)) + 0.5 * ((time > 7) & (time < 8))
    soundfile.write(tmp_path / "night.wav", gain * np.sin(2 * np.pi * 3000 * time)
                    + 0.003 * np.random.default_rng(0).standard_normal(len(time)), 16_000)
    return str(tmp_path / "night.wav")


def test_strongest_window_of_each_stretch(recording):
    from utils.audio import read_blocks

    ensemble = ensemble_of(networks={"cnn": ListensTo(slice(33, 37), slice(0, 128))})
    found = strongest_windows(read_blocks(recording), [(2.0, 3.0), (7.0, 8.0), (0.0, 12.0), (5.0, 5.5)], ensemble)
    starts = [start_s for start_s, *_ in found]
    assert starts[0] <= 2 and starts[0] + 2.949 >= 3 and starts[1] <= 7 and starts[1] + 2.949 >= 8
    assert all(window.shape == (WINDOW,) for _, window, *_ in found)
    assert found[2][2] == max(probability for _, _, probability, _ in found)
    assert strongest_windows([np.zeros(WINDOW, np.float32)], [(0.0, 2.0)], ensemble) == [None]


def test_a_picture_per_event_or_of_the_strongest_window(recording, training_features, tmp_path):
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(*training_features)
    ensemble = ensemble_of({"svm": pipeline, "logistic_regression": pipeline}, {"cnn": ListensTo(slice(33, 37), slice(0, 128))})
    events = [{"start_s": 2.0, "end_s": 3.0, "probability": 0.8}, {"start_s": 7.0, "end_s": 8.0, "probability": 0.9}]
    record = {"file": recording, "duration_s": 12.0, "events": events}
    folder = str(tmp_path / "why")
    paths = explain_recording(record, ensemble, folder)
    assert [os.path.basename(path)[-18:] for path in paths] == ["_00h00m02.000s.png", "_00h00m07.000s.png"]
    assert all(open(path, "rb").read(4) == b"\x89PNG" for path in paths)
    assert len(explain_recording(record | {"events": []}, ensemble, folder)) == 1


def test_a_picture_that_is_gone_is_missed(recording, training_features, tmp_path):
    ensemble = ensemble_of(networks={"cnn": ListensTo(slice(33, 37), slice(0, 128))})
    events = [{"start_s": start_s, "end_s": start_s + 1, "probability": 0.8} for start_s in (2.0, 7.0)]
    silence = {"file": recording, "duration_s": 12.0, "events": [], "probability": 0.0}
    assert not lacks_pictures(silence, str(tmp_path)), "there is none to be made"
    for record, n in ((silence | {"events": events, "probability": 0.8}, 2), (silence | {"probability": 0.1}, 1)):
        folder = str(tmp_path / f"why [{n}]")
        assert lacks_pictures(record, folder)
        paths = explain_recording(record, ensemble, folder)
        assert len(paths) == n and not lacks_pictures(record, folder)
        os.remove(paths[-1])
        assert lacks_pictures(record, folder)


def test_a_name_that_is_not_text_has_a_picture(recording, tmp_path):
    odd = os.path.join(tmp_path, os.fsdecode(b"caf\xe9.wav"))
    shutil.copy(recording, odd)
    ensemble = ensemble_of(networks={"cnn": ListensTo(slice(33, 37), slice(0, 128))})
    assert len(explain_recording({"file": odd, "duration_s": 12.0, "events": []}, ensemble, str(tmp_path))) == 1


def test_many_events_give_the_strongest_ten_in_order_of_time(recording, tmp_path, monkeypatch):
    explained = []
    monkeypatch.setattr("utils.explain.draw_explanation", lambda explanation, title: explained.append(title))
    monkeypatch.setattr("utils.explain.explain_window", lambda *_: None)
    monkeypatch.setattr("utils.explain.save_figure", lambda *_: None)
    events = [{"start_s": 0.5 * i, "end_s": 0.5 * i + 0.4, "probability": 1 - i / 100} for i in range(15)]
    ensemble = ensemble_of(networks={"cnn": ListensTo(slice(33, 37), slice(0, 128))})
    paths = explain_recording({"file": recording, "duration_s": 12.0, "events": events[::-1]}, ensemble, str(tmp_path))
    assert len(paths) == MOST_PICTURES and paths == sorted(paths) and "event 0:04.5 to 0:04.9" in explained[-1]
