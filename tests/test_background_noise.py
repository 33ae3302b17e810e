"""Spectral subtraction: the inverse STFT against librosa, and what is left of noise and of a tone."""

import librosa
import numpy as np
import pytest

from utils.background_noise import LEAST_GAIN_DB, inverse_stft, noise_floor, noise_power, subtract_noise, subtract_own_noise
from utils.features import stft
from utils.scenes import rms
from utils.signal_settings import HOP, N_FFT, SAMPLE_RATE, WINDOW

LENGTHS = (1, 1000, N_FFT, 40_000, WINDOW - 1, WINDOW)


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32) * np.float32(0.01)


def tone(n_samples, hertz=1500):
    return (0.1 * np.sin(2 * np.pi * hertz * np.arange(n_samples) / SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_stft_and_back_as_librosa(n_samples):
    samples = noise(n_samples)
    spectrum = stft(samples)
    expected = librosa.stft(samples, n_fft=N_FFT, hop_length=HOP, pad_mode="constant").T
    np.testing.assert_allclose(spectrum, expected, atol=1e-5)
    np.testing.assert_allclose(inverse_stft(spectrum, n_samples), samples, atol=1e-6)
    changed = spectrum * np.linspace(0, 1, spectrum.shape[1], dtype=np.float32)
    np.testing.assert_allclose(inverse_stft(changed, n_samples),
                               librosa.istft(changed.T, hop_length=HOP, length=n_samples), atol=1e-6)


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_nothing_is_taken_where_there_was_no_noise(n_samples):
    samples = noise(n_samples)
    cleaned = subtract_noise(samples, np.zeros(N_FFT // 2 + 1, np.float32))
    assert cleaned.dtype == np.float32
    np.testing.assert_allclose(cleaned, samples, atol=1e-6)


def test_the_mean_power_of_white_noise():
    """Variance times the energy of the window, in every bin but the first and the last, which are real."""
    expected = 1e-4 * np.square(np.hanning(N_FFT + 1)).sum()
    power = noise_power(noise(60 * SAMPLE_RATE))
    assert power.shape == (N_FFT // 2 + 1,)
    assert power[1:-1].mean() == pytest.approx(expected, rel=0.02)
    np.testing.assert_allclose(power[1:-1], expected, rtol=0.3)


def test_noise_goes_and_a_tone_stays():
    power = noise_power(noise(12 * SAMPLE_RATE, seed=1))
    left = rms(subtract_noise(noise(WINDOW, seed=2), power)) / rms(noise(WINDOW, seed=2))
    assert LEAST_GAIN_DB - 0.1 < 20 * np.log10(left) < LEAST_GAIN_DB + 4
    cleaned = subtract_noise(tone(WINDOW) + noise(WINDOW, seed=2), power)
    assert rms(cleaned - tone(WINDOW)) < 0.25 * rms(noise(WINDOW))  # of what was added


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_noise_under_a_sound_is_that_of_its_quiet_frames(share):
    """As if the noise were known, though a sound 20 dB above it fills a part of the window."""
    samples = noise(WINDOW, seed=4)
    samples[: int(share * WINDOW)] += noise(WINDOW, seed=5)[: int(share * WINDOW)] * 10
    floor, known = noise_floor(samples), noise_power(noise(60 * SAMPLE_RATE))
    assert floor.shape == (N_FFT // 2 + 1,) and floor.dtype == np.float32
    assert floor[1:-1].mean() == pytest.approx(known[1:-1].mean() * (1 if share == 0 else 2.1), rel=0.15)


@pytest.mark.parametrize("padding", [np.zeros, lambda n: noise(n, seed=6) * np.float32(5e-4)], ids=["digital", "66 dB below"])
def test_silence_before_a_sound_is_not_its_noise(padding):
    samples = noise(WINDOW, seed=4)
    padded = np.concatenate([padding(20_000).astype(np.float32), samples[20_000:]])
    assert noise_floor(padded)[1:-1].mean() == pytest.approx(noise_floor(samples)[1:-1].mean(), rel=0.15)
    assert not noise_floor(np.zeros(WINDOW, np.float32)).any()
    np.testing.assert_array_equal(subtract_own_noise(padded.astype(float)), subtract_own_noise(padded))


def test_a_tone_of_a_second_comes_out_of_its_own_noise():
    sound = np.zeros(WINDOW, np.float32)
    sound[20_000:42_050] = tone(22_050)
    left = subtract_own_noise(sound + noise(WINDOW, seed=2) + np.float32(0.2))  # and out of an offset
    assert rms(left - sound) < 0.35 * rms(noise(WINDOW))
    assert rms(left[:15_000]) < 0.2 * rms(noise(15_000))


def test_silence_stays_silence():
    assert not subtract_own_noise(np.zeros(WINDOW, np.float32)).any() and len(subtract_own_noise(np.zeros(5, np.float32))) == 5

    loud = noise(SAMPLE_RATE) * np.float32(100)
    with np.errstate(all="raise"):
        assert not subtract_noise(np.zeros(WINDOW, np.float32), noise_power(loud)).any()


def test_silence_is_no_noise():
    samples = noise(20 * N_FFT)
    samples[5 * N_FFT : 15 * N_FFT] = 0
    expected = noise_power(np.concatenate([samples[: 5 * N_FFT], samples[15 * N_FFT :]]))
    np.testing.assert_allclose(noise_power(samples), expected, rtol=1e-5)
    assert not noise_power(np.zeros(5 * N_FFT, np.float32)).any()
