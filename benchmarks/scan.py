"""An hour of 16-bit WAV through six models: the whole as main.py does it, and where the time goes.

    python benchmarks/scan.py                                   a synthesised hour, the models in models/
    python benchmarks/scan.py --audio a.wav b.mp3 --hours 1     an hour looped from these recordings
    python benchmarks/scan.py --hours 0.02 --runs 1             a glance

The stages run alone, one after another, on one thread; the whole runs as `main.py --json --file` in a process of its own.
"""

import argparse
import functools
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.machine import command_given, describe_machine, use_one_thread, write_section

use_one_thread()

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from utils.artifacts import run_stage  # noqa: E402
from utils.audio import SAMPLE_RATE, WINDOW_S, clean_window, cut_windows, read_audio, read_blocks  # noqa: E402
from utils.calibration import probability_of  # noqa: E402
from utils.ensemble import classical_score, load_ensemble  # noqa: E402
from utils.events import DEFAULT_SETTINGS, EventDetector  # noqa: E402
from utils.features import describe_windows  # noqa: E402
from utils.loudness import window_level  # noqa: E402
from utils.options import add_trust_option  # noqa: E402
from utils.ranking import PARTS, RecordingProbability  # noqa: E402
from utils.scan import BATCH, Judge, RecentSamples, ScoredWindow, hear_loud_part  # noqa: E402
from utils.tables import markdown_table  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
RATE = 44_100  # Hz, of the synthesised hour: most recordings need resampling


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", nargs="+", metavar="FILE", help="recordings to loop (default: synthesised sounds)")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the recording (default %(default)s)")
    parser.add_argument("--models", default=str(REPOSITORY / "models"), metavar="DIR", help="default: models, beside the scripts")
    add_trust_option(parser)
    parser.add_argument("--runs", type=int, default=7, help="runs of everything, in turn (default %(default)s)")
    return parser.parse_args(argv)


def synthesised(rng, seconds):
    """Noise that comes and goes, with voices gliding through it: float [n] at 44.1 kHz."""
    moment = np.arange(int(seconds * RATE)) / RATE
    pitch = 500 + 400 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * moment)
    voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / RATE) / k for k in (1, 2, 3))
    swell = np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * moment) ** 2
    return 0.2 * voice * swell + rng.uniform(0.005, 0.1) * rng.standard_normal(len(moment))


def write_recording(path, given, hours):
    """A mono 16-bit WAV of the asked-for length. Returns a description of what it holds."""
    rng, rate = np.random.default_rng(0), SAMPLE_RATE if given else RATE
    pieces = [read_audio(name) for name in given] if given else [synthesised(rng, 30) for _ in range(10)]
    left, index = int(hours * 3600 * rate), 0
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        while left > 0:
            piece = pieces[index % len(pieces)][:left]
            file.write(piece)
            left, index = left - len(piece), index + 1
    return f"looped from {len(given)} given recordings, {rate} Hz" if given else f"synthesised, {rate} Hz"


