"""Read any recording to mono float32 at 22,050 Hz, in bounded memory, and cut it into cleaned windows."""

import contextlib
import os
import shutil
import stat
import struct
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


WAV_CODINGS = {  # (format tag, bits per sample) -> (numpy type, offset, full scale), as libsndfile scales to float
    (1, 8): ("u1", 128, 2.0**7), (1, 16): ("<i2", 0, 2.0**15), (1, 24): ("<i4", 0, 2.0**31), (1, 32): ("<i4", 0, 2.0**31),
    (3, 32): ("<f4", 0, 1.0), (3, 64): ("<f8", 0, 1.0),
}
STREAM_NAME = "standard input"


def read_exactly(stream, n_bytes):
    """Read `n_bytes`, waiting for a slow pipe; fewer only at its end. stream: binary, buffered or not."""
    parts, left = [], n_bytes
    while left > 0 and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_wav_header(stream):
    """Read up to the samples of a WAV that arrives in order: (format tag, bits, channels, rate in Hz, data bytes or None).

    None stands for the lengths 0 and 0xFFFFFFFF that a streaming writer leaves in the header: until the end.
    """
    riff = read_exactly(stream, 12)
    if not riff:
        raise AudioError(f"{STREAM_NAME}: nothing arrived")
    if riff[:4] != b"RIFF" or riff[8:12] != b"WAVE":
        raise AudioError(f"{STREAM_NAME}: not a WAV stream; give --raw-rate for raw 16-bit samples, or convert with ffmpeg -f wav -")
    layout = None
    while True:
        chunk = read_exactly(stream, 8)
        if len(chunk) < 8:
            raise AudioError(f"{STREAM_NAME}: the WAV stream ends before its samples")
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and layout:
            return *layout, None if size in (0, 0xFFFFFFFF) else size
        if chunk[:4] == b"data" or size > 1 << 20:
            raise AudioError(f"{STREAM_NAME}: damaged WAV header")
        body = read_exactly(stream, size + size % 2)  # chunks are padded to an even length
        if chunk[:4] == b"fmt " and size >= 16:
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if tag == 0xFFFE and size >= 26:  # extensible: the real tag opens the sub-format
                tag = int.from_bytes(body[24:26], "little")
            layout = tag, bits, channels, rate


def decode_samples(raw, coding, channels):
    """Bytes of interleaved samples -> float32 [frames, channels], equal to what soundfile reads from a file."""
    kind, offset, full_scale = WAV_CODINGS[coding]
    if coding == (1, 24):
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        samples = wide.view(kind)[:, 0]
    else:
        samples = np.frombuffer(raw, kind)
    if kind[1] == "f":
        return samples.astype(np.float32).reshape(-1, channels)
    return ((samples.astype(np.float32) - np.float32(offset)) / np.float32(full_scale)).reshape(-1, channels)


def stream_samples(stream, coding, channels, rate, n_bytes):
    """Decode a stream piece by piece: mono blocks at `rate` Hz.

    Channels are mixed one second at a time, exactly as for files; a single channel is handed on every 0.1 s, because
    nothing depends on the block and an answer should not wait.
    """
    frame_bytes = channels * coding[1] // 8
    block_bytes = frame_bytes * (rate if channels > 1 else max(1, rate // 10))
    frames = 0
    while n_bytes is None or n_bytes > 0:
        raw = read_exactly(stream, block_bytes if n_bytes is None else min(block_bytes, n_bytes))
        raw = raw[: len(raw) // frame_bytes * frame_bytes]  # a torn last frame
        if not raw:
            break
        frames += len(raw) // frame_bytes
        n_bytes = None if n_bytes is None else n_bytes - len(raw)
        yield mono(decode_samples(raw, coding, channels))
    if not frames:
        raise AudioError(f"{STREAM_NAME}: holds no samples")


def read_stream(stream, raw_rate=None, raw_channels=1):
    """Yield audio that arrives on a pipe as mono float32 blocks at 22,050 Hz, the same samples as from a file.

    stream: binary. A WAV (PCM or float; lengths of 0 or 0xFFFFFFFF mean until the end), or, with `raw_rate` in Hz, raw
    16-bit little-endian samples of `raw_channels` interleaved channels. Raises AudioError.
    """
    if raw_rate is None:
        tag, bits, channels, rate, n_bytes = read_wav_header(stream)
    else:
        tag, bits, channels, rate, n_bytes = 1, 16, raw_channels, raw_rate, None
    if (tag, bits) not in WAV_CODINGS:
        raise AudioError(f"{STREAM_NAME}: WAV format {tag} with {bits} bits is not supported; convert with ffmpeg -f wav -")
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        raise AudioError(f"{STREAM_NAME}: a sample rate of {rate} Hz is not plausible")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{STREAM_NAME}: {channels} channels are not plausible")
    yield from resample_blocks(stream_samples(stream, (tag, bits), channels, rate, n_bytes), rate)


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
