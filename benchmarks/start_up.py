"""Cold start: main.py on one clip, with the exported networks and without, against a bare import of torch and scikit-learn.

    python benchmarks/start_up.py                        the models in models/
    python benchmarks/start_up.py --runs 3 --imports     and the slowest imports of main.py

"Cold" means a new process; the files are in the disk cache after the first, untimed run of each.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks.machine import alternate, command_given, describe_machine, write_section
from utils.artifacts import run_stage
from utils.ensemble import FRONT_END
from utils.options import add_trust_option
from utils.tables import markdown_table

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
CLIP = os.path.join("data", "examples", "scream.wav")
NOT_WANTED = ("torch", "librosa", "matplotlib", "seaborn", "torchaudio", "utils.training", "utils.plots")
BARE = "import torch, sklearn.svm"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=str(REPOSITORY / "models"), metavar="DIR", help="default: models, beside the scripts")
    add_trust_option(parser)
    parser.add_argument("--runs", type=int, default=7, help="alternating runs (default %(default)s)")
    parser.add_argument("--imports", action="store_true", help="print what main.py imports and the bare import does not")
    return parser.parse_args(argv)


def run(command, peaks):
    """Run a command to its end and note its peak memory in MB."""
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    peaks.append(usage.ru_maxrss / 1024)


def imported(command):
    """Modules that a Python process imports, with their own microseconds: {name: us}."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    lines = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:") and "self [us]" not in line]
    return {name.strip(): int(own.split(":")[1]) for own, _, name in lines}


def main(argv=None):
    args = parse_arguments(argv)
    machine = describe_machine("torch", "onnxruntime", "scikit-learn", "numpy")
    options = ["--json", "--device", "cpu", "--file", CLIP, *["--trust-models"] * args.trust_models]
    with tempfile.TemporaryDirectory() as folder:
        weights_only = os.path.join(folder, "models")  # without the exported networks: torch must read the weights
        shutil.copytree(args.models, weights_only, ignore=shutil.ignore_patterns("*.onnx", FRONT_END))
        commands = {"main.py": [sys.executable, "main.py", *options, "--models", args.models],
                    "torch": [sys.executable, "main.py", *options, "--models", weights_only],
                    "bare": [sys.executable, "-c", BARE]}
        peaks = {name: [] for name in commands}
        seconds = alternate({name: lambda name=name: run(commands[name], peaks[name]) for name in commands}, args.runs,
                            time.perf_counter)
        ours, bare = imported(commands["main.py"]), imported(commands["bare"])
    forbidden = [name for name in NOT_WANTED if name in ours]
    extra = sorted(((us, name) for name, us in ours.items() if name not in bare), reverse=True)
    if args.imports:
        print("\n".join(f"{us / 1e3:8.1f} ms  {name}" for us, name in extra[:40]))
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def row(name, text):
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["bare"]))
        return [text, f"{median[name]:.2f} s", f"{median[name] / median['bare']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                f"{statistics.median(peaks[name]):.0f} MB"]

    header = ["", "time", "ratio (range over the runs)", "peak memory"]
    write_section("Cold start", f"{command_given(__file__, argv)}\n\n{machine}; medians of {args.runs} alternating runs, wall "
                  "seconds, one new process each.\n\n" + markdown_table(header, [
                      row("main.py", f"`main.py --json --file {CLIP}`, six models, exported networks in onnxruntime"),
                      row("torch", "the same, networks in torch"), row("bare", f"`{BARE}`")])
                  + f"\nmain.py imports {len(extra)} modules more, {sum(us for us, _ in extra) / 1e6:.2f} s; "
                  f"of those it should not import: {', '.join(forbidden) or 'none'}.")
    return 1 if forbidden else 0


if __name__ == "__main__":
    run_stage(main)
