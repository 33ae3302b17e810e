"""Recordings that hold the same sound are found, whatever was done to it; others are not."""

import io

import numpy as np
import pytest
import soundfile
import soxr

from utils.audio import SAMPLE_RATE
from utils.copies import LEAST_SHARED, landmarks, shared_landmarks


def melody(seconds, seed):
    """Notes of 0.15 s with three overtones and a vibrato, in faint noise: no two seeds alike."""
    rng, n = np.random.default_rng(seed), round(0.15 * SAMPLE_RATE)
    time, parts = np.arange(n) / SAMPLE_RATE, []
    for _ in range(round(seconds / 0.15)):
        pitch = rng.uniform(300, 1500) * (1 + 0.01 * np.sin(2 * np.pi * rng.uniform(4, 8) * time))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        parts.append(rng.uniform(0.2, 1) * np.hanning(n) * sum(np.sin(k * phase) / k for k in (1, 2, 3, 4)))
    return (0.2 * np.concatenate(parts) + 0.001 * rng.standard_normal(len(parts) * n)).astype(np.float32)


def through(codec, samples):
    content = io.BytesIO()
    soundfile.write(content, samples, SAMPLE_RATE, format=codec, subtype="VORBIS" if codec == "OGG" else None)
    content.seek(0)
    return soundfile.read(content, dtype="float32")[0]


def at_16_khz(samples):
    return soxr.resample(soxr.resample(samples, SAMPLE_RATE, 16_000), 16_000, SAMPLE_RATE)


ORIGINAL = melody(4, 1)
COPIES = {
    "itself": ORIGINAL, "an excerpt from a moment on no hop": ORIGINAL[13_001:50_003], "fainter": ORIGINAL * np.float32(0.03),
    "inverted": -ORIGINAL, "at 16 kHz": at_16_khz(ORIGINAL), "Vorbis": through("OGG", ORIGINAL), "MP3": through("MP3", ORIGINAL),
    "inside another recording": np.concatenate([melody(3, 2), ORIGINAL[20_000:60_000], melody(2, 3)]),
    "in noise": ORIGINAL + 0.01 * np.random.default_rng(0).standard_normal(len(ORIGINAL)).astype(np.float32),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_found_among_others(copy):
    recordings = [melody(4, 4), ORIGINAL, melody(3, 5), copy, melody(5, 6)]
    [(i, j, shared)] = shared_landmarks([landmarks(samples) for samples in recordings])
    assert (i, j) == (1, 3) and shared >= LEAST_SHARED


def test_different_recordings_are_no_copies():
    rng = np.random.default_rng(0)
    others = [melody(5, seed) for seed in range(10, 20)] + [rng.standard_normal(100_000).astype(np.float32) for _ in range(5)]
    tones = [np.sin(2 * np.pi * hz * np.arange(60_000) / SAMPLE_RATE).astype(np.float32) for hz in (440, 880, 1000)]
    assert shared_landmarks([landmarks(samples) for samples in others + tones]) == []


def test_the_same_sounds_in_another_order_are_no_copy():
    parts = np.array_split(ORIGINAL, 36)
    shuffled = np.concatenate([parts[i] for i in np.random.default_rng(0).permutation(36)])
    assert shared_landmarks([landmarks(ORIGINAL), landmarks(shuffled)]) == []


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(10), np.zeros(30_000), np.ones(1)],
                         ids=["nothing", "10 samples", "silence", "1 sample"])
def test_recordings_without_landmarks_are_no_copies(samples):
    assert shared_landmarks([]) == []
    marks = [landmarks(samples.astype(np.float32))] * 2
    assert shared_landmarks([*marks, landmarks(ORIGINAL)]) == []
