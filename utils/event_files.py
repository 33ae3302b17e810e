"""Events written for other programs: a CSV table, Audacity labels, Raven selections, and the sounds cut out.

All functions take the record of a file as `main.py --json` prints it: {"file": ..., "events": [{"start_s": ...,
"end_s": ..., "probability": ..., "votes": ...}, ...], ...}. Times are seconds of the original recording.
"""

import contextlib
import csv
import errno
import hashlib
import io
import os
import re
import shutil
import subprocess

import soundfile

from utils.artifacts import ArtifactError, atomic_path, descriptor_of, writable
from utils.audio import SAMPLE_RATE, AudioError, RecentSamples, open_sound_file
from utils.tables import first_row

EVENT_COLUMNS = ("file", "start_s", "end_s", "duration_s", "probability", "votes")
RAVEN_COLUMNS = ("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
                 "Annotation", "Probability", "Votes")
SCORE_COLUMNS = ("start_s", "end_s", "peak_dbfs", "probability", "votes")
AUDACITY_SUFFIX = ".audacity.txt"
RAVEN_SUFFIX = ".selections.txt"  # Raven's own ending for selection tables
CLIP_PADDING_S = 0.5
MOST_HELD_S = 180.0  # of a stream, so that events can be cut out of it: a batch of windows, 50 s, is scored before one is told;
# to that come the pauses that do not end an event
COPY_FRAMES = 65_536
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def spreadsheet_cell(value):
    """A value that a spreadsheet shows and never runs: text that would start a formula gets an apostrophe in front."""
    text = str(value)
    if isinstance(value, str) and len(text) > 1 and text[0] in "=+-@\t\r\n":
        return "'" + text
    return text


def flat_settings(settings):
    """Settings as CSV columns {name: text}: lists joined with a blank, nested names joined with a dot."""
    columns = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            columns |= flat_settings({f"{name}.{inner}": inner_value for inner, inner_value in value.items()})
        else:
            columns[name] = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else "" if value is None else value
    return columns


def csv_line(values):
    """A row as a CSV file holds it, with its end."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def check_replaceable(path):
    """Raise ArtifactError unless a table of files' events may replace what is at `path`: nothing, or such a table."""
    there, n_columns = first_row(path), len(EVENT_COLUMNS)
    if there is not None and tuple(there[:n_columns]) != EVENT_COLUMNS:
        raise ArtifactError(f"{path}: holds something else than a table of events; name another file")
    if there and there[n_columns : n_columns + 1] == ["time"]:
        raise ArtifactError(f"{path}: holds the events of a stream, which would be lost; name another file")


def prepare_table(path, header):
    """Prepare a table with this header to be continued. Returns whether one was there; raises ArtifactError for another file.

    An empty file is none, nor is a header that a full disk or a crash has cut off. A last row that a crash has left unended gets
    its end, so that the next one stands alone.
    """
    there = first_row(path)
    if there is None:
        return False
    line = csv_line(header).encode(errors="backslashreplace")
    with writable(path), open(path, "rb+") as file:
        begin = file.read(len(line))
        if len(begin) < len(line) and line.startswith(begin):
            return False
        if there != header:
            raise ArtifactError(f"{path}: holds something else than a table of a stream's events; name another file")
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.write(b"\r\n")
    return True


class EventTable:
    """A CSV file with one row per event, written as the events come: for pipes, microphones and long runs.

    settings: dict of the options used; every row repeats them, so that a table carries its own parameters.
    of_stream: events have a "time", too, and a table that is there already goes on: a monitor that starts again keeps what
    it heard. Raises ArtifactError when the file cannot be written, or holds something else; OSError when the disk is full.
    """

    def __init__(self, path, settings, of_stream=False):
        columns = flat_settings(settings)
        self.settings = [spreadsheet_cell(value) for value in columns.values()]
        self.columns = (*EVENT_COLUMNS, "time") if of_stream else EVENT_COLUMNS
        header = [*self.columns, *columns]
        goes_on = of_stream and prepare_table(path, header)
        self.file, descriptor = None, descriptor_of(path)
        try:
            target = path if descriptor is None else os.dup(descriptor)  # by its name it would be emptied first
            self.file = open(target, "a" if goes_on else "w", newline="", encoding="utf-8", errors="backslashreplace")
            self.rows = csv.writer(self.file)
            if not goes_on:
                self.rows.writerow(header)
                self.file.flush()
        except OSError as error:
            self.close()
            if error.errno in FULL_DISK:
                raise
            raise ArtifactError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, file, events):
        """Add the events of one file, or some of them. file: its path as given."""
        for event in events:
            start, end = event["start_s"], event["end_s"]
            values = {"file": spreadsheet_cell(file), "start_s": f"{start:.3f}", "end_s": f"{end:.3f}",
                      "duration_s": f"{end - start:.3f}", "probability": f"{event['probability']:.4f}",
                      "votes": event["votes"], "time": event.get("time")}
            self.rows.writerow([*(values[name] for name in self.columns), *self.settings])
        self.file.flush()

    def close(self):
        with contextlib.suppress(OSError):  # rows that could not be written, as write() has said
            if self.file:
                self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def write_csv(path, records, settings):
    """Write one row per event of all records, whole or not at all. Files without events or with an error give no row."""
    with writable(path), atomic_path(path) as temporary, EventTable(temporary, settings) as table:
        for record in records:
            table.write(record["file"], record.get("events", []))


