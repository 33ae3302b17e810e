"""Stage 1 with 1, 2 and 4 jobs, and with 100, 1,000 and 10,000 clips: time per clip and memory must stay flat.

    python benchmarks/jobs.py                  about 15 minutes on 2 free cores
    python benchmarks/jobs.py --counts 100 300 --runs 1

The clips are synthesised (2.5 s, 44.1 kHz, 16 bits, one window each); beyond 200 they are hard links of those.
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
from utils.tables import markdown_table

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
N_DIFFERENT = 200


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[100, 1_000, 10_000], help="clips (default %(default)s)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4], help="processes (default %(default)s)")
    parser.add_argument("--clips", type=int, default=1_000, help="clips for the comparison of jobs (default %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="alternating runs of each number of jobs (default %(default)s)")
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


def extract(clips, out, jobs):
    """Run stage 1 on a folder: (wall seconds, peak memory of the parent process in MB)."""
    command = [sys.executable, "extract_features.py", "--audio", clips, "--csv", out / "audio_features.csv",
               "--data", out / "data", "--jobs", str(jobs), "--no-augment"]
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


def measure(args, folder):
    out = folder / "artifacts"
    out.mkdir()
    clips = {count: make_clips(folder / f"{count}", count) for count in sorted({*args.counts, args.clips})}
    walls = alternate({jobs: lambda jobs=jobs: extract(clips[args.clips], out, jobs) for jobs in args.jobs}, args.runs)
    median = {jobs: statistics.median(values) for jobs, values in walls.items()}
    jobs_table = [[jobs, f"{seconds:.1f} s", f"{1e3 * seconds / args.clips:.1f} ms", f"{median[args.jobs[0]] / seconds:.2f}"]
                  for jobs, seconds in median.items()]
    counts_table, before = [], None
    for count in args.counts:
        seconds, peak = extract(clips[count], out, 2)
        further = f"{1e3 * (seconds - before[1]) / (count - before[0]):.1f} ms" if before else ""
        counts_table.append([f"{count:,}", f"{seconds:.1f} s", further, f"{peak:.0f} MB"])
        before = count, seconds
    return jobs_table, counts_table


def main(argv=None):
    args = parse_arguments(argv)
    machine = describe_machine("numpy", "joblib")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        jobs_table, counts_table = measure(args, pathlib.Path(folder))
    write_section("Stage 1 with more jobs and more clips", f"{command_given(__file__, argv)}\n\n{machine}; clips of 2.5 s, "
                  f"start of all processes included. {args.clips:,} clips, medians of {args.runs} alternating runs:\n\n"
                  + markdown_table(["jobs", "wall time", "per clip", "times as fast"], jobs_table)
                  + "\nWith 2 jobs, one run for each number of clips:\n\n"
                  + markdown_table(["clips", "wall time", "each further clip", "peak memory of the parent"], counts_table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
