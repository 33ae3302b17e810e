"""Files that one stage writes and the next one reads: written whole or not at all, and checked before use."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import signal
import sys
import tempfile
from importlib import metadata

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,  # full disk, no permission
                errno.EEXIST, errno.ENOTDIR, errno.EISDIR)  # a file where a folder is meant, or the other way round
MAX_LINKS = 40  # as many as Linux follows
REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RELEASED_PICKLES = os.path.join(REPOSITORY, "models", "SHA256SUMS.json")  # hashes of the pickles that come with the code


class AudioError(Exception):
    """A recording that cannot be analysed; its text is one sentence that names the file and the cause."""


class ArtifactError(Exception):
    """An artifact is missing, stale, damaged or of other settings; the text says which stage to run."""


def make_folder(folder):
    """Make a folder for output if it is not there yet. Raises ArtifactError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: the folder cannot be made ({error.strerror})") from None


def descriptor_of(path):
    """The number of our open descriptor that a name such as /dev/stdout or /dev/fd/3, or a link to it, stands for, else None."""
    path, folder = os.path.abspath(path), os.path.realpath("/dev/fd")
    for _ in range(MAX_LINKS):
        if os.path.realpath(os.path.dirname(path)) == folder:
            return int(name) if (name := os.path.basename(path)).isdecimal() else None
        if not os.path.islink(path):
            break
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    return None


def is_special(path):
    """Whether `path` is no regular file, or is /dev/stdout, wherever that leads: it can be written into, not replaced."""
    return descriptor_of(path) is not None or (os.path.exists(path) and not os.path.isfile(path))


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary name in the folder of `path`; on success flush it to disk and rename it to `path`.

    After an error, Ctrl-C or a kill, the previous file is still there, untouched. A link stays one, to the new file. Of what
    is_special, its own name is yielded: it gets what is written as it comes.
    """
    if is_special(path):
        yield path
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp" + os.path.splitext(path)[1], dir=folder)
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp made it private
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = path  # of a full disk the system names no file
        raise


def check_output(path):
    """Make the folder of an output that work is about to be done for. Raises ArtifactError if nothing can be written there."""
    if os.path.isdir(path):
        raise ArtifactError(f"{path}: is a folder; name a file")
    if is_special(path):
        return
    folder = os.path.dirname(os.path.realpath(path))
    make_folder(folder)
    try:
        tempfile.TemporaryFile(dir=folder).close()  # what permissions say is not all: nobody writes into /proc
    except OSError as error:
        raise ArtifactError(f"{folder}: no file can be made in this folder ({error.strerror})") from None


@contextlib.contextmanager
def writable(path):
    """Turn the system's refusal to write `path` into one sentence (ArtifactError)."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_json(path, content):
    with atomic_path(path) as temporary, open(temporary, "w") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def read_json(path, made_by):
    """Read a JSON artifact, a dict; ArtifactError names `made_by`, the command that makes it."""
    try:
        with open(path) as file:
            content = json.load(file)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: run {made_by} first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): run {made_by} again") from None
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} is damaged (it holds no JSON object): run {made_by} again")
    return content


def training_settings(report):
    """What a model's JSON says of its training: sources, folds, fold, seed ..., and the fingerprint of stage 1's artifacts."""
    settings = report.get("settings", {})
    return settings | settings.get("options", {})


def other_settings(report, wanted):
    """Names of those settings of {name: value} with which a model was not trained, by its JSON."""
    made = training_settings(report)
    return [name for name, value in wanted.items() if made.get(name) != value]


def check_evaluated(path, report, wanted):
    """ArtifactError unless an evaluated model's JSON names the settings that --all-data is to use: {name: value}."""
    differing = other_settings(report, wanted)
    if differing:
        raise ArtifactError(f"{path} is of a model with other settings ({', '.join(differing)}), so its operating point and "
                            "figures would not be those of --all-data: train it without --all-data first, with the same options")


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def released_pickles():
    """{file name: hash} of the pickles that come with the code."""
    return read_json(RELEASED_PICKLES, "train_ml.py") if os.path.exists(RELEASED_PICKLES) else {}


def own_pickles():
    """The user's list of pickles that were trained here: lines of hash and path. A folder of models brings no list of its own."""
    return os.path.join(os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share"), "scream-detector", "own_pickles")


def list_pickle(path, digest):
    """Note the hash of a pickle that this project has just made: only listed pickles are ever loaded."""
    folder, name = os.path.split(os.path.realpath(path))
    if folder == os.path.dirname(RELEASED_PICKLES):
        write_json(RELEASED_PICKLES, dict(sorted((released_pickles() | {name: digest}).items())))
        return
    own = own_pickles()
    try:
        os.makedirs(os.path.dirname(own), exist_ok=True)
        with open(own, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{digest} {os.path.join(folder, name)}\n")  # one write: trainings at the same time lose no line
    except OSError as error:
        print(f"note: {own} cannot be written ({error.strerror}): {path} will need --trust-models", file=sys.stderr)


def is_listed(digest):
    """Whether a pickle with this hash came with the code or was trained by this user."""
    if digest in released_pickles().values():
        return True
    try:
        with open(own_pickles(), encoding="utf-8", errors="surrogateescape") as file:
            return any(line.startswith(digest + " ") for line in file)
    except OSError:
        return False


def library_versions(*names):
    """Versions of Python and of the named distributions, for the JSON beside an artifact."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}


def open_closed_streams():
    """Lead standard input, output or error nowhere where the caller has closed it, as some services do.

    Each takes the lowest free descriptor, which is its own: no other file shall get it.
    """
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a run


def lead_nowhere(stream):
    """Let a standard stream that cannot be written end nowhere, with what it still holds, which exit would try again."""
    with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
        stream.flush()


def interrupt(signal_number, _):
    raise KeyboardInterrupt(signal_number)


def run_stage(main):
    """Run a stage's main(): its integer becomes the exit status; a user's mistake becomes one line and status 1.

    So does a package that is not installed and is imported when it is needed.

    SIGTERM, as kill and service managers send it, ends the stage as Ctrl-C does.
    """
    open_closed_streams()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main())
    except (ArtifactError, AudioError) as error:
        sys.exit(f"error: {error}")  # prints to stderr, status 1
    except ModuleNotFoundError as error:
        if not error.name or error.name.split(".")[0] == "utils":  # a mistake of ours
            raise
        sys.exit(f"error: this needs the package {error.name.split('.')[0]}: pip install -r requirements.txt")
    except KeyboardInterrupt as interruption:
        print("interrupted; nothing half-written is left", file=sys.stderr)
        sys.exit(128 + (interruption.args[0] if interruption.args else signal.SIGINT))
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        sys.exit(f"error: {error.strerror}: {error.filename}" if error.filename else f"error: {error.strerror}")
