"""Copies: recordings that hold the same sound, from another moment on, at another rate or level, or through a codec.

Found by landmarks (Wang 2003): pairs of spectral peaks and how far apart they are. Copies share many of them at one delay.
"""

import numpy as np
import scipy.fft
import scipy.ndimage

from utils.features import hann
from utils.signal_settings import N_FFT

HOP = 256  # samples between spectra: 12 ms
BINS = slice(8, 700)  # of the spectrum: 86 Hz to 7.5 kHz, which recordings at 16 kHz hold, too
NEIGHBOURHOOD = (9, 25)  # spectra and bins: 0.1 s and 270 Hz, in which a peak is the highest
LEAST_DB = -60.0  # of a peak, below the loudest of its recording
FAN_OUT, MOST_SPECTRA = 6, 43  # each peak makes a pair with so many of the next ones that follow within half a second
GRAIN = 2  # bins that count as one: 22 Hz
TOO_COMMON = 20  # landmarks that occur more often tell nothing
LEAST_SHARED = 15  # landmarks at one delay: two recordings of the same kind of sound share up to 11, copies of 0.6 s 28


def landmarks(samples):
    """(hashes int32 [n], times int32 [n] in HOPs) of a recording, float32 [n_samples] at 22,050 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, N_FFT // 2), N_FFT)[::HOP]
    level = np.concatenate([20 * np.log10(np.abs(scipy.fft.rfft(part * hann(), axis=1)[:, BINS]) + 1e-9)
                            for part in np.array_split(frames, len(frames) // 500 + 1)])  # [spectra, bins]
    peaks = (level == scipy.ndimage.maximum_filter(level, NEIGHBOURHOOD)) & (level > level.max() + LEAST_DB)
    peaks &= (level > np.roll(level, 1, axis=0)) & (level > np.roll(level, 1, axis=1))  # silence and clicks are flat
    times, bins = np.nonzero(peaks)  # in order of time
    bins //= GRAIN
    hashes, at = [], []
    for step in range(1, FAN_OUT + 1):
        apart = times[step:] - times[:-step]
        near = apart <= MOST_SPECTRA
        hashes.append(((bins[:-step] * 1024 + bins[step:]) * 64 + apart)[near])
        at.append(times[:-step][near])
    return np.concatenate(hashes).astype(np.int32), np.concatenate(at).astype(np.int32)


def shared_landmarks(marks):
    """Pairs of recordings that share at least LEAST_SHARED landmarks at one delay: [(i, j, how many)], i < j.

    Of a sound that more than TOO_COMMON recordings hold only some pairs are found, and the more recordings there are, the more
    landmarks occur by chance: in tens of thousands of noise-like clips a copy of some seconds is lost.
    marks: the landmarks of each recording, in order. Delays that differ by one HOP count as one: spectra lie up to half of one
    off.
    """
    if not marks:
        return []
    owner = np.repeat(np.arange(len(marks)), [len(hashes) for hashes, _ in marks])  # int64, as the keys
    hashes, times = (np.concatenate(parts) for parts in zip(*marks))
    order = np.argsort(hashes, kind="stable")  # recordings stay in their order
    hashes, times, owner = hashes[order], times[order], owner[order]
    _, counts = np.unique(hashes, return_counts=True)
    rare = np.repeat(counts <= TOO_COMMON, counts)
    hashes, times, owner = hashes[rare], times[rare], owner[rare]
    keys = []  # (i, j, delay) as one number
    for step in range(1, TOO_COMMON):
        same = np.flatnonzero((hashes[step:] == hashes[:-step]) & (owner[step:] != owner[:-step]))
        keys.append(((owner[same] * len(marks) + owner[same + step]) << 24) + times[same] - times[same + step] + (1 << 23))
    keys, counts = np.unique(np.concatenate(keys), return_counts=True)
    beside = np.flatnonzero(np.diff(keys) == 1)
    together = counts.copy()
    together[beside] += counts[beside + 1]
    together[beside + 1] += counts[beside]
    pairs, most = keys >> 24, {}
    for row in np.flatnonzero(together >= LEAST_SHARED):
        most[pairs[row]] = max(most.get(pairs[row], 0), int(together[row]))
    return [(int(pair) // len(marks), int(pair) % len(marks), shared) for pair, shared in sorted(most.items())]
