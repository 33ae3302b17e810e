"""The noise before a sound, or under it, taken out of it: spectral subtraction."""

import numpy as np
import scipy.fft

from utils.audio import without_offset
from utils.features import hann, stft, stft_power
from utils.signal_settings import HOP, N_FFT, TRIM_DB

OVERSUBTRACTION = 4.0  # times the mean noise power: single frames of noise lie above their mean
LEAST_GAIN_DB = -20.0  # what is left of a bin that holds noise alone
QUIETEST = 0.1  # so many of the frames hold less, in each bin, than noise_floor goes by


def noise_power(samples):
    """Mean power of each STFT bin of a stretch of noise: float32 [n] -> [1025]. Digital silence in it does not count.

    Zeros where it is shorter than a frame, of 2,048 samples.
    """
    if len(samples) < N_FFT:
        return np.zeros(N_FFT // 2 + 1)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::N_FFT]  # side by side: enough for a mean
    heard = frames[frames.any(axis=1)]
    return np.square(np.abs(scipy.fft.rfft(heard * hann()))).sum(axis=0) / max(1, len(heard))


def noise_floor(samples):
    """As noise_power, of the noise that lies under all of a sound: float32 [n] -> [1025].

    In each bin the quietest frames hold no more than noise (minimum statistics, Martin 2001). The power of noise in a bin is
    distributed exponentially: its mean follows from any of its quantiles.
    """
    power = stft_power(samples)
    level = power.sum(axis=1)
    heard = power[level > level.max() * 10 ** (-TRIM_DB / 10)]  # not the silence before or after, as for trim_silence
    if not len(heard):
        return power[0]
    return (np.quantile(heard, QUIETEST, axis=0) / -np.log(1 - QUIETEST)).astype(np.float32)


def inverse_stft(spectrum, n_samples):
    """Samples of a changed STFT, as librosa.istft: complex64 [frames, 1025] -> float32 [n_samples]."""
    frames = scipy.fft.irfft(spectrum, N_FFT) * hann()  # [frames, 2048]
    overlap = N_FFT // HOP
    added = np.zeros((len(frames) + overlap - 1, HOP), np.float32)
    weight = np.zeros_like(added)
    for part in range(overlap):  # of each frame, a hop long
        piece = slice(part * HOP, (part + 1) * HOP)
        added[part : part + len(frames)] += frames[:, piece]
        weight[part : part + len(frames)] += np.square(hann()[piece])
    samples = (added / np.maximum(weight, 1e-3)).ravel()
    return samples[N_FFT // 2 : N_FFT // 2 + n_samples]


def subtract_noise(samples, power):
    """Take noise of the given mean power [1025] out of a sound: float32 [n] -> float32 [n].

    Spectral subtraction (Boll 1979) with more than the noise subtracted, and a floor instead of holes (Berouti et al. 1979).
    """
    spectrum = stft(samples)  # [frames, 1025]
    heard = np.square(spectrum.real) + np.square(spectrum.imag)
    left = np.maximum(heard - OVERSUBTRACTION * power, 10 ** (LEAST_GAIN_DB / 10) * heard)
    return inverse_stft(spectrum * np.sqrt(left / np.maximum(heard, np.finfo(np.float32).tiny)), len(samples))


def subtract_own_noise(samples):
    """Take the noise that lies under all of a sound out of it: float32 [n] -> float32 [n]."""
    samples = without_offset(samples)  # which would be a step at both ends
    return subtract_noise(samples, noise_floor(samples))
