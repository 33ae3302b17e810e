"""Listen to a microphone: the same scan as for files, a meter on the terminal, and a command for each event."""

import collections
import difflib
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE, WINDOW_HOP, AudioError, finite_samples, printable, resample_blocks
from utils.events import DEFAULT_SETTINGS
from utils.pipe import STALL_S, stopped_by_signals
from utils.scan import local_time, scan

FILE = "microphone"  # the record's "file"
BLOCK_S = 0.1  # seconds that the sound card hands over at once
QUEUE_S = 60  # seconds of sound that may wait when scoring falls behind; more is dropped, counted and reported
MAX_RUNNING = 4  # commands at a time
MAX_WAITING = 100  # events whose command has not started yet
COMMAND_TIMEOUT_S = 60
FILLED_IN = ("start", "end", "probability", "votes", "time")  # between braces, in a command
METER_FLOOR_DB = -60


def open_sounddevice(device, on_sound, on_end):
    """Open an input device of this computer through the optional package sounddevice, at the device's own rate.

    device: number, part of a name, or None for the default. Raises ArtifactError without the package, AudioError
    without the device.
    """
    try:
        import sounddevice
    except ImportError:
        raise ArtifactError("--live needs the package sounddevice: pip install sounddevice") from None
    except OSError:
        raise ArtifactError("--live needs the PortAudio library: install libportaudio2 with your system's package "
                            "manager") from None
    if isinstance(device, str) and device.isdigit():
        device = int(device)
    try:
        rate = int(sounddevice.query_devices(device, "input")["default_samplerate"])
        return sounddevice.InputStream(samplerate=rate, blocksize=int(rate * BLOCK_S), device=device, channels=1, dtype="float32",
                                       callback=on_sound, finished_callback=on_end)
    except (sounddevice.PortAudioError, ValueError) as error:
        cause = str(error).splitlines()[0]
        raise AudioError(f"microphone: cannot be opened ({cause}); python -m sounddevice lists what there is") from None


class Microphone:
    """A source of blocks, mono float32 at 22,050 Hz, from an input stream.

    open_stream(device, on_sound, on_end) gives an object with samplerate, start(), stop() and close() that calls
    on_sound(samples [n, channels], n, time, status) from its own thread, and on_end() when it ends by itself; tests
    hand in one that plays a file.
    """

    def __init__(self, device=None, open_stream=open_sounddevice, queue_s=QUEUE_S, stall_s=STALL_S):
        self.queue = queue.Queue(maxsize=max(1, round(queue_s / BLOCK_S)))
        self.stall_s = stall_s
        self.lost = 0  # samples dropped since the last block that found room
        self.dropped = 0  # samples in all
        self.overflows = 0  # times that the sound card itself lost some
        self.failure = None  # sentence, when the device went silent or ended
        self.stopping, self.ended = threading.Event(), threading.Event()
        self.stream = open_stream(device, self.on_sound, self.ended.set)
        self.rate = int(self.stream.samplerate)

    def on_sound(self, samples, n_samples, _time, status):
        """Called by the sound card's thread, which must never wait: copy, put in the queue, nothing else."""
        if self.stopping.is_set():  # scoring that has fallen behind would never find the queue empty
            return
        if status and getattr(status, "input_overflow", False):
            self.overflows += 1
        try:
            self.queue.put_nowait((self.lost, samples[:, 0].copy()))
            self.lost = 0
        except queue.Full:
            self.lost += n_samples
            self.dropped += n_samples

    def stop(self):
        """End blocks() after what was recorded so far. May be called from a signal handler or another thread."""
        self.stopping.set()

    def recorded_blocks(self):
        """Blocks at the device's rate, with silence in place of dropped samples so that times stay right."""
        last_sound = time.monotonic()
        while True:
            over = self.stopping.is_set() or self.ended.is_set()  # before the look into the queue: nothing is missed
            try:
                lost, block = self.queue.get_nowait() if over else self.queue.get(timeout=0.2)
            except queue.Empty:
                if over:
                    if not self.stopping.is_set():
                        self.failure = "microphone: the device has ended the recording; is it still plugged in?"
                    break
                if time.monotonic() - last_sound > self.stall_s:
                    self.failure = f"microphone: no sound has come for {self.stall_s:g} s; is it still plugged in?"
                    break
                continue
            last_sound = time.monotonic()
            while lost > 0:  # in pieces, so that a long gap needs no memory
                yield np.zeros(min(lost, self.rate), np.float32)
                lost -= self.rate
            yield finite_samples(block)

    def blocks(self):
        """Record until stop() or the end of the stream."""
        try:
            self.stream.start()
        except Exception as error:  # of the library's own class, which may not be installed
            self.stream.close()
            raise AudioError(f"microphone: cannot be started ({printable(str(error))})") from None
        try:
            yield from resample_blocks(self.recorded_blocks(), self.rate)
        finally:
            self.stream.stop()
            self.stream.close()


