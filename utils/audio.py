"""Read any recording to mono float32 at 22,050 Hz, in bounded memory, and cut it into cleaned windows."""

import collections
import contextlib
import io
import os
import shutil
import stat
import subprocess
import sys
import threading

import numpy as np
import soundfile
import soxr

from utils.artifacts import AudioError, lead_nowhere
from utils.features import frame_rms
from utils.signal_settings import HOP, MAX_GAIN, QUIET_PEAK, SAMPLE_RATE, TRIM_DB, WINDOW, WINDOW_HOP, WINDOW_S  # noqa: F401

MIN_PERIOD = SAMPLE_RATE // 2  # samples; a shorter piece is not repeated faster than this
MAX_CHANNELS = 64
MAX_BLOCK = 4_000_000  # samples of all channels decoded at once
MAX_SAMPLE = 1e6  # full scale is 1; some float files go to 32,768
PLAIN_SAMPLES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
MP3_RETRIES = 1_000  # damaged places in a row, about 1 KB each, before the rest of an MP3 is given up
UNKNOWN_LENGTH = 0x7FFF0000  # bytes; a writer into a stream gives its samples such a length or a larger one
PLAUSIBLE_RATES = (1_000, 768_000)  # Hz; anything outside is a broken header, not a recording


class ForwardSoundFile(soundfile.SoundFile):
    """A sound file that is only read onwards.

    SoundFile.read() seeks after every read of a seekable file. In some MP3s the next frames are then decoded without
    the bits that earlier frames hold for them, and up to a fifth of the samples come out wrong (tests/test_audio.py).
    """

    source = None  # the Python file that it reads from, if any: SoundFile leaves such a file open
    cut_off = False  # the header tells of more samples than the file holds

    def seekable(self):
        return False

    def close(self):
        super().close()
        if self.source:
            self.source.close()


