"""Recordings that hold the same sound are found, whatever was done to it; others are not."""

import io

import numpy as np
import pytest
import soundfile
import soxr

import extract_features
from utils import copies
from utils.audio import SAMPLE_RATE
from utils.copies import LEAST_SHARED, STRETCH, landmarks, same_sounds
from utils.dataset import SYNTHESISED, Clip
from utils.extraction import describe_clip


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
    assert same_sounds([landmarks(samples) for samples in recordings]) == [(1, 3)]


def test_different_recordings_are_no_copies():
    rng = np.random.default_rng(0)
    others = [melody(5, seed) for seed in range(10, 20)] + [rng.standard_normal(100_000).astype(np.float32) for _ in range(5)]
    tones = [np.sin(2 * np.pi * hz * np.arange(60_000) / SAMPLE_RATE).astype(np.float32) for hz in (440, 880, 1000)]
    assert same_sounds([landmarks(samples) for samples in others + tones]) == []


def bursts(pitches, levels_db, apart_s=0.06):
    """Short notes of these pitches in Hz, one after another, in silence."""
    n, gap = round(0.05 * SAMPLE_RATE), round((apart_s - 0.05) * SAMPLE_RATE)
    notes = [10 ** (level / 20) * np.hanning(n) * np.sin(2 * np.pi * hz * np.arange(n) / SAMPLE_RATE)
             for hz, level in zip(pitches, levels_db, strict=True)]
    return np.concatenate([np.concatenate([note, np.zeros(gap)]) for note in notes]).astype(np.float32)


def pitches_of_pairs(samples, pitches):
    """Which two of these pitches, {(i, j)}, the landmarks of a recording name."""
    hashes, _ = landmarks(samples)
    grains = np.stack([hashes // 64 // 1024, hashes // 64 % 1024], axis=1) * copies.GRAIN + copies.BINS.start  # bins
    hz = grains * SAMPLE_RATE / copies.N_FFT
    near = np.abs(hz[:, :, None] - pitches) < 40  # [n, 2, n_pitches]
    return {tuple(pair) for pair in near[near.any(axis=2).all(axis=1)].argmax(axis=2).tolist()}


def test_a_peak_makes_landmarks_with_the_next_six_above_the_least_level():
    pitches = np.arange(9) * 700 + 500
    assert pitches_of_pairs(bursts(pitches, np.zeros(9)), pitches) == {
        (i, j) for i in range(9) for j in range(i + 1, 9) if j - i <= 6}
    for level, heard in ((-50, True), (-70, False)):
        found = pitches_of_pairs(bursts([500, 2600], [0, level], 0.2), np.array([500, 2600]))
        assert ((0, 1) in found) == heard


@pytest.mark.parametrize("n, found", [(LEAST_SHARED, True), (LEAST_SHARED - 1, False)])
@pytest.mark.parametrize("n_delays", [1, 2, 3])
def test_landmarks_at_a_delay_and_the_ones_beside_it_count_together(n, found, n_delays):
    hashes, times = np.arange(n, dtype=np.int32) + 100, np.arange(n, dtype=np.int32) * 5
    delays = 40 + np.arange(n, dtype=np.int32) * n_delays // n
    expected = [(0, 2)] if found else []
    assert same_sounds([(hashes, times), (hashes[:0], times[:0]), (hashes, times + delays)]) == expected
    if n_delays > 1:
        assert same_sounds([(hashes, times), (hashes, times + 2 * delays)]) == [], "at delays that lie apart"


@pytest.mark.parametrize("apart, found", [(STRETCH, True), (STRETCH + 1, False)])
def test_landmarks_that_meet_now_and_then_are_chance(apart, found):
    """In minutes of noise many landmarks lie at one delay, far from each other."""
    hashes = np.arange(50, dtype=np.int32)
    times = np.arange(50, dtype=np.int32) * 1000
    times[20 : 20 + LEAST_SHARED] = 20_000 + np.linspace(0, apart, LEAST_SHARED).astype(np.int32)
    times[20 + LEAST_SHARED :] += apart
    assert same_sounds([(hashes, times), (hashes[::-1], times[::-1] + 77)]) == ([(0, 1)] if found else [])


def test_long_recordings_of_noise_are_no_copies_but_what_they_share_is_found():
    rng = np.random.default_rng(0)
    noises = [rng.standard_normal(60 * SAMPLE_RATE).astype(np.float32) * np.float32(0.1) for _ in range(3)]
    assert same_sounds([landmarks(samples) for samples in noises]) == []
    noises[2][500_000 : 500_000 + len(ORIGINAL)] += ORIGINAL
    assert same_sounds([landmarks(samples) for samples in [ORIGINAL, *noises]]) == [(0, 3)]


def test_a_sound_that_too_many_hold_tells_nothing():
    hashes, times = np.arange(30, dtype=np.int32), np.arange(30, dtype=np.int32)
    for n_recordings, n_pairs in ((copies.TOO_COMMON, 190), (copies.TOO_COMMON + 1, 0)):
        assert len(same_sounds([(hashes, times)] * n_recordings)) == n_pairs


def test_few_landmarks_at_a_time_give_the_same(monkeypatch):
    recordings = [melody(4, 4), ORIGINAL, at_16_khz(ORIGINAL), np.zeros(9, np.float32), ORIGINAL[13_001:50_003], melody(30, 8)]
    marks = [landmarks(samples) for samples in recordings]
    expected = same_sounds(marks)
    assert expected == [(1, 2), (1, 4), (2, 4)]
    monkeypatch.setattr(copies, "AT_A_TIME", 11)  # spectra; a peak is the highest of nine
    for samples, whole in zip(recordings, marks, strict=True):
        assert all(np.array_equal(*parts) for parts in zip(landmarks(samples), whole, strict=True))
    monkeypatch.setattr(copies, "BLOCK", 100)
    assert same_sounds(marks) == expected


def test_stage_1_gives_clips_that_hold_the_same_sound_one_group(tmp_path):
    """They begin elsewhere and have another rate: bytes, names and the features of their windows say nothing of it."""
    sounds = {"a": ORIGINAL, "b": melody(4, 4), "c": at_16_khz(ORIGINAL)[7_001:], "d": melody(3, 5)}
    readable = []
    for name, samples in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, SAMPLE_RATE)
        clip = Clip(str(tmp_path / f"{name}.wav"), "scream", f"collection {name}", f"group {name}", "scream")
        readable.append((clip, *(part for i, part in enumerate(describe_clip(clip)) if i not in (1, 2))))  # no spectrograms
    signal = Clip("signal", "non_scream", SYNTHESISED, "signals", "tone")
    clips, n_joined = extract_features.keep_copies_together([*readable, (signal, *readable[0][1:-1], None)])
    assert n_joined == 1 and [clip.group for clip in clips] == ["group a", "group b", "group a", "group d"]


def test_the_same_sounds_in_another_order_are_no_copy():
    parts = np.array_split(ORIGINAL, 36)
    shuffled = np.concatenate([parts[i] for i in np.random.default_rng(0).permutation(36)])
    assert same_sounds([landmarks(ORIGINAL), landmarks(shuffled)]) == []


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(10), np.zeros(30_000), np.ones(1)],
                         ids=["nothing", "10 samples", "silence", "1 sample"])
def test_recordings_without_landmarks_are_no_copies(samples):
    assert same_sounds([]) == []
    marks = [landmarks(samples.astype(np.float32))] * 2
    assert same_sounds([*marks, landmarks(ORIGINAL)]) == []
