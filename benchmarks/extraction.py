"""Features and both spectrograms: against librosa called once per feature, and against the bare STFT.

    python benchmarks/extraction.py                    ../shared/audio where it is there, else synthesised clips
    python benchmarks/extraction.py --audio DIR        any folder of recordings

Both contestants read the same 16-bit WAV clips, warm, on one thread; seconds are processor seconds of this process.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.machine import alternate, command_given, describe_machine, use_one_thread, write_section

use_one_thread()

import librosa  # noqa: E402
import numpy as np  # noqa: E402
import scipy.fft  # noqa: E402
import soundfile  # noqa: E402

from utils.artifacts import run_stage  # noqa: E402
from utils.audio import clean_window, read_audio, window_starts  # noqa: E402
from utils.dataset import audio_files  # noqa: E402
from utils.features import describe_window, describe_windows, hann  # noqa: E402
from utils.signal_settings import HOP, N_FFT, WINDOW  # noqa: E402
from utils.tables import markdown_table  # noqa: E402

CLIP_S = 5.0


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", default="../shared/audio", metavar="DIR", help="recordings (default %(default)s)")
    parser.add_argument("--clips", type=int, default=20, help="how many of them (default %(default)s)")
    parser.add_argument("--runs", type=int, default=9, help="alternating runs; the median counts (default %(default)s)")
    return parser.parse_args(argv)


def wav_clips(folder, source, n_clips):
    """Write 5 s clips as 16-bit WAV: of recordings below `source` that are long enough, or synthesised at 44.1 kHz."""
    paths, rng = [], np.random.default_rng(0)
    found = audio_files(source)
    rng.shuffle(found)
    for path in found:
        info = soundfile.info(path)
        if info.duration >= CLIP_S and len(paths) < n_clips:
            samples, rate = soundfile.read(path, frames=int(CLIP_S * info.samplerate))
            paths.append(folder / f"{len(paths)}.wav")
            soundfile.write(paths[-1], samples, rate, subtype="PCM_16")
    kind = f"{len(paths)} real clips at their own sample rates"
    if not paths:
        kind = f"{n_clips} synthesised clips at 44.1 kHz"
        seconds = np.arange(int(44_100 * CLIP_S)) / 44_100
        for index in range(n_clips):
            voice = np.sin(2 * np.pi * (200 + 50 * index) * seconds) * np.sin(2 * np.pi * 3 * seconds) ** 2
            paths.append(folder / f"{index}.wav")
            soundfile.write(paths[-1], 0.5 * voice + 0.05 * rng.standard_normal(len(voice)), 44_100, subtype="PCM_16")
    return paths, kind


def features_with_librosa(y, rate):
    """One call per feature, each from the samples, as a plain script does it: [34]."""
    mfcc = librosa.feature.mfcc(y=y, sr=rate, n_mfcc=13)
    rows = [librosa.feature.rms(y=y), librosa.feature.zero_crossing_rate(y),
            librosa.feature.spectral_centroid(y=y, sr=rate), librosa.feature.spectral_rolloff(y=y, sr=rate)]
    return np.concatenate([mfcc.mean(axis=1), mfcc.std(axis=1), *[[row.mean(), row.std()] for row in rows]])


def spectrogram_with_librosa(y, rate):
    return librosa.amplitude_to_db(np.abs(librosa.stft(y)))


def mel_spectrogram_with_librosa(y, rate):
    return librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=rate, n_mels=128))


WITH_LIBROSA = (features_with_librosa, spectrogram_with_librosa, mel_spectrogram_with_librosa)


def librosa_per_clip(path):
    y, rate = librosa.load(path)
    return [describe(y, rate) for describe in WITH_LIBROSA]


def librosa_per_window(path, decodes=1):
    """The same windows as ours. decodes=3: each of the three reads the file, as three plain scripts do."""
    described = []
    for index, describe in enumerate(WITH_LIBROSA):
        if index < decodes:
            y, rate = librosa.load(path)
            y = np.pad(y, (0, WINDOW))  # the last window is filled up with zeros
        described.append([describe(y[start : start + WINDOW], rate) for start in window_starts(len(y) - WINDOW)])
    return described


def windows_of(path):
    samples = read_audio(path)
    windows = [clean_window(samples[start : start + WINDOW]) for start in window_starts(len(samples))]
    return [window for window in windows if window is not None]


def bare_stft(window):
    """The least that any of this needs: frames, Hann window, FFT, squared magnitude."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(window, N_FFT // 2), N_FFT)[::HOP]
    spectrum = scipy.fft.rfft(frames * hann())
    return np.square(spectrum.real) + np.square(spectrum.imag)


def for_each(items, function):
    for item in items:
        function(item)  # the result is dropped: memory that is kept would have to be fetched anew for each


def main(argv=None):
    args = parse_arguments(argv)
    machine = describe_machine("numpy", "scipy", "librosa", "soundfile", "soxr")
    with tempfile.TemporaryDirectory() as folder:
        paths, kind = wav_clips(pathlib.Path(folder), args.audio, args.clips)
        windows = [window for path in paths for window in windows_of(path)]
        seconds = alternate({
            "librosa, three decodes": lambda: for_each(paths, lambda path: librosa_per_window(path, decodes=3)),
            "librosa": lambda: for_each(paths, librosa_per_window),
            "librosa once": lambda: for_each(paths, librosa_per_clip),
            "ours": lambda: for_each(paths, lambda path: describe_windows(windows_of(path))),
            "read": lambda: for_each(paths, windows_of),
            "stft": lambda: for_each(windows, bare_stft),
            "describe": lambda: for_each(windows, describe_window),
        }, args.runs, time.process_time)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def ms(name, count):
        return f"{1e3 * median[name] / count:.2f} ms"

    def ratio(slow, fast):
        ratios = sorted(a / b for a, b in zip(seconds[slow], seconds[fast]))
        return f"{median[slow] / median[fast]:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"

    n_clips, n_windows = len(paths), len(windows)
    write_section("Extraction", f"{command_given(__file__, argv)}\n\n{machine}; {kind}, {CLIP_S:g} s of 16-bit WAV each, "
                  f"{n_windows} windows; one thread, medians of {args.runs} alternating runs, processor seconds.\n\n"
                  + markdown_table(["", "time", "ratio (range over the runs)"], [
                      ["librosa, one call per feature, same windows, three scripts that each decode, per clip",
                       ms("librosa, three decodes", n_clips), ratio("librosa, three decodes", "ours")],
                      ["the same, decoded once", ms("librosa", n_clips), ratio("librosa", "ours")],
                      ["librosa, one call per feature, once over the clip (no overlap: 216 frames instead of "
                       f"{128 * n_windows / n_clips:.0f})", ms("librosa once", n_clips), ratio("librosa once", "ours")],
                      [f"ours, {n_windows / n_clips:.2g} overlapping windows, per clip", ms("ours", n_clips), "1"],
                      ["of which reading, resampling, cleaning", ms("read", n_clips), ""],
                      ["describe_window, per window", ms("describe", n_windows), ratio("describe", "stft")],
                      ["the bare STFT of the same window", ms("stft", n_windows), "1"],
                  ]))
    return 0


if __name__ == "__main__":
    run_stage(main)
