"""What stage 1 computes from one clip or one synthesised signal: windows, features, spectrograms, scenes.

These functions run in the worker processes, which import this module and little else.
"""

import numpy as np

from utils import scenes
from utils.audio import SAMPLE_RATE, WINDOW, AudioError, clean_window, read_audio, read_audio_again, trim_silence, window_starts
from utils.copies import landmarks
from utils.dataset import SYNTHESISED, Clip
from utils.features import describe_window, describe_windows
from utils.loudness import window_level

NOISE_SNR_DB = (-2.5, 12.5)  # of the rows by which utils.noise_level knows noise


def describe_clip(clip):
    """What is known of a clip, or the error.

    Returns (features [n, 34], STFT and mel-spectrograms float16 [n, 128, 128], starts in s [n], levels in dB [n]) of its windows
    and its landmarks (utils.copies).
    """
    try:
        samples, offset = trim_silence(read_audio(clip.path))
    except AudioError as error:
        return str(error)
    starts = window_starts(len(samples))
    windows = [(start, clean_window(samples[start : start + WINDOW])) for start in starts]
    windows = [(start, window) for start, window in windows if window is not None]
    if not windows:
        return f"{clip.path}: nothing but silence"
    features, stft_db, mel_db = describe_windows([window for _, window in windows])
    starts = np.array([start for start, _ in windows])
    level_db = np.array([window_level(samples[start : start + WINDOW]) for start in starts])
    return (features, stft_db.astype(np.float16), mel_db.astype(np.float16), (starts + offset) / SAMPLE_RATE, level_db,
            landmarks(samples))


def describe_copies(clip, backgrounds, mix):
    """Features of changed copies of a clip, one per background clip: list of (background, features [34]).

    mix(samples, background's samples) returns a copy of at most one window. Files that cannot be read are left out here; the
    first pass has reported them.
    """
    rows = []
    try:
        samples, _ = trim_silence(read_audio_again(clip.path))
    except AudioError:
        return rows
    for background in backgrounds:
        try:
            window = clean_window(mix(samples, read_audio_again(background.path)))
        except AudioError:
            continue
        if window is not None:
            rows.append((background, describe_window(window)[0]))
    return rows


def describe_scenes(clip, backgrounds, seed):
    """As describe_copies, with the clip in a scene of each background, for the classical models."""
    rng = np.random.default_rng(seed)
    return describe_copies(clip, backgrounds, lambda samples, background: scenes.random_scene(samples, background, rng))


def describe_noisy(clip, noises, seed):
    """As describe_copies, with each noise mixed into a piece of the clip, for utils.noise_level."""
    rng = np.random.default_rng(seed)

    def in_noise(samples, noise):
        piece = samples if len(samples) <= WINDOW else scenes.loop_to(samples, WINDOW, rng)
        return scenes.mix(piece, scenes.loop_to(trim_silence(noise)[0], len(piece), rng), rng.uniform(*NOISE_SNR_DB))

    return describe_copies(clip, noises, in_noise)


def synthesised_clip(number):
    """What stage 1 knows of synthesised signal `number`: a clip without a scream, and without a file."""
    kind = scenes.SIGNAL_KINDS[number % len(scenes.SIGNAL_KINDS)]
    return Clip(f"{SYNTHESISED}/{kind}-{number}", "non_scream", SYNTHESISED, f"{SYNTHESISED}-{number}", kind)


def describe_signal(number, seed, variant=0):
    """As describe_clip, for a synthesised signal of one window, without landmarks. Each variant sounds different."""
    signal = scenes.technical_signal(synthesised_clip(number).sound_class, np.random.default_rng([seed, number, variant]))
    features, stft_db, mel_db = describe_windows([clean_window(signal)])
    return features, stft_db.astype(np.float16), mel_db.astype(np.float16), np.zeros(1), np.array([window_level(signal)]), None


def describe_signal_again(number, seed, variant):
    """As describe_scenes, for another variant of a synthesised signal: it is its own background."""
    return [(synthesised_clip(number), describe_signal(number, seed, variant)[0][0])]
