"""Where joblib runs its tasks: processes here, or the workers of a dask cluster that is already there.

Scheduler and workers import this project, and the workers read the recordings: start both with `python -m dask` in a copy of
the repository, where the same paths lead to the same files (a shared disk, or the same folder on every machine).
"""

import contextlib
import logging
import sys
import threading
from concurrent.futures import BrokenExecutor

from utils.artifacts import ArtifactError

BACKENDS = ("local", "dask")
ANSWER_S = 10  # how long a scheduler may take to answer
LOOK_EVERY_S = 10  # whether there are still workers


def add_backend_options(parser):
    parser.add_argument("--backend", default="local", choices=BACKENDS,
                        help="where files are worked on: processes here, or the workers of a dask cluster (default %(default)s)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="with --backend dask: its scheduler, as tcp://host:8786")


def check_backend_options(parser, args):
    if (args.backend == "dask") != bool(args.scheduler):
        parser.error("--backend dask and --scheduler tcp://host:8786 belong together")


@contextlib.contextmanager
def joblib_backend(backend="local", scheduler=None):
    """Inside the `with`, joblib.Parallel runs where `backend` says.

    Raises ArtifactError without package or cluster, and when a process is ended from outside.
    """
    if backend == "local":
        try:
            yield
        except BrokenExecutor:
            raise ArtifactError("a process was ended from outside, maybe for lack of memory: try fewer --jobs") from None
        return
    try:
        from distributed import Client
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise ArtifactError("--backend dask needs two more packages: pip install dask distributed") from None
    import joblib

    try:
        client = Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise ArtifactError(f"--scheduler {scheduler}: no dask scheduler answers there") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost cluster is told once, below, without a trace
    with client:
        check_cluster(client, scheduler)
        ended = threading.Event()
        threading.Thread(target=watch_workers, args=(client, scheduler, ended), daemon=True).start()
        try:
            with joblib.parallel_config(backend="dask", client=client):
                yield
        except (FutureCancelledError, CommClosedError, KilledWorker) as error:
            raise ArtifactError(f"--scheduler {scheduler}: the cluster was lost ({type(error).__name__}); start it and run this "
                                "again, main.py with --resume, which goes on with what is left") from None
        finally:
            ended.set()


def check_cluster(client, scheduler):
    """Raises ArtifactError if joblib could not work on this cluster: it would wait for ever, or work here instead."""
    threads = client.ncores()
    start = f"python -m dask worker {scheduler}"
    if not threads:
        raise ArtifactError(f"--scheduler {scheduler}: the scheduler has no workers; start some with {start}")
    if sum(threads.values()) < 2:
        raise ArtifactError(f"--scheduler {scheduler}: its only worker has one thread, for which a cluster is not used; start "
                            f"more with {start}")
    for run in (client.run_on_scheduler, client.run):
        try:
            run(exec, "import utils.cluster", {})
        except ImportError:
            raise ArtifactError(f"--scheduler {scheduler}: scheduler or workers cannot import this project; start both in a "
                                f"copy of it, with python -m dask scheduler and {start}") from None


def watch_workers(client, scheduler, ended):
    """Say it, once, when a cluster has lost all its workers: then nothing goes on until another one comes."""
    while not ended.wait(LOOK_EVERY_S):
        try:
            n_workers = len(client.ncores())
        except Exception:  # the connection is gone, which the results will say
            return
        if not n_workers and not ended.is_set():
            print(f"--scheduler {scheduler}: no workers are left; waiting for another one (Ctrl-C ends)", file=sys.stderr)
            return
