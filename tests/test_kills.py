"""Killed at any moment, a stage leaves every artifact whole, and run again it ends as if nothing had happened.

    pytest -m slow tests/test_kills.py

Each stage script is killed with SIGKILL (which no program can catch): just before every single renaming of a finished file,
and at random moments. After each kill every artifact has either its previous bytes or its new ones. Then the stage runs again.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import REPOSITORY
from synthetic_artifacts import SHORT, locations, train_all_models, write_artifacts

pytestmark = pytest.mark.slow
RENAMINGS = {"extract_features.py": 7, "train_ml.py": 7, "train_cnn.py": 7, "train_cnn_mel.py": 7, "train_cnn_lstm.py": 7,
             "compare_models.py": 3}  # in one run of each stage: of its artifacts, and of the checkpoints of a network
N_RANDOM_KILLS = int(os.environ.get("KILLS", "12"))  # per stage

KILLED_BEFORE_RENAMING = """
import os, runpy, signal, sys
count, rename = [int(sys.argv.pop(1))], os.replace
def rename_or_die(*paths):
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    count[0] -= 1
    return rename(*paths)
os.replace = rename_or_die
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(command, **options):
    return subprocess.Popen([sys.executable, *command], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


def kill(process):
    """SIGKILL to the stage and to its worker processes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def without_times(path):
    """Bytes of an artifact; those of a history or a comparison without the speed, which no two runs share."""
    content = path.read_bytes()
    if path.name.endswith("_history.json"):
        content = re.sub(rb'"windows_per_second": [0-9.e]+', b"", content)
    if path.name in ("comparison.csv", "comparison.md"):
        content = re.sub(rb"[0-9.]+(,| \| )([0-9.]+)( \|)?\r?$", rb"\2", content, flags=re.MULTILINE)  # ms/window, MB
    return content


def artifacts(folder):
    """{name: bytes} of everything but checkpoints and the temporary names of what was being written."""
    return {str(path.relative_to(folder)): without_times(path) for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}


class Stage:
    """A stage script, its options, what was there before it ran, and where it writes.

    make_previous(stage, folder) fills the folder with the artifacts of an earlier run that had other bytes.
    """

    def __init__(self, script, options, folder, make_previous, given=None):
        self.script, self.options, self.folder = script, options, folder
        self.given = given  # a folder whose files the stage reads where it writes: models
        self.seconds = float("inf")  # of the quickest run so far: a kill must come before its end
        self.run(self.fresh("new"))
        self.new = artifacts(folder / "new")
        make_previous(self, self.fresh("previous"))
        self.previous = artifacts(folder / "previous")
        assert self.previous.keys() == self.new.keys() and self.previous != self.new

    def fresh(self, name):
        """A folder for a run: with the given files in it, or not there yet."""
        if self.given:
            shutil.copytree(self.given, self.folder / name)
        return self.folder / name

    def command(self, target, options=None):
        return [str(REPOSITORY / self.script), *(options or self.options)(target)]

    def run(self, target, options=None):
        began, process = time.time(), start(self.command(target, options))
        output, _ = process.communicate()
        assert process.returncode == 0, output.decode()
        self.seconds = min(self.seconds, time.time() - began)

    def prepare(self):
        """A folder with the artifacts of the previous run."""
        target = self.folder / "work"
        shutil.rmtree(target, ignore_errors=True)
        return shutil.copytree(self.folder / "previous", target)

    def check_whole(self, target):
        """Every artifact is there, with its previous bytes or its new ones."""
        found = artifacts(target)
        assert found.keys() == self.previous.keys()
        for name, content in found.items():
            assert content in (self.previous[name], self.new[name]), name

    def check_finished(self, target):
        assert artifacts(target) == self.new


def other_seed(options):
    """The previous artifacts are those of another seed."""
    return lambda stage, folder: stage.run(folder, lambda target: [*options(target), "--seed", "1"])


def other_reports(stage, folder):
    """The previous artifacts are the same models with other reports."""
    for path in (stage.folder / "new").glob("comparison.*"):
        (folder / path.name).write_bytes(b"previous " + path.read_bytes())


@pytest.fixture(scope="module", params=RENAMINGS)
def stage(request, tiny_data_set, tmp_path_factory):
    folder, script = tmp_path_factory.mktemp("kills"), request.param
    if script == "extract_features.py":
        def options(target):
            return ["--audio", str(tiny_data_set / "described"), "--csv", str(target / "audio_features.csv"),
                    "--data", str(target / "data"), "--jobs", "1", "--signals", "5"]
    else:
        made = write_artifacts(folder / "made")
        more = {"train_ml.py": ["--jobs", "1"], "compare_models.py": []}.get(script, SHORT)

        def options(target):
            return [*locations(made, target), *more]
    if script == "compare_models.py":
        return Stage(script, options, folder, other_reports, given=train_all_models(made, folder / "given"))
    return Stage(script, options, folder, other_seed(options))


def test_killed_before_each_renaming(stage):
    kills = 0
    while True:
        target = stage.prepare()
        process = start(["-c", KILLED_BEFORE_RENAMING, str(kills), *stage.command(target)])
        output, _ = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, output.decode()
        stage.check_whole(target)
        if kills == 0:
            assert artifacts(target) == stage.previous
        stage.run(target)
        stage.check_finished(target)
        kills += 1
    assert kills == RENAMINGS[stage.script]
    print(f"{stage.script}: killed before each of {kills} renamings")


def test_killed_at_random_moments(stage):
    """One after another on the same folder, as on a machine that keeps losing its power; now and then a run may finish."""
    rng, target, kills = np.random.default_rng(0), stage.prepare(), 0
    for attempt in range(N_RANDOM_KILLS):
        process = start(stage.command(target))
        try:
            process.communicate(timeout=rng.uniform(0.2, 1.0) * stage.seconds)
            stage.check_finished(target)  # it was quicker than any before
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
        stage.check_whole(target)
        if attempt % 4 == 3:
            stage.run(target)
            stage.check_finished(target)
            target = stage.prepare()
    assert kills >= N_RANDOM_KILLS // 3
    print(f"{stage.script}: killed at {kills} random moments of a run of {stage.seconds:.1f} s")


@pytest.mark.parametrize("by", ["Ctrl-C", "kill"])
def test_interrupted(stage, by):
    """SIGINT to all, or SIGTERM to the stage alone: nothing half-written is left, not even under a temporary name."""
    for share in (0.4, 0.7, 0.9):
        target = stage.prepare()
        process = start(stage.command(target))
        try:
            process.communicate(timeout=share * stage.seconds)
        except subprocess.TimeoutExpired:
            if by == "Ctrl-C":
                os.killpg(process.pid, signal.SIGINT)
            else:
                process.terminate()
            process.communicate()
        stage.check_whole(target)
        assert not list(target.rglob(".*.tmp*"))


def test_kill_between_two_artifacts_is_noticed_by_the_next_stage(tmp_path):
    """Stage 1 dies after its table is renamed and before the spectrograms are: stage 2 does not mix old and new."""
    old, new = write_artifacts(tmp_path / "old"), write_artifacts(tmp_path / "new", n_clips=48, seed=1)
    shutil.copy(new / "audio_features.csv", old / "audio_features.csv")
    process = start([str(REPOSITORY / "train_ml.py"), *locations(old, tmp_path / "models")])
    output = process.communicate()[0].decode()
    assert process.returncode == 1 and output.count("\n") == 1 and "run it again" in output
    assert json.loads((old / "data/manifest.json").read_text())["clips"] == 60