def end_with_children(process):
    """Kill a process that was started in a session of its own, and what it has started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)  # not waited for yet, so the group is still its own
    else:
        process.kill()
    process.wait()


class EventCommand:
    """Runs the user's command for each event, in the background and without a shell.

    template: "command {start} {end} {probability} {votes} {time}", split as a shell would; start and end in seconds since
    the stream began, time the time of day at which the event began. option: where the template came from.
    A command that fails, hangs or cannot start is reported on stderr and never stops detection; at most four run at a
    time, the next events wait. Its standard output goes to stderr, so that our JSON lines stay clean.
    Raises ValueError for a template that cannot be run.
    """

    def __init__(self, template, max_running=MAX_RUNNING, timeout_s=COMMAND_TIMEOUT_S, report=None, option="--on-event"):
        self.option = option
        try:
            self.words = shlex.split(template)
        except ValueError as error:
            raise ValueError(f"the command cannot be split into words ({error}): {template}") from None
        if not self.words:
            raise ValueError("the command is empty")
        if not shutil.which(self.words[0]):
            raise ValueError(f"no such program: {self.words[0]}")
        for word in re.findall(r"{([a-z_]+)}", template):
            meant = difflib.get_close_matches(word, FILLED_IN, n=1, cutoff=0.7)
            if meant and word not in FILLED_IN:
                raise ValueError(f"{{{word}}} is not filled in; is {{{meant[0]}}} meant?")
        self.max_running, self.timeout_s = max_running, timeout_s
        self.report = report or (lambda text: print(text, file=sys.stderr))
        self.waiting = collections.deque()
        self.running = []  # (process, when it began)
        self.started = self.failed = self.skipped = 0

    def arguments(self, event):
        values = (f"{event['start_s']:.3f}", f"{event['end_s']:.3f}", f"{event['probability']:.4f}", str(event["votes"]),
                  event.get("time", ""))
        words = self.words
        for name, value in zip(FILLED_IN, values):  # not str.format: other braces, as in JSON, are the user's own
            words = [word.replace(f"{{{name}}}", value) for word in words]
        return words

    def __call__(self, event):
        """Run the command for an event, now or when one of the running ones has ended; never waits."""
        if len(self.waiting) >= MAX_WAITING:
            self.skipped += 1
        else:
            self.waiting.append(event)
        self.poll()

    def poll(self):
        """Look after running commands and start waiting ones; never waits. Call it often."""
        still = []
        for process, began in self.running:
            status = process.poll()
            if status is None and time.monotonic() - began > self.timeout_s:
                end_with_children(process)
                self.fail(f"took longer than {self.timeout_s:g} s and was ended")
            elif status is None:
                still.append((process, began))
            elif status:
                self.fail(f"ended with status {status}")
        self.running = still
        while self.waiting and len(self.running) < self.max_running:
            words = self.arguments(self.waiting.popleft())
            self.started += 1
            try:
                process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)  # not our Ctrl-C
            except (OSError, ValueError) as error:
                self.fail(f"could not be started ({error})")
            else:
                self.running.append((process, time.monotonic()))

    def fail(self, what):
        self.failed += 1
        self.report(f"{self.option}: {self.words[0]} {what}")

    def finish(self, wait_s=5.0):
        """Give the last commands a moment; what then still runs goes on without us. What still waits is skipped."""
        until = time.monotonic() + wait_s
        while (self.running or self.waiting) and time.monotonic() < until:
            self.poll()
            time.sleep(0.02)
        self.skipped += len(self.waiting)
        self.waiting.clear()

    def summary(self):
        """'commands: 3 run, 1 failed', of --on-start 'commands at the start: ...'"""
        others = {"failed": self.failed, "skipped": self.skipped, "still running": len(self.running)}
        parts = [f"{self.started} run"] + [f"{number} {what}" for what, number in others.items() if number]
        return ("commands at the start: " if self.option == "--on-start" else "commands: ") + ", ".join(parts)


class EventCommands:
    """The commands of --on-start and --on-event, an EventCommand each, either of which may be None: looked after together."""

    def __init__(self, on_start=None, on_event=None):
        self.on_start, self.on_event = on_start, on_event
        self.given = [command for command in (on_start, on_event) if command]

    def begun(self, event):
        if self.on_start:
            self.on_start(event)

    def ended(self, event):
        if self.on_event:
            self.on_event(event)

    def report_to(self, report):
        """report: function that takes a sentence about a command that failed."""
        for command in self.given:
            command.report = report

    def poll(self):
        for command in self.given:
            command.poll()

    def finish(self):
        for command in self.given:
            command.finish()

    def summaries(self):
        """Of each that had something to run, as strings."""
        return [command.summary() for command in self.given if command.started or command.skipped]


def meter_line(elapsed_s, level_db, probability, votes, n_models, n_events):
    """One line that says what is heard: '0:12  -31 dBFS [#####-----]  probability 0.12  votes 1/6  events 0'."""
    filled = round(10 * min(1.0, max(0.0, 1 - level_db / METER_FLOOR_DB)))
    minutes, seconds = divmod(int(elapsed_s), 60)
    return (f"{minutes}:{seconds:02d}  {max(level_db, -99):4.0f} dBFS [{'#' * filled}{'-' * (10 - filled)}]  "
            f"probability {probability:.2f}  votes {votes}/{n_models}  events {n_events}")


class Meter:
    """Draws meter_line over itself on a terminal, ten times a second at most; silent elsewhere."""

    def __init__(self, n_models, stream=None):
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty()
        self.n_models, self.n_events, self.width = n_models, 0, 0
        self.probability, self.votes, self.drawn = 0.0, 0, 0.0
        self.n_samples, self.peak = 0, 0.0

    def watch(self, blocks):
        """Pass blocks on unchanged, and show their level."""
        for block in blocks:
            self.n_samples += len(block)
            self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
            if self.shown and time.monotonic() - self.drawn >= 0.1:
                self.draw()
            yield block

    def score(self, window):
        self.probability, self.votes = window.probability, window.votes

    def draw(self):
        line = meter_line(self.n_samples / SAMPLE_RATE, 20 * np.log10(max(self.peak, 1e-6)), self.probability, self.votes,
                          self.n_models, self.n_events)
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width, self.peak, self.drawn = len(line), 0.0, time.monotonic()

    def clear(self):
        """Make room for another line."""
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0


def listen(microphone, ensemble, settings=DEFAULT_SETTINGS, hop=WINDOW_HOP, commands=None, on_event=None, on_window=None,
           watch=None, stream=None):
    """Scan the microphone until Ctrl-C and return the record, as for a file.

    commands: EventCommands or None. on_event, on_window: as in utils.scan. watch: function that passes blocks on, such as
    SpectrogramOverview.watch, or None. stream: for meter and summary, default stderr. When the device failed, the record of
    what was heard until then has the sentence under "warnings".
    """
    stream, commands = stream or sys.stderr, commands or EventCommands()
    meter = Meter(len(ensemble.names), stream)

    def say(text):
        meter.clear()
        print(text, file=stream, flush=True)

    commands.report_to(say)

    def each_event(event):
        meter.clear()
        meter.n_events += 1
        commands.ended(event)  # first: an output that nobody reads must not keep an alarm waiting
        if on_event:
            on_event(event)

    def each_window(window):
        meter.score(window)
        commands.poll()
        if on_window:
            on_window(window)

    def polled(blocks):
        for block in blocks:
            commands.poll()
            yield block

    say(f"listening at {microphone.rate} Hz; Ctrl-C ends")
    blocks = meter.watch(microphone.blocks())
    with stopped_by_signals(microphone):
        record = scan(polled(watch(blocks) if watch else blocks), ensemble, settings, hop, batch=1, file=FILE,
                      on_event=each_event, on_window=each_window, on_start=commands.begun, clock=local_time)
    meter.clear()
    commands.finish()
    say(summary(record, microphone, commands))
    if microphone.failure:
        record["warnings"] = [microphone.failure]
    return record


def summary(record, microphone, commands):
    """'listened for 12.3 s: 2 events' and whatever was lost."""
    text = f"listened for {record['duration_s']:.1f} s: {len(record['events'])} event{'s' * (len(record['events']) != 1)}"
    if microphone.dropped:
        text += f"; {microphone.dropped / microphone.rate:.1f} s of sound dropped because scoring fell behind"
    if microphone.overflows:
        text += f"; the sound card lost sound {microphone.overflows} times"
    return "; ".join([text, *commands.summaries()])
