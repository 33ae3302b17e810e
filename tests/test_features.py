"""utils.features: names, shapes, known answers, and parity with librosa called once per feature."""

import csv
import itertools

import numpy as np
import pytest
import scipy.fft
import scipy.signal

from utils import features
from utils.audio import clean_window, read_audio, window_starts
from utils.features import FEATURE_NAMES, FREQUENCIES, describe_window, describe_windows
from utils.signal_settings import HOP, N_FFT, SAMPLE_RATE, WINDOW

TIME = np.arange(WINDOW) / SAMPLE_RATE


def tone(hz, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * hz * TIME)).astype(np.float32)


def synthetic_windows():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(WINDOW)
    glide = np.sin(2 * np.pi * np.cumsum(np.linspace(300, 4000, WINDOW)) / SAMPLE_RATE)
    voice = sum(np.sin(2 * np.pi * 310 * k * TIME) / k for k in range(1, 20)) * (1 + np.sin(2 * np.pi * 60 * TIME))
    drift = np.cumsum(noise)
    click = np.zeros(WINDOW)
    click[30_000] = 1
    return {
        "tone": tone(1000), "white noise": noise, "brown noise": drift - np.convolve(drift, np.ones(999) / 999, "same"),
        "glide": glide, "voice": voice, "voice in noise": voice + 0.1 * noise, "clipped": np.clip(3 * voice, -1, 1),
        "first second only": noise[:SAMPLE_RATE], "silence, then noise": np.where(TIME > 2, noise, 0), "click": click,
        "hum": sum(np.sin(2 * np.pi * 50 * k * TIME) / k for k in (1, 3, 5)), "faint": 1e-3 * glide,
    }


def librosa_features(window):
    """The 34 features as a plain script makes them: one librosa call for each."""
    import librosa

    mfcc = librosa.feature.mfcc(y=window, sr=SAMPLE_RATE, n_mfcc=13)
    rows = [librosa.feature.rms(y=window), librosa.feature.zero_crossing_rate(window),
            librosa.feature.spectral_centroid(y=window, sr=SAMPLE_RATE),
            librosa.feature.spectral_rolloff(y=window, sr=SAMPLE_RATE)]
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1), *[[row.mean(), row.std()] for row in rows]])


def librosa_spectrograms(window):
    import librosa

    power = np.abs(librosa.stft(window, pad_mode="constant")) ** 2
    edges = [*range(0, 1024, 8), 1025]
    bands = np.array([power[low:high].mean(axis=0) for low, high in itertools.pairwise(edges)])
    mel = librosa.feature.melspectrogram(y=window, sr=SAMPLE_RATE)
    return [librosa.power_to_db(spectrogram, ref=1.0, amin=1e-10, top_db=None) for spectrogram in (bands, mel)]


def assert_parity(window, name):
    made, stft_db, mel_db = describe_window(window)
    expected = librosa_features(window)
    is_mfcc = np.array([feature.startswith("mfcc") for feature in FEATURE_NAMES])
    # An MFCC is a difference of decibels and may be 0: there 1e-3 dB is as good as 1e-3 of it.
    allowed = 1e-3 * np.abs(expected) + np.where(is_mfcc, 1e-3, 1e-6)
    wrong = [f"{feature}: {a} instead of {b}" for feature, a, b, limit in zip(FEATURE_NAMES, made, expected, allowed)
             if abs(a - b) > limit]
    assert not wrong, f"{name}: {wrong}"
    for spectrogram, by_librosa in zip((stft_db, mel_db), librosa_spectrograms(window)):
        audible = by_librosa > np.maximum(by_librosa.max(axis=0) - 80, -90)  # below, float32 rounding of the STFT shows
        assert np.abs(spectrogram - by_librosa)[audible].max(initial=0) < 0.01, name


def test_34_names_in_the_agreed_order():
    assert len(FEATURE_NAMES) == len(set(FEATURE_NAMES)) == 34
    assert FEATURE_NAMES[:2] + FEATURE_NAMES[13:14] == ["mfcc1_mean", "mfcc2_mean", "mfcc1_std"]
    assert FEATURE_NAMES[26:] == ["rms_mean", "rms_std", "zcr_mean", "zcr_std", "spectral_centroid_mean",
                                  "spectral_centroid_std", "spectral_rolloff_mean", "spectral_rolloff_std"]


def test_shapes_and_types():
    for array, shape in zip(describe_window(tone(440)), [(34,), (128, 128), (128, 128)]):
        assert array.shape == shape and array.dtype == np.float32 and np.isfinite(array).all()
    for n in (0, 3):
        stacked = describe_windows([tone(440)] * n)
        assert [part.shape for part in stacked] == [(n, 34), (n, 128, 128), (n, 128, 128)]
        assert all(part.dtype == np.float32 for part in stacked)


def test_many_windows_are_described_as_each_alone():
    windows = [clean_window(samples) for samples in synthetic_windows().values()]
    for together, alone in zip(zip(*describe_windows(windows)), map(describe_window, windows)):
        assert all(np.array_equal(a, b) for a, b in zip(together, alone))


@pytest.mark.parametrize("name", synthetic_windows())
def test_parity_with_librosa_on_synthetic_sound(name):
    window = clean_window(synthetic_windows()[name])
    assert window is not None
    assert_parity(window, name)


