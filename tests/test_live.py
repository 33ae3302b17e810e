import io
import os
import pathlib
import signal
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import without_time

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE, AudioError, read_audio, read_blocks
from utils.live import EventCommand, EventCommands, Meter, Microphone, listen, meter_line, open_sounddevice
from utils.scan import scan


class LoudEnsemble:
    """Stand-in for the models: a window screams as far as its energy lies near its peak."""

    names = ("a", "b")

    def score(self, windows):
        share = np.clip(1.75 * np.sqrt(np.square(windows).mean(axis=1)), 0, 1)
        return np.stack([share, share**2], axis=1)

    def combine(self, probabilities):
        votes = (probabilities >= 0.5).sum(axis=1)
        return probabilities.mean(axis=1), votes, votes > 1


class PlayedFile:
    """Input stream that plays a file from another thread, as a sound card does; as fast as it can unless told otherwise."""

    def __init__(self, path, on_sound, on_end, block_s=0.1, pause_s=0.0, then_silent=False):
        self.samples, self.samplerate = soundfile.read(path, dtype="float32", always_2d=True)
        self.on_sound, self.on_end = on_sound, on_end
        self.block, self.pause_s, self.then_silent = int(block_s * self.samplerate), pause_s, then_silent
        self.running = self.closed = False
        self.thread = threading.Thread(target=self.play)

    def play(self):
        buffer = np.empty((self.block, self.samples.shape[1]), np.float32)
        for first in range(0, len(self.samples), self.block):
            block = self.samples[first : first + self.block]
            buffer[: len(block)] = block  # one buffer again and again: who does not copy loses
            if not self.running:
                return
            self.on_sound(buffer[: len(block)], len(block), None, None)
            time.sleep(self.pause_s)
        if not self.then_silent:
            self.on_end()

    def start(self):
        self.running = True
        self.thread.start()

    def stop(self):
        self.running = False
        self.thread.join()

    def close(self):
        self.closed = True


def microphone_playing(path, queue_s=600, stall_s=10, unplugged=False, **options):
    """A microphone that plays a file, after which somebody stops it; or, unplugged, it ends by itself."""
    microphone = Microphone(None, lambda *callbacks: PlayedFile(path, *callbacks[1:], **options), queue_s, stall_s)
    if not unplugged:
        microphone.stream.on_end = microphone.stop
    return microphone


@pytest.fixture
def recording(tmp_path):
    """14 s of faint noise at 44.1 kHz with loud square tones at 3-4.5 s and 9-11 s."""
    rate, rng = 44_100, np.random.default_rng(0)
    samples = 0.01 * rng.standard_normal(14 * rate)
    samples[:200] = 0.9  # a click: the first windows are quiet beside their peak
    for first, last in ((3, 4.5), (9, 11)):
        time_s = np.arange(int((last - first) * rate)) / rate
        samples[int(first * rate) : int(last * rate)] = 0.7 * np.sign(np.sin(2 * np.pi * 1500 * time_s))
    path = tmp_path / "night.wav"
    soundfile.write(path, samples, rate)
    return path


def test_microphone_gives_the_same_record_as_the_file(recording):
    expected = scan(read_blocks(recording), LoudEnsemble(), file="microphone")
    assert len(expected["events"]) == 2
    for block_s in (0.1, 0.037):
        events, windows, stream = [], [], io.StringIO()
        microphone = microphone_playing(recording, block_s=block_s)
        record = listen(microphone, LoudEnsemble(), on_event=events.append, on_window=windows.append, stream=stream)
        assert record == expected and without_time(events) == expected["events"] and len(windows) == 9
        assert "listened for 14.0 s: 2 events\n" in stream.getvalue() and "dropped" not in stream.getvalue()
        assert microphone.stream.closed


