"""The 34 statistics and both spectrograms of a window, from one STFT. Equal to librosa's within 1e-3 (tests/)."""

import functools

import numpy as np
import scipy.fft

from utils.signal_settings import HOP, MAX_GAIN_DB, N_FFT, SAMPLE_RATE, WINDOW, WINDOW_FRAMES

N_MELS = 128
N_BANDS = 128
N_MFCC = 13
N_BINS = N_FFT // 2 + 1  # 1025
BAND_BINS = N_BINS // N_BANDS  # 8 bins of the STFT in each band of the STFT spectrogram
AMIN = 1e-10  # power floor before the logarithm: -100 dB, as librosa.power_to_db
TOP_DB = 80.0  # MFCCs only: mel power below the window's maximum by more than this is cut, as librosa.power_to_db
ROLLOFF = 0.85

FEATURE_NAMES = (
    [f"mfcc{i}_mean" for i in range(1, N_MFCC + 1)]
    + [f"mfcc{i}_std" for i in range(1, N_MFCC + 1)]
    + [f"{name}_{stat}" for name in ("rms", "zcr", "spectral_centroid", "spectral_rolloff") for stat in ("mean", "std")]
)

# Settings that make features and spectrograms comparable: stored in every artifact, checked by every later stage.
SIGNAL_SETTINGS = {
    "sample_rate": SAMPLE_RATE, "n_fft": N_FFT, "hop": HOP, "window_frames": WINDOW_FRAMES,
    "n_mels": N_MELS, "n_bands": N_BANDS, "features": "34-v1", "peak_normalised": f"window, at most {MAX_GAIN_DB} dB",
    "short_clips": "repeated",
}

FREQUENCIES = np.linspace(0, SAMPLE_RATE / 2, N_BINS)  # Hz, of the STFT bins


def hz_to_mel(hz):
    """Slaney's mel scale: linear below 1 kHz, logarithmic above (librosa.hz_to_mel)."""
    hz = np.asarray(hz, float)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1e-9) / 1000) * 27 / np.log(6.4))


def mel_to_hz(mel):
    mel = np.asarray(mel, float)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def mel_edges():
    """Corner frequencies in Hz [n_mels + 2] of the triangular mel bands; band i peaks at edge i + 1."""
    return mel_to_hz(np.linspace(0, hz_to_mel(SAMPLE_RATE / 2), N_MELS + 2))


