"""Audio that arrives on a pipe: WAV or raw samples, decoded exactly as the same file would be."""

import contextlib
import queue
import select
import signal
import struct
import threading
import time

import numpy as np

from utils.audio import MAX_BLOCK, MAX_CHANNELS, PLAUSIBLE_RATES, AudioError, mono, print_warning, resample_blocks

WAV_CODINGS = {  # (format tag, bits per sample) -> (numpy type, offset, full scale), as libsndfile scales to float
    (1, 8): ("u1", 128, 2.0**7), (1, 16): ("<i2", 0, 2.0**15), (1, 24): ("<i4", 0, 2.0**31), (1, 32): ("<i4", 0, 2.0**31),
    (3, 32): ("<f4", 0, 1.0), (3, 64): ("<f8", 0, 1.0),
}
UNKNOWN_LENGTH = 0x7FFFF000  # bytes; from here on it is a placeholder: this one is SoX's, ffmpeg's is 0xFFFFFFFF
IN_DS64, UNKNOWN_LONG = 0xFFFFFFFF, 1 << 62  # the length in an RF64, which its chunk ds64 holds; from here on that is one, too
MOST_SKIPPED = 1 << 26  # bytes in a chunk before the samples: more than any picture has
CONTAINERS = {b"RIFF": "WAV", b"RF64": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg"}  # by their first bytes, which raw samples lack
STREAM_NAME = "standard input"
STALL_S = 10  # seconds without any sound: worth a warning from a pipe that is still open, a failure of a microphone
AHEAD_BLOCKS = 200  # blocks read ahead of the scoring at most: 20 s of a single channel


def read_exactly(stream, n_bytes):
    """Read `n_bytes`, waiting for a slow pipe; fewer only at its end. stream: binary, buffered or not."""
    parts, left = [], n_bytes
    while left > 0:
        part = stream.read(left)
        if part is None:  # nothing has come yet, and the other end of the pipe has set it not to wait
            select.select([stream], [], [])
            continue
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_wav_header(stream):
    """Read up to the samples of a WAV that arrives in order: (format tag, bits, channels, rate in Hz, data bytes or None).

    None stands for the lengths that a streaming writer leaves in the header: until the end.
    """
    riff = read_exactly(stream, 12)
    if not riff:
        raise AudioError(f"{STREAM_NAME}: nothing arrived")
    if riff[:4] not in (b"RIFF", b"RF64") or riff[8:12] != b"WAVE":
        raise AudioError(f"{STREAM_NAME}: is not a WAV stream; give --raw-rate for raw 16-bit samples, "
                         "or convert it with ffmpeg -f wav -")
    layout, long_size = None, 0
    while True:
        chunk = read_exactly(stream, 8)
        if len(chunk) < 8:
            raise AudioError(f"{STREAM_NAME}: the WAV stream ends before its samples")
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and layout:
            if size == IN_DS64 and 0 < long_size < UNKNOWN_LONG:
                size = long_size
            elif size == 0 or size >= UNKNOWN_LENGTH:
                size = None
            return *layout, size
        if chunk[:4] == b"data" or size > MOST_SKIPPED:
            raise AudioError(f"{STREAM_NAME}: damaged WAV header")
        body = read_exactly(stream, size + size % 2)  # chunks are padded to an even length
        if len(body) < size:
            raise AudioError(f"{STREAM_NAME}: the WAV stream ends before its samples")
        if chunk[:4] == b"ds64" and size >= 16:  # of RF64: the size of the samples where 32 bits do not hold it
            long_size = int.from_bytes(body[8:16], "little")
        if chunk[:4] == b"fmt " and size >= 16:
            tag, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", body[:16])
            if tag == 0xFFFE and size >= 26:  # extensible: the real tag opens the sub-format
                tag = int.from_bytes(body[24:26], "little")
            if tag in (1, 3) and frame_bytes and frame_bytes != channels * bits // 8:
                raise AudioError(f"{STREAM_NAME}: WAV with {bits} bits in other containers is not supported; convert it with "
                                 "ffmpeg -f wav -")
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
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, as in a file, and Inf becomes 0
            return samples.astype(np.float32).reshape(-1, channels)
    return ((samples.astype(np.float32) - np.float32(offset)) / np.float32(full_scale)).reshape(-1, channels)


def stream_samples(stream, coding, channels, rate, n_bytes, begun=b""):
    """Decode a stream piece by piece: mono blocks at `rate` Hz. begun: its first bytes, where they have been read already.

    Channels are mixed one second at a time, exactly as for files; a single channel is handed on every 0.1 s, because
    nothing depends on the block and an answer should not wait.
    """
    frame_bytes = channels * coding[1] // 8
    block_bytes = frame_bytes * max(1, min(rate, MAX_BLOCK // channels) if channels > 1 else rate // 10)
    frames = 0
    while n_bytes is None or n_bytes > 0:
        raw = begun + read_exactly(stream, (block_bytes if n_bytes is None else min(block_bytes, n_bytes)) - len(begun))
        begun = b""
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

    stream: binary. A WAV (PCM or float; a length of 0, or of 2 GB and more, means until the end), or, with `raw_rate` in Hz, raw
    16-bit little-endian samples of `raw_channels` interleaved channels. Raises AudioError.
    """
    begun = b""
    if raw_rate is None:
        tag, bits, channels, rate, n_bytes = read_wav_header(stream)
    else:
        tag, bits, channels, rate, n_bytes = 1, 16, raw_channels, raw_rate, None
        begun = read_exactly(stream, 4)
        if begun in CONTAINERS:
            how = "leave --raw-rate out" if CONTAINERS[begun] == "WAV" else "give the file itself, or ffmpeg -f wav - of it"
            raise AudioError(f"{STREAM_NAME}: begins as a {CONTAINERS[begun]} file does, and not with raw samples; {how}")
    if (tag, bits) not in WAV_CODINGS:
        raise AudioError(f"{STREAM_NAME}: WAV format {tag} with {bits} bits is not supported; convert it with ffmpeg -f wav -")
    if not PLAUSIBLE_RATES[0] <= rate <= PLAUSIBLE_RATES[1]:
        raise AudioError(f"{STREAM_NAME}: a sample rate of {rate} Hz is not plausible")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{STREAM_NAME}: {channels} channels are not plausible")
    yield from resample_blocks(stream_samples(stream, (tag, bits), channels, rate, n_bytes, begun), rate)


class ReadAhead:
    """Iterates over blocks that a thread of its own reads, and knows how much sound is there without waiting.

    A pipe in real time is then scored window by window, a pipe that delivers faster in batches.
    """

    def __init__(self, blocks):
        self.blocks, self.queue = blocks, queue.Queue(AHEAD_BLOCKS)
        self.n_read = self.n_given = 0  # samples; each written by one thread only
        self.stopping = False

    @property
    def n_waiting(self):
        """Samples that can be had at once."""
        return self.n_read - self.n_given

    def read(self):
        try:
            for block in self.blocks:
                self.queue.put(block)
                self.n_read += len(block)
                if self.stopping:  # a pipe that delivers faster than it is scored never runs dry
                    break
            self.queue.put(None)
        except BaseException as error:  # the reader of the blocks shall see it
            self.queue.put(error)

    def stop(self):
        """End after what has been read so far. May be called from a signal handler."""
        self.stopping = True

    def next_block(self):
        """The next block, as soon as it is there; None at the end. Says so when none comes for STALL_S."""
        asked = time.monotonic()
        while True:
            over = self.stopping  # before the look into the queue: nothing is missed
            try:
                return self.queue.get_nowait() if over else self.queue.get(timeout=0.2)
            except queue.Empty:
                if over:
                    return None
                if asked is not None and time.monotonic() - asked > STALL_S:
                    print_warning(f"{STREAM_NAME}: no sound has come for {STALL_S:g} s; still waiting")
                    asked = None  # once for a pause

    def __iter__(self):
        threading.Thread(target=self.read, daemon=True).start()
        while (block := self.next_block()) is not None:
            if isinstance(block, BaseException):
                raise block
            self.n_given += len(block)
            yield block


@contextlib.contextmanager
def stopped_by_signals(source):
    """Let Ctrl-C and a polite kill end a ReadAhead or a Microphone; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return

    def restore():
        for number, old in before.items():
            signal.signal(number, old)

    def handler(_number, _frame):
        source.stop()
        restore()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        restore()