def write_text(path, lines):
    with writable(path), atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def event_label(event):
    return f"scream {event['probability']:.2f} votes {event['votes']}"


def write_audacity(record):
    """Write an Audacity label track beside the file (File > Import > Labels). Returns its path.

    A file without events gets an empty track: it was analysed, and nothing was found. Raises ArtifactError.
    """
    path = path_beside(record["file"], AUDACITY_SUFFIX)
    write_text(path, [f"{event['start_s']:.6f}\t{event['end_s']:.6f}\t{event_label(event)}" for event in record["events"]])
    return path


def write_raven(record):
    """Write a Raven selection table beside the file (File > Open Selection Table). Returns its path; raises ArtifactError."""
    path = path_beside(record["file"], RAVEN_SUFFIX)
    lines = ["\t".join(RAVEN_COLUMNS)]
    for number, event in enumerate(record["events"], start=1):
        values = (number, "Spectrogram 1", 1, f"{event['start_s']:.6f}", f"{event['end_s']:.6f}", "0.0",
                  f"{SAMPLE_RATE / 2:.1f}", "scream", f"{event['probability']:.4f}", event["votes"])
        lines.append("\t".join(map(str, values)))
    write_text(path, lines)
    return path


def path_beside(file, suffix):
    if file == "-":
        raise ArtifactError("standard input has no folder to write labels beside; use --csv FILE")
    return file + suffix  # with the whole file name, so that a.wav and a.mp3 stay apart


def safe_name(file):
    """Name for files made from `file`: its stem and a mark of its folder.

    Only letters, digits, dot, underscore and hyphen; different files never share a name, whatever their folders.
    """
    if file == "-":
        return "standard_input"
    stem = os.path.splitext(os.path.basename(file))[0]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._-")[:80] or "recording"
    return f"{safe}_{hashlib.sha256(os.fsencode(os.path.abspath(file))).hexdigest()[:8]}"


def scores_path(folder, file):
    return os.path.join(folder, safe_name(file) + ".scores.csv")


def write_scores(folder, file, windows, model_names):
    """Write a CSV with a row per window: what every model says, over time. Returns its path; raises ArtifactError.

    windows: the ScoredWindows of `file`, in order; a probability is 0 where a window is too quiet to be scored.
    """
    path = scores_path(folder, file)
    with writable(path), atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow([*SCORE_COLUMNS, *model_names])
        for window in windows:
            rows.writerow([f"{window.start_s:.3f}", f"{window.end_s:.3f}", f"{window.level_db:.1f}", f"{window.probability:.6f}",
                           window.votes, *(f"{probability:.6f}" for probability in window.probabilities)])
    return path


def clip_name(file, start_s):
    """Name of the clip that starts at `start_s` seconds of `file`; names sort by time."""
    ms = round(start_s * 1000)
    return f"{safe_name(file)}_{ms // 3_600_000:02d}h{ms // 60_000 % 60:02d}m{ms % 60_000 / 1000:06.3f}s.wav"