def printable(path):
    """A path for a one-line message: line breaks, control and undecodable characters are shown as escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in os.fsdecode(path))


def open_regular_file(path):
    """Open `path` after the checks that give each cause its own sentence: a file descriptor. Raises AudioError."""
    name = printable(path)
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise AudioError(f"{name}: is a folder, not an audio file")
        if not stat.S_ISREG(info.st_mode):
            raise AudioError(f"{name}: is not a regular file; use --file - for a pipe")
        if info.st_size == 0:
            raise AudioError(f"{name}: the file is empty (0 bytes)")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise AudioError(f"{name}: no such file") from None
    except PermissionError:
        raise AudioError(f"{name}: no permission to read it") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror})") from None
    except ValueError:  # a zero byte in the name
        raise AudioError(f"{name}: is not a possible file name") from None


decoder_lock = threading.Lock()  # the redirection below belongs to the whole process


@contextlib.contextmanager
def silent_decoder():
    """Keep libmpg123 quiet, which prints a line for each damaged MP3 frame straight to file descriptor 2."""
    with decoder_lock:
        stderr = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class FileFrom(io.FileIO):
    """A file read as if it began at byte `first`."""

    def __init__(self, path, first):
        super().__init__(path)
        self.first = first
        self.seek(0)

    def seek(self, position, whence=os.SEEK_SET):
        return super().seek(position + (self.first if whence == os.SEEK_SET else 0), whence) - self.first

    def tell(self):
        return super().tell() - self.first


def wav_chunks(file, position):
    """Yield (name, first byte, size) of the chunks of a WAV that lie from byte `position` on."""
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        size = int.from_bytes(head[4:], "little")
        yield head[:4], position + 8, size
        position += 8 + size + size % 2  # chunks begin at even bytes


def data_chunk(file):
    """(first byte, size) of the samples of a WAV, or (None, 0) where no chunk is named so."""
    return next(((first, size) for name, first, size in wav_chunks(file, 12) if name == b"data"), (None, 0))  # 12: behind "WAVE"


def holds_only_chunks(file, position):
    """Whether from byte `position` on there are chunks, such as notes, one after another to the end of the file."""
    begin = position
    for name, first, size in wav_chunks(file, position):
        if not all(32 <= character < 127 for character in name):
            return False
        position = first + size
    end = file.seek(0, os.SEEK_END)
    return begin < position and position + position % 2 in (end, end + 1)


def open_unfinished_wav(path, sound):
    """Open a WAV whose recorder stopped before it wrote the length: all from the data chunk to the end of the file.

    sound: the same file as libsndfile opened it, without samples; it is returned if there is no data chunk, or if only
    other chunks follow it.
    """
    with open(path, "rb") as file:
        samples_at, _ = data_chunk(file)
        if samples_at is not None and holds_only_chunks(file, samples_at):
            samples_at = None
    if samples_at is None:
        return sound
    with contextlib.closing(sound):
        source = FileFrom(path, samples_at)
        unfinished = ForwardSoundFile(source, format="RAW", subtype=sound.subtype, endian="LITTLE",
                                      samplerate=sound.samplerate, channels=sound.channels)
        unfinished.source = source
        return unfinished


def is_cut_off_wav(path, frame_bytes):
    """Whether the header of a WAV tells of more frames than the file holds; libsndfile says nothing of it."""
    try:
        with open(path, "rb") as file:
            first, size = data_chunk(file)
            known = first is not None and size < UNKNOWN_LENGTH
            return known and first + size >= file.seek(0, os.SEEK_END) + frame_bytes
    except OSError:
        return False  # gone meanwhile: what is open can still be read


def open_sound_file(path):
    """Open `path` with soundfile, after the checks that give each cause its own sentence.

    Returns ForwardSoundFile, or None when soundfile does not know the format and ffmpeg is there to try. Raises
    AudioError.
    """
    descriptor = open_regular_file(path)
    try:
        with silent_decoder():
            sound = ForwardSoundFile(descriptor, closefd=True)  # a descriptor: any name, and no guess from its ending
    except soundfile.LibsndfileError as error:  # it has closed the descriptor
        if shutil.which("ffmpeg"):
            return None
        cause = error.error_string.rstrip(".").lower()
        if "unimplemented" in cause or "malformed" in cause:
            cause = "unknown codec or damaged header"
        elif "internal" in cause or "regular file" in cause:  # libsndfile's words for a header that makes no sense
            cause = "damaged header"
        raise AudioError(f"{printable(path)}: is not a readable audio file ({cause}); m4a, aac, wma and video need "
                         "ffmpeg on PATH") from None
    if sound.format in ("WAV", "WAVEX"):
        if sound.frames:
            sound.cut_off = is_cut_off_wav(path, 8 * sound.channels)  # of the widest samples
        elif sound.subtype in PLAIN_SAMPLES:
            sound = open_unfinished_wav(path, sound)
    absurd = None
    if not PLAUSIBLE_RATES[0] <= sound.samplerate <= PLAUSIBLE_RATES[1]:
        absurd = f"a sample rate of {sound.samplerate} Hz is not plausible"
    elif sound.channels > MAX_CHANNELS:
        absurd = f"{sound.channels} channels are not plausible"
    if absurd:
        sound.close()
        raise AudioError(f"{printable(path)}: {absurd}")
    return sound


class RecentSamples:
    """The samples of a recording that may be asked for again, however its blocks come."""

    def __init__(self):
        self.blocks = collections.deque()  # (first sample, float32 [n]), oldest first
        self.end = 0  # samples added so far

    def add(self, block):
        self.blocks.append((self.end, block))
        self.end += len(block)

    def remember(self, blocks):
        """The same blocks, each added before somebody gets it."""
        for block in blocks:
            self.add(block)
            yield block

    def forget(self, before_s):
        """Nothing before this moment will be asked for any more."""
        first = round(before_s * SAMPLE_RATE)
        while self.blocks and self.blocks[0][0] + len(self.blocks[0][1]) <= first:
            self.blocks.popleft()

    def cut(self, from_s, to_s):
        """The samples between two moments, fewer where the recording begins or ends: float32 [n]."""
        first, last = round(from_s * SAMPLE_RATE), round(to_s * SAMPLE_RATE)
        parts = [block[max(0, first - begin) : max(0, last - begin)] for begin, block in self.blocks]
        return np.concatenate(parts)


def finite_samples(samples):
    """The samples with NaN, Inf and anything beyond ±1e6 (float files may hold it, no sound does) set to 0."""
    if samples.max(initial=0) <= MAX_SAMPLE and samples.min(initial=0) >= -MAX_SAMPLE:
        return samples  # nearly always, and without a copy
    return np.where(np.abs(samples) <= MAX_SAMPLE, samples, np.float32(0))


def mono(block):
    """Channels to one: float32 [frames, channels] -> [frames]. NaN and Inf become 0.

    The mean of the channels, unless they cancel (inverted phase): then the loudest channel.
    """
    block = finite_samples(block)
    channels = block.shape[1]
    if channels == 1:
        return block[:, 0]
    mean = block @ np.full(channels, 1 / channels, np.float32)  # ten times faster than mean(axis=1)
    energies = [float(np.dot(channel, channel)) for channel in block.T]
    if float(np.dot(mean, mean)) < 0.1 * max(energies) / channels:
        return block[:, int(np.argmax(energies))].copy()
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


def print_warning(sentence):
    try:
        print(f"warning: {sentence}", file=sys.stderr)
    except OSError:
        lead_nowhere(sys.stderr)  # nobody is left to be told


def damage_of(name, decoded_s):
    return f"{name}: is damaged or cut off; {decoded_s:.1f} s could be decoded"


def decoded_blocks(sound, name, warn=print_warning):
    """Mono blocks of an open sound file, one second each, so that results never depend on who reads them.

    A file that is damaged or cut off gives what can be decoded, and warn() a sentence. Raises AudioError when nothing can.
    """
    is_mp3 = sound.format == "MP3"
    block_frames = max(1, min(sound.samplerate, MAX_BLOCK // sound.channels))
    frames_read, damage, errors_in_a_row = 0, "", 0
    while True:
        try:
            with silent_decoder() if is_mp3 else contextlib.nullcontext():
                block = sound.read(block_frames, dtype="float32", always_2d=True)  # [<= 1 s, channels]
        except soundfile.LibsndfileError as error:
            damage = error.error_string.rstrip(".").lower()
            errors_in_a_row += 1
            if is_mp3 and errors_in_a_row < MP3_RETRIES:
                continue  # the decoder looks for the next frame; those of other formats have given up
            break
        if not len(block):
            break
        errors_in_a_row = 0
        frames_read += len(block)
        yield mono(block)
    if not frames_read:
        raise AudioError(f"{name}: is damaged, nothing could be decoded ({damage})" if damage else f"{name}: holds no samples")
    if damage or sound.cut_off:
        warn(damage_of(name, frames_read / sound.samplerate))


def ffmpeg_blocks(path, warn=print_warning):
    """Decode what soundfile cannot read (m4a, aac, mp4, webm ...) through ffmpeg, at 22,050 Hz."""
    # Two channels, so that mono() also sees inverted phase; only local files, whatever a playlist asks for.
    command = ["ffmpeg", "-v", "error", "-nostdin", "-protocol_whitelist", "file", "-i", os.path.abspath(path), "-vn",
               "-ac", "2", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
    total = 0
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while raw := process.stdout.read(8 * SAMPLE_RATE):
                stereo = np.frombuffer(raw[: len(raw) // 8 * 8], "<f4").reshape(-1, 2)
                total += len(stereo)
                yield mono(stereo)
            damaged = process.wait() != 0
        finally:
            process.kill()
    if not total:
        raise AudioError(f"{printable(path)}: is not a readable audio file (soundfile and ffmpeg both refused it)")
    if damaged:
        warn(damage_of(printable(path), total / SAMPLE_RATE))


def read_blocks(path, warn=print_warning):
    """Yield a recording as mono float32 blocks of about one second at 22,050 Hz.

    Memory does not depend on the recording's length. warn: function that takes a sentence about damage. Raises AudioError.
    """
    path = os.fspath(path)
    sound = open_sound_file(path)
    if sound is None:
        yield from ffmpeg_blocks(path, warn)
        return
    with contextlib.closing(sound):
        yield from resample_blocks(decoded_blocks(sound, printable(path), warn), sound.samplerate)


def read_audio(path, warn=print_warning):
    """Read a whole recording: float32 [n_samples] at 22,050 Hz. warn: as of read_blocks. Raises AudioError."""
    return np.concatenate(list(read_blocks(path, warn)))


def read_audio_again(path):
    """As read_audio, of a recording about which everything has been said."""
    return read_audio(path, warn=lambda sentence: None)


def trim_silence(samples):
    """Cut leading and trailing frames at least TRIM_DB below the loudest: float32 [n] -> (samples kept, first one kept).

    The same samples as librosa.effects.trim(samples, top_db=60) keeps, without the seconds that importing it takes in every
    worker process. Digital silence is kept whole.
    """
    level = frame_rms(np.pad(samples, (0, -len(samples) % HOP)))[: len(samples) // HOP + 1]  # [frames]
    level = np.maximum(level, 1e-5)  # as librosa.amplitude_to_db
    loud = np.flatnonzero(level > level.max() * 10 ** (-TRIM_DB / 20))
    first = int(loud[0]) * HOP
    return samples[first : (int(loud[-1]) + 1) * HOP], first


def without_offset(samples):
    """Take the mean out of a sound: float [n >= 1] -> float32 [n]."""
    return (samples - samples.mean(dtype=np.float64).astype(np.float32)).astype(np.float32, copy=False)


def clean_window(samples):
    """NaN and Inf to 0, DC offset out, peak to 1 with a gain of at most MAX_GAIN_DB, a short piece repeated to fill the window.

    Repeated rather than followed by silence, because the share of silence in a window would tell clip lengths, and so
    collections, apart. A piece under half a second is first extended by silence, so that a click stays a click.

    samples: real [n <= 65,024] at 22,050 Hz. Returns float32 [65,024] in [-1, 1], or None if the window is too
    quiet to hold anything (peak below -72 dBFS). Raises ValueError for another shape.
    """
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, and Inf becomes 0
        samples = np.asarray(samples).astype(np.float32, casting="same_kind", copy=False)
    if samples.ndim != 1 or len(samples) > WINDOW:
        raise ValueError(f"a window has at most {WINDOW} samples of one channel, not the shape {samples.shape}")
    if not len(samples):
        return None
    samples = finite_samples(samples)
    samples = without_offset(samples)
    peak = max(float(samples.max()), -float(samples.min()))
    if peak < QUIET_PEAK:
        return None
    samples /= np.float32(max(peak, 1 / MAX_GAIN))
    if len(samples) < MIN_PERIOD:
        samples = np.pad(samples, (0, MIN_PERIOD - len(samples)))
    return samples if len(samples) == WINDOW else np.resize(samples, WINDOW)


def check_hop(hop):
    if not 1 <= hop <= WINDOW:
        raise ValueError(f"windows must follow each other after 1 to {WINDOW} samples, not {hop}")


def window_starts(n_samples, hop=WINDOW_HOP):
    """First samples of the windows that cover a recording of `n_samples`; the last window may be shorter."""
    check_hop(hop)
    if n_samples <= WINDOW:
        return [0] if n_samples else []
    return [index * hop for index in range(1 - (WINDOW - n_samples) // hop)]  # ceil division


def cut_windows(blocks, hop=WINDOW_HOP):
    """Blocks of any size -> (first sample, samples [<= 65,024]) for each window, as soon as it is complete.

    The same windows as `window_starts` gives for the whole recording, with at most one window and one block held.
    """
    check_hop(hop)
    held, n_held = [], 0  # blocks not yet cut, and their samples
    start = 0  # recording position of the first one
    for block in blocks:
        held.append(block)
        n_held += len(block)
        if n_held <= WINDOW:  # one sample more than a window: only then it is not the last one
            continue
        pending = np.concatenate(held)
        while len(pending) > WINDOW:
            yield start, pending[:WINDOW]
            pending = pending[hop:]
            start += hop
        held, n_held = [pending], len(pending)
    if n_held:
        yield start, np.concatenate(held)
