"""Read any recording to mono float32 at 22,050 Hz, in bounded memory, and cut it into cleaned windows."""

import contextlib
import os
import shutil
import stat
import subprocess

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 22_050  # Hz
N_FFT = 2048
HOP = 512  # samples between STFT frames
WINDOW_FRAMES = 128
WINDOW = (WINDOW_FRAMES - 1) * HOP  # 65,024 samples = 2.949 s: exactly 128 centred STFT frames
WINDOW_S = WINDOW / SAMPLE_RATE
WINDOW_HOP = WINDOW // 2  # windows of a recording follow each other at half a window
MAX_GAIN = 100.0  # 40 dB: a faint noise floor never becomes full scale
QUIET_PEAK = 2.5e-4  # -72 dBFS, 8 steps of 16-bit audio: a window below this holds nothing to score
TRIM_DB = 60  # dB below a training clip's peak that counts as silence (librosa.effects.trim)
MAX_CHANNELS = 64
SAMPLE_RATES = (1_000, 768_000)  # Hz; anything outside is a broken header, not a recording


class AudioError(Exception):
    """A recording that cannot be analysed; its text is one sentence that names the file and the cause."""


def open_sound_file(path):
    """Open `path` with soundfile after the checks that give each cause its own sentence.

    Returns soundfile.SoundFile, or None when only ffmpeg could know the format. Raises AudioError.
    """
    try:
        info = os.stat(path)
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be opened ({error.strerror})") from None
    if stat.S_ISDIR(info.st_mode):
        raise AudioError(f"{path}: is a folder, not an audio file")
    if not stat.S_ISREG(info.st_mode):
        raise AudioError(f"{path}: is not a regular file; use --file - for a pipe")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path}: no permission to read it")
    if info.st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes)")
    try:
        return soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError):
        return None  # soundfile does not know the format


def mono(block):
    """Channels to one: [frames, channels] -> [frames]. NaN and Inf become 0.

    The mean of the channels, unless they cancel (inverted phase): then the loudest channel.
    """
    block = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
    if block.shape[1] == 1:
        return block[:, 0]
    mean = block.mean(axis=1)
    energies = np.square(block, dtype=np.float64).sum(axis=0)
    if np.square(mean, dtype=np.float64).sum() < 0.1 * energies.max() / block.shape[1]:
        return block[:, int(energies.argmax())]
    return mean


def resample_blocks(blocks, rate):
    """Mono blocks at `rate` Hz -> blocks at 22,050 Hz, the same samples however the blocks are cut downstream."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def decoded_blocks(sound, path):
    """Decode one second at a time, so that results never depend on the caller's block size."""
    frames_read = 0
    while True:
        try:
            block = sound.read(sound.samplerate, dtype="float32", always_2d=True)  # [<= 1 s, channels]
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: damaged after {frames_read / sound.samplerate:.1f} s ({error.error_string})") from None
        if not len(block):
            break
        frames_read += len(block)
        yield mono(block)
    if not frames_read:
        raise AudioError(f"{path}: holds no samples")


def ffmpeg_blocks(path):
    """Decode what soundfile cannot read (m4a, aac, mp4, webm ...) through ffmpeg, at 22,050 Hz mono."""
    if not shutil.which("ffmpeg"):
        raise AudioError(f"{path}: not a readable audio file (for m4a, aac or video, install ffmpeg and put it on PATH)")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", os.path.abspath(path), "-vn", "-ac", "1",
               "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    total = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while raw := process.stdout.read(4 * SAMPLE_RATE):
                samples = np.frombuffer(raw[: len(raw) // 4 * 4], "<f4")
                total += len(samples)
                yield mono(samples[:, None])
        finally:
            process.kill()
    if not total:
        raise AudioError(f"{path}: not a readable audio file (soundfile and ffmpeg both refused it)")


def read_blocks(path):
    """Yield a recording as mono float32 blocks of about one second at 22,050 Hz.

    Memory does not depend on the recording's length. Raises AudioError.
    """
    path = os.fspath(path)
    sound = open_sound_file(path)
    if sound is None:
        yield from ffmpeg_blocks(path)
        return
    with contextlib.closing(sound):
        if not SAMPLE_RATES[0] <= sound.samplerate <= SAMPLE_RATES[1]:
            raise AudioError(f"{path}: a sample rate of {sound.samplerate} Hz is not plausible")
        if sound.channels > MAX_CHANNELS:
            raise AudioError(f"{path}: {sound.channels} channels are not plausible")
        yield from resample_blocks(decoded_blocks(sound, path), sound.samplerate)


def read_audio(path):
    """Read a whole recording: float32 [n_samples] at 22,050 Hz. Raises AudioError."""
    return np.concatenate(list(read_blocks(path)))


def clean_window(samples):
    """DC offset out, peak to 1 with a gain of at most 40 dB, zero-padded at the end.

    samples: float [n <= 65,024] at 22,050 Hz. Returns float32 [65,024] in [-1, 1], or None if the window is too
    quiet to hold anything (peak below -72 dBFS).
    """
    samples = np.asarray(samples, np.float32)
    if not len(samples):
        return None
    samples = samples - samples.mean(dtype=np.float64).astype(np.float32)
    peak = float(np.abs(samples).max())
    if peak < QUIET_PEAK:
        return None
    window = np.zeros(WINDOW, np.float32)
    window[: len(samples)] = samples * np.float32(min(1.0 / peak, MAX_GAIN))
    return window


def window_starts(n_samples, hop=WINDOW_HOP):
    """First samples of the windows that cover a recording of `n_samples`; the last window may be shorter."""
    n_windows = 1 if n_samples <= WINDOW else 1 - (WINDOW - n_samples) // hop  # ceil division
    return [index * hop for index in range(n_windows)]


def cut_windows(blocks, hop=WINDOW_HOP):
    """Blocks of any size -> (first sample, samples [<= 65,024]) for each window, as soon as it is complete.

    The same windows as `window_starts` gives for the whole recording, with at most one window and one block held.
    """
    pending = np.zeros(0, np.float32)
    start = 0  # recording position of pending[0]
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) > WINDOW:  # one sample more than a window: it is not the last one
            yield start, pending[:WINDOW]
            pending = pending[hop:]
            start += hop
    if len(pending):
        yield start, pending
