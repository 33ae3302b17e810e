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
AT_A_TIME = 500  # spectra held at the same time
BLOCK = 100_000  # landmarks whose partners are held at the same time
PARTS = 16  # of all landmarks, sorted one after another
LEAST_SHARED = 15  # landmarks at one delay: two recordings of the same kind of sound share up to 11, copies of 0.6 s 28
STRETCH = 258  # HOPs, 3 s, within which they lie: in minutes of noise as many meet by chance


def landmarks(samples):
    """(hashes int32 [n], times int32 [n] in HOPs) of a recording, float32 [n_samples] at 22,050 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, N_FFT // 2), N_FFT)[::HOP]
    found = [peaks(frames, start) for start in range(0, len(frames), AT_A_TIME)]
    times, bins, level = (np.concatenate(parts) for parts in zip(*found))  # in order of time
    high = level > level.max(initial=-np.inf) + LEAST_DB
    times, bins = times[high], bins[high] // GRAIN
    hashes, at = [], []
    for step in range(1, FAN_OUT + 1):
        apart = times[step:] - times[:-step]
        near = apart <= MOST_SPECTRA
        hashes.append(((bins[:-step] * 1024 + bins[step:]) * 64 + apart)[near])
        at.append(times[:-step][near])
    return np.concatenate(hashes).astype(np.int32), np.concatenate(at).astype(np.int32)


def peaks(frames, start):
    """(times, bins, levels in dB) of the spectral peaks in the AT_A_TIME frames [n_frames, N_FFT] from start on."""
    first = max(start - NEIGHBOURHOOD[0], 0)
    stop = start + AT_A_TIME
    part = frames[first : stop + NEIGHBOURHOOD[0]] * hann()
    level = 20 * np.log10(np.abs(scipy.fft.rfft(part, axis=1)[:, BINS]) + 1e-9)  # [spectra, bins]
    peak = level == scipy.ndimage.maximum_filter(level, NEIGHBOURHOOD)
    peak &= (level > np.roll(level, 1, axis=0)) & (level > np.roll(level, 1, axis=1))  # silence and clicks are flat
    times, bins = np.nonzero(peak[start - first : stop - first])
    return times + start, bins, level[start - first : stop - first][times, bins]


def same_sounds(marks):
    """Pairs of recordings that share LEAST_SHARED landmarks at one delay within STRETCH: [(i, j)], i < j, sorted.

    marks: the landmarks of each recording, in order. Delays that differ by one HOP count as one: spectra lie up to half of one
    off. Landmarks that occur more often than TOO_COMMON tell nothing, so of a sound that many recordings hold, or one again and
    again, few pairs are found; and the more recordings there are, the more landmarks occur by chance: in tens of thousands of
    noise-like clips a copy of some seconds is lost. Memory grows with the hours of sound, by about 80 MB for each.
    """
    if not marks:
        return []
    hashes, times, owner = rare_landmarks(marks)
    ends = np.cumsum(np.bincount(owner, minlength=len(marks)))
    blocks = np.split(np.argsort(owner, kind="stable"), ends[np.flatnonzero(np.diff(ends // BLOCK))])  # of whole recordings
    pairs = set()
    for here in blocks:
        keys, at = [], []  # (i, j, delay) as one number, and when in i
        for step in range(1, TOO_COMMON):
            here = here[here < len(hashes) - step]
            same = here[(hashes[here + step] == hashes[here]) & (owner[here + step] != owner[here])]
            recordings = owner[same].astype(np.int64) * len(marks) + owner[same + step]
            keys.append((recordings << 24) + times[same] - times[same + step] + (1 << 23))
            at.append(times[same])
        pairs |= pairs_within_a_stretch(np.concatenate(keys), np.concatenate(at))
    return sorted(divmod(pair, len(marks)) for pair in pairs)


def rare_landmarks(marks):
    """(hashes, times, owner), each int32 [n], of landmarks that occur 2 to TOO_COMMON times. Equal hashes stand in a row, sorted
    by their owner, the number of their recording."""
    return tuple(np.concatenate(columns) for columns in zip(*(rare_landmarks_of(marks, part) for part in range(PARTS))))


def rare_landmarks_of(marks, part):
    """What rare_landmarks returns, of the hashes that leave `part` when divided by PARTS: all at once take much memory."""
    chosen = [hashes % PARTS == part for hashes, _ in marks]
    hashes = np.concatenate([hashes[these] for (hashes, _), these in zip(marks, chosen)])
    times = np.concatenate([times[these] for (_, times), these in zip(marks, chosen)])
    owner = np.repeat(np.arange(len(marks), dtype=np.int32), [these.sum() for these in chosen])
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    first = np.flatnonzero(np.diff(hashes, prepend=np.int32(-1)))  # of each hash
    counts = np.diff(first, append=len(hashes))
    rare = np.repeat((counts > 1) & (counts <= TOO_COMMON), counts)
    return hashes[rare], times[order[rare]], owner[order[rare]]


def pairs_within_a_stretch(keys, times):
    """The pairs, a set of numbers, with LEAST_SHARED landmarks at one delay and within STRETCH.

    keys: pair << 24 plus delay, int64 [n]; times: when, in HOPs [n].
    """
    delays, counts = np.unique(keys, return_counts=True)
    beside = np.flatnonzero(np.diff(delays) == 1)
    together = counts.copy()
    together[beside] += counts[beside + 1]
    together[beside + 1] += counts[beside]
    delays = delays[together >= LEAST_SHARED]
    few = np.isin(keys, np.concatenate([delays - 1, delays, delays + 1]))
    keys, times = keys[few], times[few]
    order = np.argsort(keys)
    keys, times = keys[order], times[order]
    pairs = set()
    for delay, first, end in zip(delays, np.searchsorted(keys, delays - 1), np.searchsorted(keys, delays + 2)):
        at = np.sort(times[first:end])
        if (at[LEAST_SHARED - 1 :] - at[: len(at) - LEAST_SHARED + 1]).min() <= STRETCH:
            pairs.add(int(delay >> 24))
    return pairs