def test_events_come_while_the_sound_goes_on(recording):
    """Played at about ten times real time, the first event is there before half of the file has been played."""
    heard_at = []
    microphone = microphone_playing(recording, pause_s=0.01)
    listen(microphone, LoudEnsemble(), watch=lambda blocks: counted(blocks, heard_at), stream=io.StringIO(),
           on_event=lambda event: heard_at.append(event))
    first = next(i for i, item in enumerate(heard_at) if isinstance(item, dict))
    assert heard_at[first]["end_s"] < 7 and sum(heard_at[:first]) / SAMPLE_RATE < 4.5 + 2.95 + 1.5


def counted(blocks, log):
    for block in blocks:
        log.append(len(block))
        yield block


def test_the_command_of_an_event_comes_before_its_output(recording):
    class Noted(EventCommands):
        def ended(self, event):
            order.append("command")

    order = []
    listen(microphone_playing(recording), LoudEnsemble(), commands=Noted(), stream=io.StringIO(),
           on_event=lambda event: order.append("output"))
    assert order == ["command", "output"] * 2


def test_dropped_sound_is_counted_and_times_stay_right(recording):
    microphone = microphone_playing(recording, queue_s=2.0)
    microphone.stream.start()
    microphone.stream.thread.join()  # 14 s arrive while nobody reads: 2 s have room
    microphone.stream.start = lambda: None
    assert microphone.dropped == 12 * 44_100
    microphone.stopping.clear()

    def go_on():
        while not microphone.queue.empty():
            time.sleep(0.01)
        microphone.on_sound(np.ones((4410, 1), np.float32), 4410, None, None)
        microphone.stop()

    threading.Thread(target=go_on).start()
    stream = io.StringIO()
    record = listen(microphone, LoudEnsemble(), stream=stream)
    assert record["duration_s"] == 14.1  # silence stands for what was lost
    assert "12.0 s of sound dropped" in stream.getvalue()


def test_overflow_of_the_sound_card_is_reported(recording):
    microphone = microphone_playing(recording)
    microphone.on_sound(np.zeros((10, 1), np.float32), 10, None, SimpleNamespace(input_overflow=True))
    stream = io.StringIO()
    listen(microphone, LoudEnsemble(), stream=stream)
    assert "the sound card lost sound 1 times" in stream.getvalue()


def test_silent_device_is_a_failure_after_the_summary(recording):
    stream = io.StringIO()
    record = listen(microphone_playing(recording, stall_s=0.3, then_silent=True), LoudEnsemble(), stream=stream)
    assert "listened for 14.0 s: 2 events" in stream.getvalue()
    assert len(record["events"]) == 2 and record["warnings"] == [
        "microphone: no sound has come for 0.3 s; is it still plugged in?"]


def test_device_that_ends_by_itself_is_a_failure_and_loses_nothing(recording):
    record = listen(microphone_playing(recording, unplugged=True), LoudEnsemble(), stream=io.StringIO())
    assert len(record["events"]) == 2 and record["duration_s"] == 14 and record["warnings"] == [
        "microphone: the device has ended the recording; is it still plugged in?"]


def test_ctrl_c_ends_cleanly_with_the_open_event(recording):
    before = signal.getsignal(signal.SIGINT)
    microphone, stream, windows = microphone_playing(recording, pause_s=0.01), io.StringIO(), []

    def interrupt(window):
        windows.append(window)
        if len(windows) == 2:  # its end lies within the first loud tone
            os.kill(os.getpid(), signal.SIGINT)

    record = listen(microphone, LoudEnsemble(), on_window=interrupt, stream=stream)
    assert 4 < record["duration_s"] < 13 and len(record["events"]) == 1
    assert "1 event\n" in stream.getvalue() and microphone.stream.closed
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_it_also_where_scoring_is_slower_than_the_sound(recording):
    """The sound card goes on until the queue is empty, which it then never would be."""
    microphone = microphone_playing(recording, block_s=0.01, pause_s=0.002)
    heard = 0
    for block in microphone.blocks():
        heard += len(block)
        if heard > SAMPLE_RATE / 2:
            microphone.stop()
        time.sleep(0.02)
    assert 0.5 < heard / SAMPLE_RATE < 8 and microphone.queue.empty()


