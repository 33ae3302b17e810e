"""Stage 1 with 1, 2 and 4 jobs, and with 100, 1,000 and 10,000 clips: time per clip and memory must stay flat.

    python benchmarks/jobs.py                  about 15 minutes on 2 free cores
    python benchmarks/jobs.py --counts 100 300 --runs 1
    python benchmarks/jobs.py --audio noise-of-life --jobs 1 2    real clips, with their augmented rows

The clips are synthesised (2.5 s, 44.1 kHz, 16 bits, one window each); beyond 200 they are hard links of those. They are the
hardest case for more jobs: little work in each clip, no augmented rows. With --audio, stage 1 runs as a user runs it.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

from benchmarks.machine import alternate, command_given, describe_machine, write_section
from utils.artifacts import run_stage
from utils.dataset import find_clips
from utils.tables import markdown_table

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
N_DIFFERENT = 200


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1_000, 10_000], help="clips (default %(default)s)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4], help="processes (default %(default)s)")
    parser.add_argument("--clips", type=int, default=1_000, help="clips for the comparison of jobs (default %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="alternating runs of each number of jobs (default %(default)s)")
    parser.add_argument("--audio", metavar="DIR", help="compare the jobs on these labelled clips instead of synthesised ones")
    parser.add_argument("--folder", help="where to put clips and artifacts (default: a temporary folder; 1 GB)")
    return parser.parse_args(argv)


def make_clips(folder, n_clips):
    """A labelled tree of `n_clips`, a third of them screams; later ones are hard links of the first 200."""
    rng, seconds = np.random.default_rng(0), np.arange(int(2.5 * 44_100)) / 44_100
    first = {}
    for index in range(n_clips):
        label = "scream" if index % 3 == 0 else "non_scream"
        path = folder / label / f"{index * 25}.wav"  # 25 apart: each a group of its own
        path.parent.mkdir(parents=True, exist_ok=True)
        same = first.get(index % N_DIFFERENT // 3 * 3 + index % 3)
        if same:
            os.link(same, path)
            continue
        voice = np.sin(2 * np.pi * rng.uniform(300, 2000) * seconds) * (1 + np.sin(2 * np.pi * 70 * seconds))
        soundfile.write(path, 0.3 * voice + 0.05 * rng.standard_normal(len(voice)), 44_100, subtype="PCM_16")
        first[index] = path
    return folder


def extract(clips, out, jobs, *options):
    """Run stage 1 on a folder: (wall seconds, peak memory of the parent process in MB)."""
    command = [sys.executable, "extract_features.py", "--audio", clips, "--csv", out / "audio_features.csv",
               "--data", out / "data", "--jobs", str(jobs), *options]
    began, peak = time.perf_counter(), 0
    with open(out / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        while process.poll() is None:
            try:
                status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
                peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
            except (OSError, ValueError):  # it ended in this moment
                break
            time.sleep(0.05)
        process.wait()
    if process.returncode:
        sys.exit(f"stage 1 failed:\n{(out / 'log.txt').read_text()}")
    return time.perf_counter() - began, peak / 1024


def compare_jobs(args, clips, n_clips, out, *options):
    """Table of the time that stage 1 takes for a folder with each number of jobs."""
    walls = alternate({jobs: lambda jobs=jobs: extract(clips, out, jobs, *options) for jobs in args.jobs}, args.runs)
    median = {jobs: statistics.median(values) for jobs, values in walls.items()}
    return markdown_table(["jobs", "wall time", "per clip", "times as fast"], [
        [jobs, f"{seconds:.1f} s", f"{1e3 * seconds / n_clips:.1f} ms", f"{median[args.jobs[0]] / seconds:.2f}"]
        for jobs, seconds in median.items()])


def compare_counts(args, clips, out):
    """Table of time and memory for each number of clips, with two jobs."""
    rows, before = [], None
    for count in args.counts:
        seconds, peak = extract(clips[count], out, 2, "--no-augment")
        further = f"{1e3 * (seconds - before[1]) / (count - before[0]):.1f} ms" if before else ""
        rows.append([f"{count:,}", f"{seconds:.1f} s", further, f"{peak:.0f} MB"])
        before = count, seconds
    return markdown_table(["clips", "wall time", "each further clip", "peak memory of the parent"], rows)


def main(argv=None):
    args = parse_arguments(argv)
    about = f"{command_given(__file__, argv)}\n\n{describe_machine('numpy', 'joblib')}"
    medians = f"medians of {args.runs} alternating runs, start of all processes included"
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        folder = pathlib.Path(folder)
        out = folder / "artifacts"
        out.mkdir()
        if args.audio:
            audio = os.path.abspath(args.audio)  # stage 1 runs in the repository's folder
            n_clips = len(find_clips(audio))
            write_section("Stage 1 with more jobs, on real clips",
                          f"{about}. {n_clips:,} clips and their augmented rows, {medians}:\n\n"
                          + compare_jobs(args, audio, n_clips, out))
            return 0
        clips = {count: make_clips(folder / f"{count}", count) for count in sorted({*args.counts, args.clips})}
        write_section("Stage 1 with more jobs and more clips",
                      f"{about}; clips of 2.5 s, no augmented rows. {args.clips:,} clips, {medians}:\n\n"
                      + compare_jobs(args, clips[args.clips], args.clips, out, "--no-augment")
                      + "\nWith 2 jobs, one run for each number of clips:\n\n" + compare_counts(args, clips, out))
    return 0


if __name__ == "__main__":
    run_stage(main)