@functools.cache
def mel_filterbank():
    """Area-normalised triangles, float32 [1025, 128] (librosa.filters.mel, transposed)."""
    edges = mel_edges()
    rising = (FREQUENCIES[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - FREQUENCIES[:, None]) / np.diff(edges)[1:]
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


@functools.cache
def mel_filter_groups():
    """The filterbank in groups of 8 bands, each with the bins it covers: list of (bands, bins, weights [bins, 8]).

    Nearly all of the filterbank is zero: eight times fewer products, and nothing else changes.
    """
    groups = []
    for first in range(0, N_MELS, 8):
        bands = slice(first, first + 8)
        used = np.flatnonzero(mel_filterbank()[:, bands].any(axis=1))
        bins = slice(int(used[0]), int(used[-1]) + 1)
        groups.append((bands, bins, np.ascontiguousarray(mel_filterbank()[bins, bands])))
    return groups


@functools.cache
def dct_basis():
    """First 13 functions of the orthonormal DCT-II over 128 mel bands, float32 [128, 13]."""
    band, order = np.arange(N_MELS)[:, None], np.arange(N_MFCC)
    basis = np.cos(np.pi * (band + 0.5) * order / N_MELS) * np.sqrt(2 / N_MELS)
    basis[:, 0] /= np.sqrt(2)
    return basis.astype(np.float32)


@functools.cache
def hann():
    """Periodic Hann window, float32 [2048]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def stft(samples):
    """Complex STFT: float32 [n] -> complex64 [n // 512 + 1 frames, 1025 bins].

    Hann, centred, zero padding: librosa.stft(samples, n_fft=2048, hop_length=512, pad_mode="constant").T
    """
    padded = np.pad(samples, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]  # [frames, 2048]
    return scipy.fft.rfft(frames * hann())


def stft_power(samples):
    """Power spectrogram |STFT|^2: float32 [n] -> [n // 512 + 1 frames, 1025 bins]; of a window [128, 1025]."""
    spectrum = stft(samples)
    parts = spectrum.view(np.float32)  # real, imaginary, real, ...
    np.multiply(parts, parts, out=parts)
    return parts[:, ::2] + parts[:, 1::2]


def decibels(power):
    """10 log10 with the fixed reference 1.0 and a floor of -100 dB."""
    level = np.log10(np.maximum(power, AMIN))
    level *= 10
    return level


def mel_power(power):
    """Power in 128 mel bands: [frames, 1025] -> [frames, 128], the product with mel_filterbank()."""
    mel = np.empty((len(power), N_MELS), np.float32)
    for bands, bins, weights in mel_filter_groups():
        np.matmul(power[:, bins], weights, out=mel[:, bands])
    return mel


def band_sums(spectrum):
    """Sums over 128 bands of 8 bins, without the last bin (11,025 Hz): [..., 1025] -> [..., 128]."""
    bands = spectrum[..., : BAND_BINS * N_BANDS].reshape(*spectrum.shape[:-1], N_BANDS, BAND_BINS)
    return bands @ np.ones(BAND_BINS, spectrum.dtype)  # a product is 8 times faster than sum(axis=-1)


def linear_bands(power):
    """Mean power in 128 bands of 8 bins (the last one of 9): [..., 1025] -> [..., 128]."""
    bands = band_sums(power)
    bands[..., -1] += power[..., -1]
    bands /= BAND_BINS
    bands[..., -1] *= BAND_BINS / (BAND_BINS + 1)
    return bands


def over_four_hops(per_hop):
    """Sums over each centred 2048-sample frame from sums over each hop of 512 samples: [127] -> [128].

    Outside the window there are zeros: frame i covers hops i - 2 to i + 1.
    """
    padded = np.pad(per_hop, 2)
    return padded[:-3] + padded[1:-2] + padded[2:-1] + padded[3:]


def frame_rms(samples):
    """Root mean square of each centred, zero-padded 2048-sample frame (librosa.feature.rms): [n] -> [n / 512 + 1].

    n must be a multiple of 512; a window has 128 frames.
    """
    hops = samples.reshape(-1, HOP)
    energy = np.einsum("ij,ij->i", hops, hops)  # [n / 512]
    return np.sqrt(over_four_hops(energy) / N_FFT)


def frame_zero_crossing_rate(window):
    """Sign changes per sample in each centred 2048-sample frame (librosa.feature.zero_crossing_rate): [128]."""
    negative = window < -1e-10
    crosses = np.zeros(WINDOW, bool)  # the sign of sample i differs from that of sample i - 1
    np.not_equal(negative[1:], negative[:-1], out=crosses[1:])
    counts = over_four_hops(np.add.reduceat(crosses.view(np.uint8), np.arange(0, WINDOW, HOP), dtype=np.int32))
    counts[2:] -= crosses[: -HOP : HOP]  # a change at a frame's first sample happened before the frame
    return counts / N_FFT


def spectral_centroid_and_rolloff(power):
    """Centroid and 85 % roll-off of the magnitude spectrum, in Hz: [frames, 1025] -> two of [frames]."""
    magnitude = np.sqrt(power)
    below = np.zeros((len(power), N_BANDS + 1), np.float32)  # sum of the magnitudes below each band of 8 bins
    np.cumsum(band_sums(magnitude), axis=1, out=below[:, 1:])
    total = below[:, -1] + magnitude[:, -1]
    centroid = magnitude @ FREQUENCIES.astype(np.float32) / np.maximum(total, np.finfo(np.float32).tiny)
    # The roll-off: first find the band in which the sum reaches 85 %, then the bin inside that band.
    target = np.float32(ROLLOFF) * total
    frame = np.arange(len(power))
    band = np.minimum((below[:, 1:] < target[:, None]).sum(axis=1), N_BANDS - 1)
    inside = magnitude[frame[:, None], band[:, None] * BAND_BINS + np.arange(BAND_BINS)]  # [frames, 8]
    reached = below[frame, band][:, None] + np.cumsum(inside, axis=1)
    rolloff = FREQUENCIES[band * BAND_BINS + (reached < target[:, None]).sum(axis=1)]
    return centroid, rolloff


def describe_window(window):
    """All that the six models see of one cleaned window.

    window: float32 [65,024] in [-1, 1] (utils.audio.clean_window). Returns float32 arrays: the 34 features [34] in
    the order of FEATURE_NAMES, the STFT spectrogram [128 bands, 128 frames] and the mel-spectrogram
    [128 bands, 128 frames], both in dB with the fixed reference 1.0 and a floor of -100 dB.
    """
    power = stft_power(window)
    mel_db = decibels(mel_power(power))  # [128 frames, 128]
    band_db = decibels(linear_bands(power))  # [128 frames, 128]
    mfcc = np.maximum(mel_db, mel_db.max() - TOP_DB) @ dct_basis()  # [128 frames, 13]
    frame_values = np.stack([frame_rms(window), frame_zero_crossing_rate(window), *spectral_centroid_and_rolloff(power)])
    features = np.concatenate([
        mfcc.mean(axis=0, dtype=np.float64), mfcc.std(axis=0, dtype=np.float64),
        np.stack([frame_values.mean(axis=1), frame_values.std(axis=1)], axis=1).ravel(),
    ])
    return features.astype(np.float32), band_db.T, mel_db.T


def describe_windows(windows):
    """describe_window for many: features [n, 34], STFT [n, 128, 128], mel-spectrograms [n, 128, 128], all float32."""
    described = [describe_window(window) for window in windows]
    if not described:
        return np.zeros((0, len(FEATURE_NAMES)), np.float32), *(np.zeros((0, N_BANDS, WINDOW_FRAMES), np.float32),) * 2
    return tuple(np.stack(part) for part in zip(*described))
