"""Where joblib runs its tasks: processes here, or the workers of a dask cluster that is already there.

The workers import this project and read the recordings: start them in a copy of the repository, where the same paths
lead to the same files (a shared disk, or the same folder on every machine).
"""

import contextlib
from concurrent.futures import BrokenExecutor

from utils.artifacts import ArtifactError

BACKENDS = ("local", "dask")
ANSWER_S = 10  # how long a scheduler may take to answer


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
    except ImportError:
        raise ArtifactError("--backend dask needs two more packages: pip install dask distributed") from None
    import joblib

    try:
        client = Client(scheduler, timeout=ANSWER_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise ArtifactError(f"--scheduler {scheduler}: no dask scheduler answers there") from None
    with client:
        if not client.ncores():
            raise ArtifactError(f"--scheduler {scheduler}: the scheduler has no workers; start some with dask worker {scheduler}")
        with joblib.parallel_config(backend="dask", client=client):
            yield