def test_parity_with_librosa_on_real_clips(real_audio):
    with open(real_audio / "clips.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    n_windows = 0
    for path in paths[:: len(paths) // 40]:
        samples = read_audio(real_audio / path)
        for start in window_starts(len(samples))[:2]:
            window = clean_window(samples[start : start + WINDOW])
            if window is not None:
                assert_parity(window, path)
                n_windows += 1
    assert n_windows > 40


def test_filterbank_and_dct_are_librosas():
    import librosa

    np.testing.assert_allclose(features.mel_filterbank().T, librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT), atol=1e-8)
    np.testing.assert_allclose(features.hann(), scipy.signal.get_window("hann", N_FFT), atol=1e-7)
    bands = np.random.default_rng(0).standard_normal(128).astype(np.float32)
    np.testing.assert_allclose(bands @ features.dct_basis(), scipy.fft.dct(bands, norm="ortho")[:13], atol=1e-5)


def test_filterbank_in_groups_is_the_whole_filterbank():
    power = np.random.default_rng(0).random((128, 1025), np.float32)
    np.testing.assert_allclose(features.mel_power(power), power @ features.mel_filterbank(), rtol=1e-5)


@pytest.mark.parametrize("hz", [200, 1000, 4000, 10_000])
def test_a_tone_gives_the_known_answers(hz):
    _, stft_db, mel_db = describe_window(tone(hz))
    inside = slice(4, -4)  # frames without the padding at the ends
    assert features.frame_rms(tone(hz))[inside] == pytest.approx(np.sqrt(0.5), rel=0.03)
    assert features.frame_zero_crossing_rate(tone(hz))[inside] == pytest.approx(2 * hz / SAMPLE_RATE, abs=2 / N_FFT)
    centroid, rolloff = features.spectral_centroid_and_rolloff(features.stft_power(tone(hz)))
    assert centroid[inside] == pytest.approx(hz, abs=5)
    assert rolloff[inside] == pytest.approx(hz, abs=2 * SAMPLE_RATE / N_FFT)  # a Hann window spreads it by two bins
    assert stft_db[:, inside].mean(axis=1).argmax() == int(hz / (SAMPLE_RATE / 2) * 128)
    band = mel_db[:, inside].mean(axis=1).argmax()
    assert features.mel_edges()[band] <= hz <= features.mel_edges()[band + 2]
    # Amplitude 1 at the peak of a Hann window of 2048 samples: |X| = 512, so 54.2 dB in the bin.
    assert 40 < stft_db[:, inside].max() < 54.2


def test_linear_bands_average_power():
    power = np.zeros((1, 1025), np.float32)
    power[0, [0, 9, 1023, 1024]] = [8, 16, 9, 18]
    bands = features.linear_bands(power)[0]
    assert bands[[0, 1, 127]] == pytest.approx([1, 2, 3])  # 8 / 8, 16 / 8, (9 + 18) / 9: the last band has 9 bins
    assert np.count_nonzero(bands) == 3


def test_roll_off_is_the_first_bin_that_reaches_85_percent():
    power = np.zeros((5, 1025), np.float32)
    power[0, 100] = 1  # one bin alone
    power[1, [100, 200]] = np.square([85, 15])  # 85 % reached exactly by the first one
    power[2, [100, 200]] = np.square([84, 16])
    power[3, 1024] = 1  # the last bin, beyond the 128 bands of 8
    centroid, rolloff = features.spectral_centroid_and_rolloff(power)  # row 4: silence
    assert rolloff == pytest.approx(FREQUENCIES[[100, 100, 200, 1024, 0]])
    assert centroid == pytest.approx([FREQUENCIES[100], FREQUENCIES[115], FREQUENCIES[116], FREQUENCIES[1024], 0], rel=1e-5)


def test_zero_crossings_are_counted_in_the_right_frames():
    window = np.full(WINDOW, 0.5, np.float32)
    window[20 * HOP :] = -0.5  # one change, at sample 10,240
    counts = features.frame_zero_crossing_rate(window) * N_FFT
    # Frame i holds samples 512 i - 1024 to 512 i + 1023; in frame 22 the change is the first sample: not inside.
    assert np.flatnonzero(counts).tolist() == [19, 20, 21] and counts.max() == 1


def test_rms_of_a_click_is_seen_by_four_frames():
    window = np.zeros(WINDOW, np.float32)
    window[20 * HOP] = 1
    rms = features.frame_rms(window)
    assert np.flatnonzero(rms).tolist() == [19, 20, 21, 22] and rms.max() == pytest.approx(1 / np.sqrt(N_FFT))


def test_decibels_have_a_fixed_reference():
    loud, soft = describe_window(tone(1000, 1.0)), describe_window(tone(1000, 0.01))
    inside = (slice(10, 13), slice(4, -4))
    assert (loud[1] - soft[1])[inside] == pytest.approx(40, abs=0.01)
    assert loud[0][0] - soft[0][0] > 100  # mfcc1 is level


def test_silence_is_finite():
    made, stft_db, mel_db = describe_window(np.zeros(WINDOW, np.float32))
    assert np.isfinite(made).all()
    assert stft_db == pytest.approx(-100) and mel_db == pytest.approx(-100)


def test_input_is_not_changed():
    window = tone(500)
    describe_window(window)
    assert np.array_equal(window, tone(500))
