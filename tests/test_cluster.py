"""Work sent to a real dask cluster of two worker processes gives what the local run gives, byte for byte."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from conftest import LAYOUTS
from synthetic_artifacts import train_all_models, write_artifacts

import extract_features
import main
from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE
from utils.cluster import check_cluster, joblib_backend, watch_workers

ABSENT = "dask and distributed are not installed (requirements-dev.txt names them)"
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler on loopback with two worker processes that can import this project."""
    distributed = pytest.importorskip("distributed", reason=ABSENT)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
                                      dashboard_address=None) as cluster:
            yield cluster.scheduler_address
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.mark.slow
def test_folder_scan_on_a_cluster_equals_the_local_one(scheduler, tiny_data_set, tmp_path, capsys):
    folder = str(tiny_data_set / "described")
    models = train_all_models(write_artifacts(tmp_path / "made"), tmp_path / "models")
    options = ["--file", folder, "--json", "--device", "cpu", "--threads", "1", "--models", str(models)]
    capsys.readouterr()
    assert main.main(options) == 0
    local = capsys.readouterr().out
    assert main.main([*options, "--backend", "dask", "--scheduler", scheduler]) == 0
    assert capsys.readouterr().out == local
    assert len({json.loads(line)["file"] for line in local.splitlines()}) == 20


@pytest.mark.slow
def test_extraction_on_a_cluster_equals_the_local_one(scheduler, tiny_data_set, tiny_artifacts, tmp_path):
    options = [option for layout in LAYOUTS for option in ("--audio", str(tiny_data_set / layout))]
    options += ["--csv", str(tmp_path / "audio_features.csv"), "--data", str(tmp_path / "data"), "--signals", "0"]
    assert extract_features.main([*options, "--backend", "dask", "--scheduler", scheduler]) == 0
    assert (tmp_path / "audio_features.csv").read_bytes() == (tiny_artifacts / "audio_features.csv").read_bytes()
    for path in sorted((tiny_artifacts / "data").glob("*.npy")):
        assert np.array_equal(np.load(path), np.load(tmp_path / "data" / path.name))
    name = "augmented_features.csv"
    assert (tmp_path / "data" / name).read_bytes() == (tiny_artifacts / "data" / name).read_bytes()


@pytest.mark.slow
def test_the_work_is_done_by_the_workers(scheduler):
    from joblib import Parallel, delayed

    with joblib_backend("dask", scheduler):
        processes = set(Parallel(2)(delayed(os.getpid)() for _ in range(20)))
    assert processes and os.getpid() not in processes


@pytest.mark.slow
def test_a_cluster_started_as_the_readme_says(tiny_data_set, tmp_path):
    """In another process group, without PYTHONPATH; and when its scheduler is killed in the middle, one sentence."""
    pytest.importorskip("distributed", reason=ABSENT)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    models = train_all_models(write_artifacts(tmp_path / "made"), tmp_path / "models")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, dask = f"tcp://127.0.0.1:{port}", [sys.executable, "-m", "dask"]
    started = [subprocess.Popen([*dask, *words], cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) for words in (
        ["scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"],
        ["worker", address, "--nthreads", "2", "--no-dashboard", "--local-directory", str(tmp_path)])]
    command = [sys.executable, "main.py", "--json", "--models", str(models), "--trust-models", "--backend", "dask",
               "--scheduler", address, "--file"]
    try:
        for _ in range(30):  # until the worker is there
            done = subprocess.run([*command, str(tiny_data_set / "described")], cwd=REPOSITORY, env=environment,
                                  capture_output=True, text=True)
            if not any(words in done.stderr for words in ("no workers", "no dask scheduler")):
                break
            time.sleep(1)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 20
        soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 900 * SAMPLE_RATE), SAMPLE_RATE)
        long = subprocess.Popen([*command, str(tmp_path / "long.wav")], cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
        time.sleep(6)
        started[0].kill()
        err = long.communicate(timeout=60)[1]
        assert long.returncode == 1 and "the cluster was lost" in err and "Traceback" not in err
    finally:
        for process in started:
            process.kill()
            process.wait()


class Cluster:
    """A client as far as check_cluster asks it."""

    def __init__(self, threads, error=None):
        self.threads, self.error = threads, error

    def ncores(self):
        return self.threads

    def run(self, function, *words):
        if self.error:
            raise self.error
        function(*words)

    run_on_scheduler = run


def test_a_cluster_that_cannot_work_is_one_sentence(monkeypatch, capfd):
    for threads, error, sentence in [({}, None, "has no workers"), ({"a": 1}, None, "one thread"),
                                     ({"a": 1, "b": 1}, ModuleNotFoundError("utils"), "cannot import this project")]:
        with pytest.raises(ArtifactError, match=sentence):
            check_cluster(Cluster(threads, error), "tcp://x:1")
    check_cluster(Cluster({"a": 2}), "tcp://x:1")
    monkeypatch.setattr("utils.cluster.LOOK_EVERY_S", 0.01)
    watch_workers(Cluster({}), "tcp://x:1", threading.Event())
    assert capfd.readouterr().err == "--scheduler tcp://x:1: no workers are left; waiting for another one (Ctrl-C ends)\n"


def test_without_a_scheduler_one_sentence(monkeypatch):
    pytest.importorskip("distributed", reason=ABSENT)
    monkeypatch.setattr("utils.cluster.ANSWER_S", 0.5)
    with pytest.raises(ArtifactError, match="no dask scheduler answers"), joblib_backend("dask", "tcp://127.0.0.1:9"):
        pass
    with pytest.raises(ArtifactError, match="no dask scheduler answers"), joblib_backend("dask", "nonsense://x"):
        pass


def test_without_the_package_one_sentence(hide_packages):
    hide_packages("dask", "distributed")
    with pytest.raises(ArtifactError, match="pip install dask distributed"), joblib_backend("dask", "tcp://127.0.0.1:8786"):
        pass


@pytest.mark.parametrize("options", [["--backend", "dask"], ["--scheduler", "tcp://127.0.0.1:8786"], ["--backend", "ray"],
                                     ["--file", "-", "--backend", "dask", "--scheduler", "tcp://127.0.0.1:8786"]])
def test_options_that_do_not_fit(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(options)
    assert stopped.value.code == 2 and "--backend" in capsys.readouterr().err


def test_local_needs_nothing():
    with joblib_backend():
        pass
