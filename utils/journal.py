"""A journal of finished files, so that a killed run goes on where it stopped (--resume).

JSON lines, append-only: first the settings, then one line per finished file with its path, size, modification time, a hash of
its ends and its record. A line counts once its line break is there, so a kill in the middle of a write costs one file at most.
One run at a time: where the system can, an open journal is locked, which ends with the process, however it ends.
"""

import contextlib
import errno
import hashlib
import json
import os
import stat

from utils.artifacts import ArtifactError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FORMAT = 1
END_BYTES = 65_536
FIRST_BYTES = b'{"journal": '


def fingerprint_of(settings):
    """SHA-256 of the settings that change results (options, model hashes, signal settings), whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def identify(path):
    """[size in bytes, modification time in ns, hash of its first and last 64 kB] of a file; [-1, 0, ""] if there is none.

    Recorders without a clock give files of one length the same names and times on every card.
    """
    try:
        info = os.stat(path)
        ends = hashlib.sha256()
        if stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                ends.update(file.read(END_BYTES))
                file.seek(max(file.tell(), info.st_size - END_BYTES))
                ends.update(file.read(END_BYTES))
    except (OSError, ValueError):  # ValueError: a name no file can have
        return [-1, 0, ""]
    return [info.st_size, info.st_mtime_ns, ends.hexdigest()]


def differing_settings(ours, theirs):
    """Names of the settings that differ, in our order."""
    ours, theirs = json.loads(json.dumps(ours)), theirs if isinstance(theirs, dict) else {}
    return [name for name in [*ours, *(set(theirs) - set(ours))] if ours.get(name) != theirs.get(name)]


def open_locked(path):
    """Open a journal for one run alone: a binary file, to read and to append. Raises ArtifactError if another run has it."""
    while True:
        file = open(path, "ab+", buffering=0)
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.exists(path) or not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    file.close()  # its run ended and removed it between the two calls
                    continue
        except BlockingIOError:
            file.close()
            raise ArtifactError(f"{path}: another run is writing this journal; wait for it, or name another --csv file") from None
        except OSError:  # a file system without locks
            pass
        return file


def parse_lines(raw):
    """(parsed lines, number of sound bytes): stops at the first line that is torn or no JSON object."""
    lines, sound = [], 0
    while (end := raw.find(b"\n", sound)) >= 0:
        try:
            line = json.loads(raw[sound:end])
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
        sound = end + 1
    return lines, sound


class Journal:
    """Finished files of a run.

    path: the journal's file. settings: dict of everything that changes results. resume: keep what an earlier run with
    the same settings wrote there; otherwise start afresh. Raises ArtifactError when the journal belongs to other
    settings, is no journal, cannot be written, or is being written by another run.

        record = journal.find(path)          # before the analysis; None: not done, or the file has changed
        journal.add(path, record)            # after it; failures too, but a failed file is tried again by the next run
    """

    def __init__(self, path, settings, resume=True):
        self.path = path
        self.done = {}  # path -> (identity, record)
        self.identities = {}  # path -> identity when the analysis began
        header = {"journal": FORMAT, "fingerprint": fingerprint_of(settings), "settings": settings}
        self.file, self.failure = None, None
        try:
            self.file = open_locked(path)
            sound = self.read(header, resume)
            self.file.truncate(sound)  # drop a torn last line, or an old journal
            if not sound:
                self.write(header)
        except OSError as error:
            self.close()
            raise ArtifactError(f"{path}: the journal cannot be written ({error.strerror})") from None
        except ArtifactError:
            self.close()
            raise

    def read(self, header, resume):
        """Take over the finished files of an earlier run; returns how many bytes of it are sound."""
        self.file.seek(0)
        raw = self.file.read()
        if raw[: len(FIRST_BYTES)] != FIRST_BYTES[: len(raw)]:  # never overwrite a file of another kind
            raise ArtifactError(f"{self.path} is not a journal of this program; name another file or remove it")
        lines, sound = parse_lines(raw)
        if not lines or not resume:  # no lines: empty, or killed while it wrote the first one
            return 0
        if lines[0].get("fingerprint") != header["fingerprint"]:
            names = ", ".join(differing_settings(header["settings"], lines[0].get("settings"))[:4]) or "format"
            raise ArtifactError(f"{self.path} was written with other settings ({names}): "
                                "use the same ones to go on, or remove the journal to start again")
        for line in lines[1:]:
            if {"path", "identity", "record"} <= line.keys():
                self.done[line["path"]] = (line["identity"], line["record"])
        return sound

    def write(self, line):
        """Append a line at once: a kill never leaves two halves. What a full disk leaves (OSError) counts for nothing."""
        content = json.dumps(line).encode() + b"\n"
        if self.file.write(content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def find(self, path):
        """Record of `path` if it was analysed and the file is unchanged since, else None. Notes what it is like now.

        None for a file that failed, too: the cause may have been outside of it (no ffmpeg, no permission, no memory).
        """
        identity = identify(path)
        known, record = self.done.get(path, (None, None))
        if known == identity and "error" not in record:
            return record
        self.identities[path] = identity
        return None

    def forget(self, path):
        """Let `path` be analysed again."""
        self.done.pop(path, None)

    def add(self, path, record):
        """Note that `path` is finished. The identity is that of find(): a file that changed meanwhile is done again.

        A journal that cannot be written any more ends no run: self.failure then says so, and nothing more is noted.
        """
        identity = self.identities.pop(path, None) or identify(path)
        try:
            if not self.failure:
                self.write({"path": path, "identity": identity, "record": record})
        except OSError as error:
            self.failure = f"{self.path}: cannot be written any more ({error.strerror}); the run goes on without it"
        self.done[path] = (identity, record)

    def close(self):
        if self.file and not self.file.closed:
            with self.file:
                os.fsync(self.file.fileno())

    def remove(self):
        """Close and remove the journal of a complete run; somebody may have removed it before."""
        with contextlib.suppress(FileNotFoundError):
            if fcntl:  # while it is locked: the next run, which may be waiting to begin, gets one of its own
                os.remove(self.path)
                self.close()
            else:  # Windows removes no open file
                self.close()
                os.remove(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