def time_stages(path, ensemble):
    """Processor seconds of each stage, on one thread: dict in the order of the work."""
    seconds = {}

    def timed(stage, function, *arguments):
        began = time.process_time()
        result = function(*arguments)
        seconds[stage] = seconds.get(stage, 0) + time.process_time() - began
        return result

    def network_scores(name, spectrograms):
        return ensemble.only(name).network_scores(*spectrograms)[name]

    detector, recent, recording = EventDetector(DEFAULT_SETTINGS), RecentSamples(), RecordingProbability()
    judge = Judge(recent, ensemble)
    cuts = cut_windows(recent.remember(read_blocks(path)))
    while batch := timed("decode, resample, cut", lambda: [cut for cut, _ in zip(cuts, range(BATCH))]):
        cleaned = timed("clean", lambda batch: [(clean_window(samples), window_level(samples)) for _, samples in batch], batch)
        kept = [(start, level_db, window) for (start, _), (window, level_db) in zip(batch, cleaned) if window is not None]
        if not kept:
            continue
        features, *spectrograms = timed("features and spectrograms", describe_windows, [window for *_, window in kept])
        raw = {name: timed(name, classical_score, pipeline, features) for name, pipeline in ensemble.classical.items()}
        raw |= {name: timed(name, network_scores, name, spectrograms) for name in ensemble.networks}
        probabilities = np.stack([probability_of(raw[name], ensemble.calibrations[name]) for name in ensemble.names], axis=1)
        vote = timed("vote and events", ensemble.combine, probabilities)
        for (start, level_db, _), each, probability, votes, verdict in zip(kept, probabilities, *vote):
            start_s = start / SAMPLE_RATE
            window = ScoredWindow(start_s, start_s + WINDOW_S, (start_s, start_s + 1.47), 0.0, level_db, each, probability, votes,
                                  bool(verdict))
            for judged, called in timed("second looks", list, judge.add(window)):
                timed("vote and events", detector.add, *judged.core, judged.votes, judged.probability, called)
            timed("loud parts alone", recording.add, start_s, probability, level_db,
                  functools.partial(hear_loud_part, recent, ensemble, window, **PARTS))
        recent.forget(judge.needed_from_s)
    return seconds


def run_main(path, args):
    """main.py on the recording: (wall seconds, processor seconds of all its threads, peak memory in MB)."""
    command = [sys.executable, "main.py", "--json", "--device", "cpu", "--models", args.models, "--file", path]
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    began = time.perf_counter()
    process = subprocess.Popen([*command, *["--trust-models"] * args.trust_models], cwd=REPOSITORY, stdout=subprocess.DEVNULL,
                               env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("main.py failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(argv=None):
    args = parse_arguments(argv)
    machine = describe_machine("numpy", "scipy", "onnxruntime", "scikit-learn", "soundfile", "soxr")
    ensemble = load_ensemble(args.models, device="cpu", threads=1, trust_unlisted=args.trust_models)
    for name, why in ensemble.missing.items():
        print(f"{name} is missing: {why}", file=sys.stderr)
    stages, wholes, seconds = [], [], args.hours * 3600
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "hour.wav")
        kind = write_recording(path, args.audio, args.hours)
        for _ in range(args.runs):
            stages.append(time_stages(path, ensemble))
            wholes.append(run_main(path, args))
    median = {stage: statistics.median(run[stage] for run in stages) for stage in stages[0]}
    total = sum(median.values())
    rows = [[stage, f"{value:.2f} s", f"{1e3 * value / seconds:.3f} ms", f"{100 * value / total:.0f} %"]
            for stage, value in [*median.items(), ("all stages", total)]]
    wall, processor, memory = (statistics.median(column) for column in zip(*wholes))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_section("Scan of an hour", f"{command_given(__file__, argv)}\n\n{machine}; {args.hours:g} hours of 16-bit WAV, {kind}; "
                  f"{len(ensemble.names)} models; medians of {args.runs} alternating runs.\n\n"
                  "Stages one after another on one thread, processor seconds:\n\n"
                  + markdown_table(["stage", "time", "per audio second", "share"], rows)
                  + "\nThe whole, `main.py --json --file hour.wav`, start-up included, threads as it chooses:\n\n"
                  + markdown_table(["", "median", "per audio second", "range"], [
                      ["wall time", f"{wall:.2f} s", f"{wall / seconds:.5f} s",
                       f"{min(w[0] for w in wholes):.2f} to {max(w[0] for w in wholes):.2f} s"],
                      ["processor time of all threads", f"{processor:.2f} s", f"{processor / seconds:.5f} s",
                       f"{min(w[1] for w in wholes):.2f} to {max(w[1] for w in wholes):.2f} s"],
                      ["peak memory", f"{memory:.0f} MB", "", ""]])
                  + f"\n(This benchmark itself held {own:.0f} MB.)")
    return 0


if __name__ == "__main__":
    run_stage(main)
