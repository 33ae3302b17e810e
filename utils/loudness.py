"""How loud a sound is where screams are: the level of a window, and which part of it is loud."""

import math

import numpy as np
import scipy.fft

from utils.audio import SAMPLE_RATE, finite_samples

SCREAM_BAND = (700, 6000)  # Hz: where screams are loud and rumble, wind and hum are not
LEVEL_FRAME = 512  # samples: 23 ms, the grain of an event's limits
CLEAR_DB = 4.0  # the loud part must stand out this much, or there is none: the limits are those of the window's core
LOUD_SHARE = 95  # percent of a window's frames are not louder than its level
HANN = np.hanning(LEVEL_FRAME)
FULL_SCALE_DB = 10 * np.log10(LEVEL_FRAME / 4 * np.square(HANN).sum())  # of a sine of amplitude 1


def band_level(samples):
    """Level in the band of screams, in dB, for each frame of 23 ms: float [n] at 22,050 Hz -> [ceil(n / 512)]."""
    frames = np.pad(samples, (0, -len(samples) % LEVEL_FRAME)).reshape(-1, LEVEL_FRAME)
    first, last = (round(frequency * LEVEL_FRAME / SAMPLE_RATE) for frequency in SCREAM_BAND)
    band = scipy.fft.rfft(frames * HANN, axis=1)[:, first:last]
    level = 10 * np.log10((np.square(band.real) + np.square(band.imag)).sum(axis=1) + 1e-10)
    return np.convolve(np.pad(level, 2, mode="edge"), np.full(5, 0.2), mode="valid")  # 116 ms: single clicks do not count


def window_level(samples):
    """Level of a window in the band of screams, in dB; a sine of full scale in that band has 0 dB.

    samples: float [1 <= n] at 22,050 Hz, as they are in the recording. Its loudest twentieth counts, so that a short scream in
    a quiet window is as loud as a long one; digital silence has -144 dB.
    """
    return float(np.percentile(band_level(finite_samples(samples)), LOUD_SHARE) - FULL_SCALE_DB)


def loud_part(samples, most_db=math.inf):
    """First and last moment, in seconds, at which the scream band is nearer to its loudest than to its quietest level.

    samples: float [n] at 22,050 Hz. Returns None if the level varies too little to tell sound from background, or by more than
    most_db: what surrounds the part is silence.
    """
    level = band_level(samples)
    quiet, loud = np.percentile(level, [10, LOUD_SHARE])
    if not CLEAR_DB <= loud - quiet <= most_db:
        return None
    above = np.flatnonzero(level >= (quiet + loud) / 2)
    return float(above[0]) * LEVEL_FRAME / SAMPLE_RATE, min(int(above[-1] + 1) * LEVEL_FRAME, len(samples)) / SAMPLE_RATE


def loud_samples(samples):
    """The loud part of a window, or all of it if no part is louder than the rest: float32 [n] -> [<= n]."""
    part = loud_part(samples)
    return samples if part is None else samples[round(part[0] * SAMPLE_RATE) : round(part[1] * SAMPLE_RATE)]