def clip_subtype(sound):
    """Sample format of a clip: the original's where WAV has it, else 16 bits."""
    return sound.subtype if sound.subtype in ("PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "PCM_U8") else "PCM_16"


class ClipFile(io.FileIO):
    """A new file for libsndfile to write, which would only say "System error": leaving it raises the OSError that stopped it."""

    def __init__(self, path):
        super().__init__(path, "w")
        self.error = None

    def write(self, samples):
        n_written = 0
        try:
            while n_written < len(samples):  # the last piece before a full disk may be written in part
                n_written += super().write(samples[n_written:])
        except OSError as error:
            self.error = error
        return n_written

    def __exit__(self, *cause):
        super().__exit__(*cause)
        if self.error:
            raise self.error from None


def copy_stretch(sound, first, last, path):
    """Copy frames first to last of an open SoundFile into a new WAV of the same rate and channels, piece by piece."""
    before = min(first, sound.samplerate // 2)  # an MP3 decoder needs some frames before it is right after a jump
    sound.seek(first - before)
    sound.read(before, dtype="float32")
    with ClipFile(path) as file, \
            soundfile.SoundFile(file, "w", sound.samplerate, sound.channels, clip_subtype(sound), format="WAV") as clip:
        left = last - first
        while left > 0 and len(block := sound.read(min(left, COPY_FRAMES), dtype="float64", always_2d=True)):
            clip.write(block)
            left -= len(block)


def copy_stretch_with_ffmpeg(file, start_s, end_s, path):
    """The same for formats that only ffmpeg reads."""
    if not shutil.which("ffmpeg"):
        raise AudioError(f"{file}: cannot cut clips from it without ffmpeg on PATH")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-ss", f"{start_s:.3f}", "-t", f"{end_s - start_s:.3f}",
               "-i", os.path.abspath(file), "-vn", "-c:a", "pcm_s16le", "-f", "wav", path]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode:
        if os.fsencode(os.strerror(errno.ENOSPC)) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise AudioError(f"{file}: ffmpeg could not cut {start_s:.3f} s to {end_s:.3f} s out of it")


def without_clip(record, folder):
    """The record with those of its events whose clips are not in the folder."""
    return record | {"events": [event for event in record["events"]
                                if not os.path.exists(os.path.join(folder, clip_name(record["file"], event["start_s"])))]}


class StreamClips:
    """Cuts each event of a stream out of what was heard last, as WAV: mono, 22,050 Hz, 16 bits.

    Of an event of minutes, its end: no more of the sound is kept than held_s seconds.
    """

    def __init__(self, folder, file, gap_s):
        """gap_s: as of utils.events.EventSettings, for so long an event is not told after its end."""
        self.folder, self.name, self.recent = folder, "standard_input" if file == "-" else file, RecentSamples()
        self.held_s = MOST_HELD_S + gap_s

    def watch(self, blocks):
        """The same blocks, float32 mono at 22,050 Hz, each kept for a while before somebody gets it."""
        for block in self.recent.remember(blocks):
            self.recent.forget(self.recent.end / SAMPLE_RATE - self.held_s)
            yield block

    def write(self, event, padding_s=CLIP_PADDING_S):
        """event: with the "time" at which it began, after which the clip is named. Returns the path; raises ArtifactError."""
        path = os.path.join(self.folder, f"{self.name}_{event['time'].replace(':', '-')}.wav")
        samples = self.recent.cut(max(0.0, event["start_s"] - padding_s), event["end_s"] + padding_s)
        with writable(path), atomic_path(path) as temporary, ClipFile(temporary) as file:
            soundfile.write(file, samples, SAMPLE_RATE, "PCM_16", format="WAV")
        return path


def write_clips(record, folder, padding_s=CLIP_PADDING_S):
    """Cut every event out of the original file, at its own rate and with its own channels, as WAV.

    padding_s: seconds added on both sides, as far as the recording reaches. Returns the paths in the events' order.
    Raises AudioError when the original cannot be read, ArtifactError when the folder cannot be written.
    """
    file = record["file"]
    if file == "-":
        raise ArtifactError("standard input cannot be cut into clips afterwards; save it to a file first")
    if not record["events"]:
        return []
    paths = []
    sound = open_sound_file(file)
    try:
        for event in record["events"]:
            path = os.path.join(folder, clip_name(file, event["start_s"]))
            start_s, end_s = max(0.0, event["start_s"] - padding_s), event["end_s"] + padding_s
            with writable(path), atomic_path(path) as temporary:
                if sound is None:
                    copy_stretch_with_ffmpeg(file, start_s, end_s, temporary)
                else:
                    first, last = (min(round(seconds * sound.samplerate), sound.frames) for seconds in (start_s, end_s))
                    copy_stretch(sound, first, last, temporary)
            paths.append(path)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{file}: cannot be cut into clips ({error.error_string})") from None
    finally:
        if sound is not None:
            sound.close()
    return paths
