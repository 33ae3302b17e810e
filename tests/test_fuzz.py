"""Thousands of mutated recordings through the loader: finite samples or AudioError, no crash, no hang, bounded memory.

    pytest tests/test_fuzz.py              160 files
    pytest tests/test_fuzz.py -m slow -s   5,200 files and a decompression bomb, with the figures

A worker process reads the files, because a crash of a decoder would end the tests with it; it may use 1 GB of memory,
and 5 s for a file. The base files are synthesised; where the real recordings lie beside the repository, some are added.
"""

import collections
import csv
import resource
import select
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from utils.signal_settings import SAMPLE_RATE

MEMORY = 1 << 30  # bytes
SECONDS = 5.0
# Not ru_maxrss: on Linux it begins with the peak of the process that started this one.
PEAK_MEMORY = """
def peak_memory():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
"""
WORKER = PEAK_MEMORY + f"""
import resource, sys
import numpy as np
from utils.audio import AudioError, clean_window, cut_windows, read_blocks
from utils.features import describe_window

resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for line in sys.stdin:
    n_samples, sentence = 0, ""
    try:
        for _, samples in cut_windows(read_blocks(line[:-1])):
            assert samples.dtype == np.float32 and np.isfinite(samples).all(), "not finite"
            n_samples += len(samples)
            window = clean_window(samples) if n_samples < 200_000 else None
            assert window is None or all(np.isfinite(part).all() for part in describe_window(window)), "features not finite"
    except AudioError as error:
        sentence = str(error)
    except BaseException as error:
        print("FAILED", type(error).__name__, error, flush=True)
        continue
    print("AudioError" if sentence else "samples", n_samples, peak_memory(), sentence.count(chr(10)), flush=True)
"""


