"""What every benchmark needs: fair timing, a line about the machine, and a section in results.md."""

import os
import pathlib
import platform
import shlex
import sys
import time
from datetime import date
from importlib import metadata

RESULTS = pathlib.Path(__file__).with_name("results.md")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def use_one_thread():
    """Call before numpy is imported: one thread for each contestant."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def alternate(contestants, runs=7, clock=time.perf_counter):
    """Time functions in turn, so that a busy moment hits all of them: {name: function} -> {name: [seconds] * runs}.

    Each runs once untimed first: imports, caches and compiled functions are warm. `clock`: time.process_time counts
    the seconds of this process alone and suits one thread on a shared machine.
    """
    for function in contestants.values():
        function()
    seconds = {name: [] for name in contestants}
    for _ in range(runs):
        for name, function in contestants.items():
            began = clock()
            function()
            seconds[name].append(clock() - began)
    return seconds


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe_machine(*libraries):
    """One line: processor, cores, load of other work, versions, date."""
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in libraries)
    return f"{date.today()}, {processor()}, {os.cpu_count()} cores{load}, Python {platform.python_version()}, {versions}"


def command_given(script, argv=None):
    """This run's command, for the section about it: `python benchmarks/script.py options`, paths by their last part."""
    words = sys.argv[1:] if argv is None else argv
    words = [word.partition("=") if word.startswith("--") else ("", "", word) for word in words]
    options = [option + equals + os.path.basename(value.rstrip("/")) for option, equals, value in words]
    return f"`{shlex.join(['python', f'benchmarks/{os.path.basename(script)}', *options])}`"


def write_section(title, text):
    """Print the text and make it the section `title` of results.md, in place of an older one."""
    text = text.rstrip()
    print(f"\n## {title}\n\n{text}")
    sections = RESULTS.read_text().split("\n## ") if RESULTS.exists() else ["# Measured\n\nEach section names its command.\n"]
    sections = [sections[0], *(section for section in sections[1:] if section.split("\n", 1)[0] != title)]
    RESULTS.write_text("\n## ".join([*sections, f"{title}\n\n{text}\n"]))