def test_samples_that_no_sound_has_are_silence_as_in_a_file(tmp_path):
    samples = np.full((4410, 1), 0.25, np.float32)
    samples[[700, 1400, 2100], 0] = 1e30, np.inf, np.nan
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    heard = np.concatenate(list(microphone_playing(tmp_path / "a.wav").blocks()))
    np.testing.assert_allclose(heard, read_audio(tmp_path / "a.wav"), atol=1e-6)


def test_second_ctrl_c_interrupts_at_once(recording):
    def interrupt_twice(window):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    microphone = microphone_playing(recording, pause_s=0.01)
    with pytest.raises(KeyboardInterrupt):
        listen(microphone, LoudEnsemble(), on_window=interrupt_twice, stream=io.StringIO())


def test_missing_package_or_library_or_device_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ArtifactError, match="--live needs the package sounddevice: pip install sounddevice"):
        Microphone()

    class NoDevice:
        PortAudioError = type("PortAudioError", (Exception,), {})

        def query_devices(self, device, kind):
            raise self.PortAudioError("Error querying device -1\nmore")

    monkeypatch.setitem(sys.modules, "sounddevice", NoDevice())
    with pytest.raises(AudioError, match=r"cannot be opened \(Error querying device -1\); python -m sounddevice lists"):
        Microphone()


def test_sounddevice_is_opened_at_the_devices_own_rate(monkeypatch):
    class Fake:
        PortAudioError = OSError

        def query_devices(self, device, kind):
            return {"default_samplerate": 48_000.0, "asked": (device, kind)}

        def InputStream(self, **options):
            return SimpleNamespace(**options)

    monkeypatch.setitem(sys.modules, "sounddevice", Fake())
    stream = open_sounddevice("3", print, len)
    assert (stream.samplerate, stream.blocksize, stream.device, stream.channels, stream.dtype) == (48_000, 4800, 3, 1, "float32")
    assert (stream.callback, stream.finished_callback) == (print, len)


EVENT = {"start_s": 1.25, "end_s": 2.5, "probability": 0.91239, "votes": 5}
NOTE_ARGUMENTS = "import sys, json; open(sys.argv[1], 'a').write(json.dumps(sys.argv[2:]) + '\\n')"


def command_of(*words):
    return " ".join("'" + word.replace("'", "'\"'\"'") + "'" for word in (sys.executable, *words))


def test_command_gets_its_arguments_as_they_are_without_a_shell(tmp_path):
    log = tmp_path / "log"
    words = ("{start}", "a {end}; rm -rf $HOME `x`", '{"p": {probability}}', "{votes}", "{other}")
    command = EventCommand(command_of("-c", NOTE_ARGUMENTS, str(log), *words))
    command(EVENT)
    command.finish()
    assert command.started == 1
    assert log.read_text() == '["1.250", "a 2.500; rm -rf $HOME `x`", "{\\"p\\": 0.9124}", "5", "{other}"]\n'
    assert command.summary() == "commands: 1 run" and not command.failed


def test_commands_never_block_and_run_four_at_a_time():
    command = EventCommand(command_of("-c", "import time; time.sleep(0.5)"))
    began = time.monotonic()
    for _ in range(10):
        command(EVENT)
    assert time.monotonic() - began < 0.4 and len(command.running) == 4 and len(command.waiting) == 6
    while command.waiting or command.running:
        command.poll()
        assert len(command.running) <= 4
        time.sleep(0.02)
    assert command.started == 10 and not command.failed