class Reader:
    """The worker process; started again after a crash or a hang."""

    def __init__(self):
        self.process = None

    def read(self, path):
        """One file through the loader: (outcome, seconds, peak memory of the worker in bytes)."""
        if self.process is None:
            self.process = subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                            stderr=subprocess.DEVNULL, text=True, env={"PATH": "", "OMP_NUM_THREADS": "1",
                                                                                       "OPENBLAS_NUM_THREADS": "1"})
            self.process.stdin.write("/missing\n")  # wait for its imports
            self.process.stdin.flush()
            assert self.process.stdout.readline().startswith("AudioError")
        began = time.perf_counter()
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        answer = self.process.stdout.readline().split() if ready else ["HANG"]
        seconds = time.perf_counter() - began
        if len(answer) == 4 and answer[0] in ("samples", "AudioError"):
            assert answer[3] == "0", f"{path}: an error of several lines"
            return answer[0], seconds, int(answer[2])
        self.close()
        return " ".join(answer) or "CRASH", seconds, 0

    def close(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def base_files(folder, real_audio=None):
    """Small good files of every kind the fuzzer mutates: {name: bytes}."""
    rng = np.random.default_rng(0)
    time_s = np.arange(12_000) / 16_000
    mono = 0.4 * np.sin(2 * np.pi * 500 * time_s) + 0.05 * rng.standard_normal(len(time_s))
    stereo = np.stack([mono, -0.5 * mono], axis=1)
    kinds = {
        "pcm16.wav": (mono, "PCM_16", "WAV"), "pcm24.wav": (stereo, "PCM_24", "WAV"), "float.wav": (mono, "FLOAT", "WAV"),
        "ulaw.wav": (mono, "ULAW", "WAV"), "adpcm.wav": (mono, "IMA_ADPCM", "WAV"), "wavex.wav": (stereo, "PCM_16", "WAVEX"),
        "mono.flac": (mono, "PCM_16", "FLAC"), "stereo.flac": (stereo, "PCM_24", "FLAC"), "mono.ogg": (mono, "VORBIS", "OGG"),
        "opus.ogg": (mono, "OPUS", "OGG"), "mono.mp3": (mono, "MPEG_LAYER_III", "MP3"),
        "stereo.mp3": (stereo, "MPEG_LAYER_III", "MP3"), "clip.aiff": (mono, "PCM_16", "AIFF"),
    }
    files = {}
    for name, (samples, subtype, kind) in kinds.items():
        soundfile.write(folder / name, samples, 16_000, subtype=subtype, format=kind)
        files[name] = (folder / name).read_bytes()
    if real_audio is not None:
        with open(real_audio / "clips.csv", newline="") as file:
            paths = [real_audio / row["path"] for row in csv.DictReader(file) if float(row["duration_s"]) < 1.5]
        files |= {path.name: path.read_bytes() for path in paths[:: max(1, len(paths) // 12)]}
    return files


def mutate(data, rng):
    """One random damage, of the kinds that transmission, storage and malice produce."""
    data = bytearray(data)
    header = min(len(data), 200)
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(9)
        at = int(rng.integers(header if rng.random() < 0.6 else max(1, len(data))))
        if kind == 0:
            data[at : at + 1] = bytes([rng.integers(256)])
        elif kind == 1:  # a flipped bit
            data[at : at + 1] = bytes([data[at] ^ 1 << rng.integers(8)]) if at < len(data) else b""
        elif kind == 2:  # a length or rate of an extreme value
            data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\1\0\0\0"])
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + int(rng.integers(1, 500))]
        elif kind == 5:
            data[at:at] = rng.bytes(int(rng.integers(1, 500)))
        elif kind == 6:
            data[at : at + 300] = bytes(len(data[at : at + 300]))
        elif kind == 7:  # a piece of the file, repeated
            data[at:at] = data[at : at + 1000] * int(rng.integers(1, 5))
        else:
            noise = rng.bytes(64)
            data[at : at + 64] = noise[: len(data[at : at + 64])]
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def fuzz(folder, files, n_files, seed):
    """Read `n_files` mutations; returns (outcomes, slowest in s, peak memory in bytes, descriptions of failures)."""
    rng = np.random.default_rng(seed)
    reader, outcomes, slowest, peak, failures = Reader(), collections.Counter(), 0.0, 0, []
    names = sorted(files)
    try:
        for index in range(n_files):
            name = names[index % len(names)]
            path = folder / f"mutated.{name.rsplit('.', 1)[1]}"
            path.write_bytes(mutate(files[name], rng))
            outcome, seconds, memory = reader.read(path)
            outcomes[outcome.split()[0]] += 1
            slowest, peak = max(slowest, seconds), max(peak, memory)
            if outcome not in ("samples", "AudioError"):
                kept = path.rename(folder / f"failure-{index}-{name}")
                failures.append(f"{kept}: {outcome}")
    finally:
        reader.close()
    return outcomes, slowest, peak, failures


def test_some_mutated_files(tmp_path):
    outcomes, slowest, peak, failures = fuzz(tmp_path, base_files(tmp_path), 160, seed=1)
    assert not failures
    assert min(outcomes["samples"], outcomes["AudioError"]) > 20  # neither all harmless nor all refused at once
    assert slowest < SECONDS and peak < MEMORY


@pytest.mark.slow
def test_5200_mutated_files(tmp_path, request):
    try:
        real_audio = request.getfixturevalue("real_audio")
    except pytest.skip.Exception:
        real_audio = None
    outcomes, slowest, peak, failures = fuzz(tmp_path, base_files(tmp_path, real_audio), 5_200, seed=2)
    print(f"\n{sum(outcomes.values())} files: {dict(outcomes)}, slowest {slowest:.2f} s, peak memory {peak / 1e6:.0f} MB")
    assert not failures
    assert slowest < SECONDS and peak < MEMORY


def test_the_watchdog_sees_crashes_hangs_and_failures(tmp_path, monkeypatch):
    """The fuzzer itself must notice what it looks for."""
    good = tmp_path / "good.wav"
    soundfile.write(good, np.zeros(100), 16_000)
    worker = WORKER
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 2.0)
    for code, outcome in {"import os; os.abort()": "CRASH", "import time; time.sleep(99)": "HANG", "1 / 0": "FAILED"}.items():
        monkeypatch.setattr(sys.modules[__name__], "WORKER", worker.replace("n_samples += len(samples)", code))
        reader = Reader()
        assert reader.read(good)[0].startswith(outcome)
        reader.close()


def peak_memory_of(code, *arguments):
    """Run Python code in a process of its own and return its peak resident memory in bytes."""
    process = subprocess.run([sys.executable, "-c", code + PEAK_MEMORY + "print(peak_memory())", *arguments],
                             capture_output=True, text=True, check=True, timeout=550)
    return int(process.stdout.split()[-1])


@pytest.mark.slow
def test_a_small_flac_of_hours_of_silence_streams_in_bounded_memory(tmp_path):
    hours, path = 8, tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 2, "PCM_16") as file:
        for _ in range(hours * 60):
            file.write(np.zeros((60 * SAMPLE_RATE, 2), np.int16))
    assert path.stat().st_size < 10e6  # 5 GB as float samples
    read = "import sys\nfrom utils.audio import read_blocks, cut_windows\n"
    began = time.perf_counter()
    peak = peak_memory_of(read + "print(sum(1 for _ in cut_windows(read_blocks(sys.argv[1]))))", str(path))
    imports = peak_memory_of(read)
    print(f"\n{path.stat().st_size / 1e6:.1f} MB of FLAC, {hours} h: {time.perf_counter() - began:.0f} s, "
          f"{peak / 1e6:.0f} MB of memory, of which imports {imports / 1e6:.0f} MB")
    assert peak - imports < 50e6


def test_memory_limit_holds():
    """RLIMIT_DATA must really stop a worker that asks for more than 1 GB."""
    code = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({MEMORY}, {MEMORY}))\nbytearray({2 * MEMORY})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 1 and "MemoryError" in process.stderr
    assert resource.RLIM_INFINITY == -1 or resource.RLIM_INFINITY > MEMORY
