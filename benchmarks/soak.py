"""Endurance: feed main.py's stream a looped recording for a long time, faster than real time.

    python benchmarks/soak.py scene.wav --minutes 20

scene.wav: a recording of about an hour (benchmarks/long_scene.py build makes one). It is cut to a whole number of window
hops, so that every loop falls on the same windows and must give the same events. Reports hours of audio, memory over the
run, samples lost, and events per loop, as a section of benchmarks/results.md. Exit status 1 if memory grew
(MAX_GROWTH_MB), samples were lost, or loops differed.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.machine import command_given, describe_machine, write_section
from utils.artifacts import REPOSITORY, ArtifactError, run_stage
from utils.audio import read_audio
from utils.options import add_trust_option
from utils.signal_settings import SAMPLE_RATE, WINDOW_HOP

SETTLED_S = 30  # memory is noted from here on: models are loaded
MAX_GROWTH_MB = 20  # of the median from the first quarter of the run to the last: single readings swing by 15 MB


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def feed(process, samples, seconds):
    """Write the recording again and again for `seconds`. Returns (samples written, memory in MB over time)."""
    raw = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
    block = 2 * SAMPLE_RATE * 10
    began, written, memory = time.time(), 0, []
    while time.time() - began < seconds:
        for first in range(0, len(raw), block):
            written += process.stdin.write(raw[first : first + block])
            if time.time() - began > SETTLED_S:
                memory.append(resident_mb(process.pid))
            if time.time() - began > seconds:
                break
    process.stdin.close()
    return written // 2, memory


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--models", default=os.path.join(REPOSITORY, "models"), metavar="DIR")
    add_trust_option(parser)
    args = parser.parse_args(argv)
    machine = describe_machine("numpy", "onnxruntime", "scikit-learn")
    if args.minutes < 1:
        parser.error("--minutes must be at least 1")
    if not os.path.exists("/proc/self/status"):
        raise ArtifactError("this benchmark reads memory from /proc, which this system does not have")
    samples = read_audio(args.recording)
    samples = samples[: len(samples) // WINDOW_HOP * WINDOW_HOP]
    if not len(samples):
        raise ArtifactError(f"{args.recording}: too short, take an hour")
    loop_s = len(samples) / SAMPLE_RATE
    command = [sys.executable, os.path.join(REPOSITORY, "main.py"), "--file", "-", "--raw-rate", str(SAMPLE_RATE), "--json",
               "--models", args.models, *(["--trust-models"] if args.trust_models else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    lines = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    written, memory = feed(process, samples, args.minutes * 60)
    process.wait()
    reader.join()
    record = json.loads(lines[-1])
    lost = written - round(record["duration_s"] * SAMPLE_RATE)
    if round(written / SAMPLE_RATE, 3) == record["duration_s"]:
        lost = 0  # a record's duration has milliseconds only, 22 samples
    per_loop = collections.Counter(int(event["start_s"] // loop_s) for event in record["events"])
    loops = int(written // len(samples))
    whole = [per_loop[loop] for loop in range(1, loops)]  # the first loop begins without a window before it
    quarters = [float(np.median(part)) for part in np.array_split(memory, 4)]
    growth = quarters[-1] - quarters[0]
    hours = written / SAMPLE_RATE / 3600
    failed = bool(lost or process.returncode or len(set(whole)) > 1 or growth > MAX_GROWTH_MB)
    write_section("Endurance", f"{command_given(__file__, argv)}\n\n{machine}.\n\n"
                  f"{hours:.1f} h of audio in {args.minutes:g} min ({hours * 60 / args.minutes:.0f} times real time); "
                  f"resident memory, median of each quarter of the run from {SETTLED_S} s on: "
                  f"{', '.join(f'{mb:.0f}' for mb in quarters)} MB, {min(memory):.0f} to {max(memory):.0f} MB in all; "
                  f"{lost} samples lost; "
                  f"{loops} whole loops of {loop_s / 60:.0f} min, "
                  f"events per loop after the first: {sorted(set(whole)) or 'one loop only'}.")
    return int(failed)


if __name__ == "__main__":
    run_stage(main)