def test_failing_hanging_and_vanishing_commands_are_reported(tmp_path):
    reports = []
    failing = EventCommand(command_of("-c", "raise SystemExit(3)"), report=reports.append)
    failing(EVENT)
    failing.finish()
    assert len(reports) == 1 and reports[0].endswith("ended with status 3") and failing.summary() == "commands: 1 run, 1 failed"

    hanging = EventCommand(command_of("-c", "import time; time.sleep(60)"), timeout_s=0.2, report=reports.append)
    began = time.monotonic()
    hanging(EVENT)
    hanging.finish()
    assert time.monotonic() - began < 10
    assert "took longer than 0.2 s" in reports[1] and not hanging.running

    script = tmp_path / "parent"
    script.write_text(f"#!/bin/sh\nsleep 77 &\necho $! > {tmp_path}/child\nwait\n")
    script.chmod(0o755)
    hanging = EventCommand(str(script), timeout_s=1, report=reports.append)
    hanging(EVENT)
    hanging.finish()
    child = pathlib.Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/status")
    assert "took longer than 1 s" in reports[2]
    assert not child.exists() or "\tZ" in child.read_text()  # what it has started ended with it

    script = tmp_path / "alarm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    vanishing = EventCommand(str(script), report=reports.append)
    script.unlink()
    vanishing(EVENT)
    assert "could not be started" in reports[3]


def test_a_microphone_that_cannot_start_is_one_sentence(recording):
    class Busy(PlayedFile):
        def start(self):
            raise RuntimeError("Error starting stream: Device unavailable [PaErrorCode -9985]")

    microphone = Microphone(None, lambda *callbacks: Busy(recording, *callbacks[1:]))
    with pytest.raises(AudioError, match=r"^microphone: cannot be started \(Error starting stream: Device unavailable"):
        next(microphone.blocks())
    assert microphone.stream.closed


def test_flood_of_events_is_bounded():
    command = EventCommand(command_of("-c", "import time; time.sleep(30)"), max_running=1)
    for _ in range(150):
        command(EVENT)
    assert len(command.waiting) == 100 and command.skipped == 49
    command.finish(wait_s=0.1)
    assert command.summary() == "commands: 1 run, 149 skipped, 1 still running"
    command.running[0][0].kill()


@pytest.mark.parametrize("template", ["", "   ", "'unclosed", "no-such-program-anywhere {start}"])
def test_command_that_can_never_run_is_refused_at_once(template):
    with pytest.raises(ValueError):
        EventCommand(template)


@pytest.mark.parametrize("template, meant", [("echo {probabilty}", "probability"), ("echo {strat} {end}", "start"),
                                             ("echo {print} {a} {{end}}", None)])
def test_a_mistyped_name_is_noticed_before_anything_runs(template, meant):
    if meant:
        with pytest.raises(ValueError, match=rf"is not filled in; is \{{{meant}\}} meant"):
            EventCommand(template)
    else:
        EventCommand(template)


def test_failing_command_does_not_stop_detection(recording):
    stream = io.StringIO()
    commands = EventCommands(on_event=EventCommand(command_of("-c", "raise SystemExit(1)")))
    record = listen(microphone_playing(recording), LoudEnsemble(), commands=commands, stream=stream)
    assert len(record["events"]) == 2
    assert stream.getvalue().count("ended with status 1\n") == 2 and "commands: 2 run, 2 failed" in stream.getvalue()


def test_meter_line():
    assert meter_line(72.4, -30.0, 0.123, 1, 6, 2) == "1:12   -30 dBFS [#####-----]  probability 0.12  votes 1/6  events 2"
    assert meter_line(0, -120, 0, 0, 6, 0) == "0:00   -99 dBFS [----------]  probability 0.00  votes 0/6  events 0"
    assert meter_line(0, 6, 1, 6, 6, 0) == "0:00     6 dBFS [##########]  probability 1.00  votes 6/6  events 0"


def test_meter_is_one_line_on_a_terminal_and_nothing_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, lines in ((Terminal(), 1), (io.StringIO(), 0)):
        meter = Meter(6, stream)
        assert sum(len(block) for block in meter.watch([np.full(2205, 0.1, np.float32)] * 5)) == 5 * 2205
        assert stream.getvalue().count("\r") == lines and "\n" not in stream.getvalue()
        assert ("-20 dBFS" in stream.getvalue()) == bool(lines)
        meter.clear()
        assert stream.getvalue().endswith(" \r") == bool(lines)
