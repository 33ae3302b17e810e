"""The scorer: windows, limits of events and records, the same however the sound arrives. With a stand-in for the models."""

import io
import itertools
import json
import os
import struct
import threading
import time
import tracemalloc
from datetime import datetime, timedelta, UTC

import numpy as np
import pytest
import soundfile

from utils.audio import (SAMPLE_RATE, WINDOW, WINDOW_HOP, WINDOW_S, AudioError, clean_window, read_audio, read_blocks,
                         without_offset)
from stand_in import StandIn, scene
from utils.background_noise import noise_power, subtract_noise, subtract_own_noise
from utils.events import SAME_SOUND_S, EventSettings
from utils.loudness import loud_part, loud_samples
from utils.ranking import RecordingProbability
from utils.pipe import AHEAD_BLOCKS, ReadAhead, read_exactly, read_stream, read_wav_header
from utils.scan import (RecentSamples, ScoredWindow, hear_loud_part, scan, score_batch, score_windows, second_look)


def cut(samples, size):
    return [samples[i : i + size] for i in range(0, len(samples), size)]


def wav_header(length, tag, channels, rate, bits):
    block = channels * bits // 8
    layout = struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * block, block, bits)
    return (b"RIFF" + struct.pack("<I", length) + b"WAVEfmt " + layout
            + b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"data" + struct.pack("<I", length))


# --- windows and events --------------------------------------------------------------------------------------------

def test_screams_are_found_where_they_are():
    truth = [(4.0, 0.6), (11.3, 1.5), (20.0, 4.0)]
    record = scan([scene(30, truth)], StandIn())
    assert record["verdict"] == "scream" and record["votes"] == 6 and record["duration_s"] == 30
    assert len(record["events"]) == 3
    for event, (onset, duration) in zip(record["events"], truth):
        assert event["start_s"] == pytest.approx(onset, abs=0.2)
        assert event["end_s"] == pytest.approx(onset + duration, abs=0.2)


def test_faint_screams_are_found_within_the_promised_error():
    errors = []
    for seed in range(12):
        onset = 3 + 0.37 * seed
        (event,) = scan([scene(14, [(onset, 1.0)], snr=3, seed=seed)], StandIn(level=0.15))["events"]
        errors.append(abs(event["start_s"] - onset))
    assert np.median(errors) < 0.3


def test_nothing_to_hear():
    for samples in (np.zeros(10 * SAMPLE_RATE, np.float32), np.zeros(1, np.float32)):
        ensemble = StandIn()
        record = scan([samples], ensemble)
        assert ensemble.n_scored == 0  # too quiet to be scored
        assert (record["verdict"], record["probability"], record["votes"], record["events"]) == ("non_scream", 0.0, 0, [])
        assert {vote["verdict"] for vote in record["models"].values()} == {"non_scream"}


def test_silence_before_and_after_a_scream():
    silence, ensemble = np.zeros(10 * SAMPLE_RATE, np.float32), StandIn()
    record = scan([silence, scene(6, [(3.0, 1.0)]), silence], ensemble)
    (event,) = record["events"]
    assert event["start_s"] == pytest.approx(13, abs=0.2) and event["votes"] == record["votes"] == 6
    assert 0 < ensemble.n_scored < 17, "the windows of silence are not"


def test_record_shows_the_strongest_window():
    windows = []
    record = scan([scene(30, [(11.0, 2.0)])], StandIn(), on_window=windows.append)
    best = max(windows, key=lambda window: window.probability)
    assert record["votes"] == best.votes
    assert [vote["probability"] for vote in record["models"].values()] == pytest.approx(best.probabilities, abs=1e-6)
    assert list(record["models"]) == list(StandIn.names)
    assert json.loads(json.dumps(record)) == record


def ranked(windows, with_loud_parts=True):
    """RecordingProbability of ScoredWindows, with what was heard of their loud parts or without."""
    recording = RecordingProbability()
    for window in windows:
        recording.add(window.start_s, window.probability, window.band_level_db,
                      (lambda heard=window.of_loud_part: heard) if with_loud_parts else None)
    return recording.finish()


@pytest.mark.parametrize("seconds, snr, heard_again", [
    (0.5, 12, True), (1.46, 12, True), (1.48, 12, False), (0.5, 43.9, True), (0.5, 44.4, False), (0.5, 60, False),
], ids=["short", "just short enough", "too long", "44.7 dB above the rest", "45.2 dB", "beside silence"])
def test_a_loud_part_is_heard_again_where_it_is_short_and_the_rest_is_not_silence(seconds, snr, heard_again):
    windows, ensemble = [], StandIn(0.75)
    scan([scene(WINDOW_S, [(0.4, seconds)], snr)], ensemble, on_window=windows.append)
    [window] = windows
    assert window.probability > 0.05 and (window.of_loud_part is not None) is heard_again
    assert ensemble.n_scored == (3 if heard_again else 1)


@pytest.mark.parametrize("seconds, onset", [(30, 11.0), (4, 1.2)])
def test_a_recording_is_ranked_by_its_windows_and_their_loud_parts(seconds, onset):
    windows = []
    record = scan([scene(seconds, [(onset, 0.3)], snr=12)], StandIn(0.75), on_window=windows.append)
    assert record["probability"] == pytest.approx(ranked(windows), abs=1e-6)
    heard = [window for window in windows if window.of_loud_part is not None]
    assert heard and all(window.of_loud_part.shape == (2, 6) for window in heard)
    assert ranked(windows) > ranked(windows, with_loud_parts=False) + 0.01, "the tone fills a part of its windows"


def test_the_loud_part_of_a_window_is_heard_once_and_alone():
    class Listens(StandIn):
        def score(self, windows):
            heard.append(windows)
            return super().score(windows)

    samples, recent, ensemble, heard = scene(WINDOW / SAMPLE_RATE, [(1.0, 0.5)]), RecentSamples(), Listens(), []
    recent.add(samples)
    [window] = score_batch([(0, samples, True)], StandIn(), WINDOW_HOP)
    first = hear_loud_part(recent, ensemble, window)
    [looks] = heard
    level = without_offset(samples)
    np.testing.assert_array_equal(looks[0], clean_window(loud_samples(level)))
    np.testing.assert_array_equal(looks[1], clean_window(loud_samples(subtract_own_noise(level))))
    np.testing.assert_array_equal(first, StandIn().score(looks))
    assert hear_loud_part(recent, ensemble, window) is first and len(heard) == 1
    assert hear_loud_part(recent, ensemble, window, 0.6) is first and hear_loud_part(recent, ensemble, window, 0.5) is None
    steady = scene(WINDOW / SAMPLE_RATE, [])
    recent.add(steady)
    [window] = score_batch([(WINDOW, steady, True)], StandIn(), WINDOW_HOP)
    assert hear_loud_part(recent, ensemble, window) is None and len(heard) == 1, "no part is louder than the rest"


def test_an_offset_of_the_recorder_changes_no_loud_part():
    heard = []
    for offset in (0.0, 0.2):
        windows = []
        samples = scene(WINDOW_S, [(0.5, 0.5)], snr=12)[:63_000] + np.float32(offset)  # no multiple of the frames of its level
        scan([samples], StandIn(0.75), on_window=windows.append)
        heard += [window.of_loud_part for window in windows]
    assert len(heard) == 2 and heard[1] == pytest.approx(heard[0], abs=0.01)


def test_cores_touch_and_cover_the_recording():
    for n_samples in (100, WINDOW, WINDOW + 1, 5 * WINDOW + 77):
        for hop in (WINDOW_HOP, 5000, WINDOW):
            windows = list(score_windows([scene(n_samples / SAMPLE_RATE, [])], StandIn(), hop))
            assert windows[0].core[0] == 0
            assert windows[-1].core[1] == pytest.approx(n_samples / SAMPLE_RATE)
            for one, following in itertools.pairwise(windows):
                assert one.core[1] == pytest.approx(following.core[0])


def test_events_come_as_soon_as_they_end():
    """Latency: at most one window plus one hop after the sound's end, here in blocks of 0.1 s."""
    sound, heard, latencies = scene(40, [(5.0, 1.0), (15.7, 2.5), (26.1, 0.5)]), 0, []

    def arriving():
        nonlocal heard
        for block in cut(sound, SAMPLE_RATE // 10):
            heard += len(block)
            yield block

    record = scan(arriving(), StandIn(), batch=1, on_event=lambda event: latencies.append(heard / SAMPLE_RATE))
    assert len(latencies) == 3
    for heard_s, end_s in zip(latencies, (6.0, 18.2, 26.6)):
        assert heard_s - end_s <= WINDOW_S + WINDOW_HOP / SAMPLE_RATE + 0.1
    assert len(record["events"]) == 3


def test_the_start_of_an_event_is_told_while_it_goes_on():
    """A sound of half a minute: told within a window and two hops, as far as it is known, and again when it is over."""
    told, heard = [], 0
    sound = scene(45, [(4.0, 30.0)])

    def arriving():
        nonlocal heard
        for block in cut(sound, 1000):
            heard += len(block)
            yield block

    def note(name):
        return lambda event: told.append((name, heard / SAMPLE_RATE, event))

    record = scan(arriving(), StandIn(), batch=1, on_start=note("start"), on_event=note("event"))
    (first, start_s, begun), (second, end_s, ended) = told
    assert (first, second) == ("start", "event") and [ended] == record["events"]
    assert start_s < 4 + WINDOW_S + 2 * WINDOW_HOP / SAMPLE_RATE and begun["end_s"] <= start_s and end_s > 34
    assert begun["start_s"] == ended["start_s"] and begun["end_s"] < ended["end_s"]


@pytest.mark.parametrize("least_s", [0.0, 4.0])
def test_only_events_that_last_long_enough_are_told(least_s):
    told = []
    settings = EventSettings(min_duration=least_s, padding=0.5)
    record = scan([scene(40, [(4.0, 0.5), (20.0, 10.0)])], StandIn(), settings, on_start=told.append)
    assert [event["start_s"] for event in told] == [event["start_s"] for event in record["events"]]
    assert len(told) == (1 if least_s else 2)


def test_time_of_day_is_that_of_the_start():
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    told, sound = [], scene(20, [(2.0, 1.0)])
    record = scan([sound], StandIn(), on_event=told.append, clock=lambda: now)
    ago_s = (now - datetime.fromisoformat(told[0]["time"])).total_seconds()
    assert ago_s == pytest.approx(20 - told[0]["start_s"], abs=2e-3)  # all of it was there when the first window was scored
    assert record == scan([sound], StandIn())


def test_settings_reach_the_state_machine():
    sound = scene(30, [(5.0, 1.0), (15.0, 3.0)])
    assert [e["start_s"] > 14 for e in scan([sound], StandIn(), EventSettings(min_duration=2))["events"]] == [True]
    assert scan([sound], StandIn(), EventSettings(threshold=1.0))["verdict"] == "non_scream"
    assert scan([sound], StandIn(), EventSettings(max_gap=20))["events"][0]["end_s"] == pytest.approx(18, abs=0.2)


# --- the same answer however the sound arrives ---------------------------------------------------------------------

@pytest.mark.parametrize("size", [1, 777, WINDOW, 10**9])
def test_block_size_changes_nothing(size):
    sound = scene(8.3, [(2.0, 1.2)])
    assert scan(cut(sound, size), StandIn()) == scan(cut(sound, SAMPLE_RATE), StandIn())


def test_batch_size_changes_nothing():
    sound = scene(40, [(5.0, 1.0), (15.0, 3.0)])
    assert scan([sound], StandIn(), batch=1) == scan([sound], StandIn(), batch=32) == scan([sound], StandIn(), batch=7)


def test_a_window_is_not_kept_waiting_and_a_full_pipe_is_scored_in_batches(monkeypatch):
    sound, sizes = scene(60, [(5.0, 1.0)]), []

    class Recorder(StandIn):
        def score(self, windows):
            sizes.append(len(windows))
            return super().score(windows)

    monkeypatch.setattr("utils.scan.hear_loud_part", lambda *_, **__: None)  # its two looks are no windows
    expected = scan([sound], StandIn())
    assert scan(cut(sound, 2205), Recorder(), must_wait=lambda: True) == expected
    assert set(sizes) == {1}
    sizes.clear()
    arriving = ReadAhead(cut(sound, 2205))
    assert scan(slowly(arriving), Recorder(), must_wait=lambda: arriving.n_waiting < WINDOW_HOP) == expected
    assert max(sizes) > 4


def slowly(blocks):
    """Let the reading thread get ahead."""
    for index, block in enumerate(blocks):
        if index % 100 == 0:
            time.sleep(0.1)
        yield block


def test_stopping_ends_a_pipe_that_delivers_faster_than_it_is_scored():
    arriving = ReadAhead(np.zeros(10, np.float32) for _ in itertools.count())
    given = 0
    for _ in arriving:
        given += 1
        if given == 500:
            arriving.stop()
        assert given < 500 + AHEAD_BLOCKS + 5


def test_an_error_while_reading_ahead_arrives():
    with pytest.raises(AudioError, match="not a WAV stream"):
        list(ReadAhead(read_stream(io.BytesIO(b"this is no sound"))))


WAV_KINDS = [("PCM_16", 1, 16), ("PCM_24", 1, 24), ("PCM_32", 1, 32), ("PCM_U8", 1, 8), ("FLOAT", 3, 32), ("DOUBLE", 3, 64)]


@pytest.mark.parametrize(("subtype", "tag", "bits"), WAV_KINDS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 22_050), (1, 16_000), (2, 44_100), (6, 48_000)])
def test_pipe_equals_file(tmp_path, subtype, tag, bits, channels, rate):
    rng = np.random.default_rng(3)
    path = tmp_path / "recording.wav"
    sound = rng.uniform(-0.9, 0.9, (round(2.3 * rate), channels))
    sound[rate // 4 : rate // 2, 1::2] = -sound[rate // 4 : rate // 2, 0 : channels - 1 : 2]  # channels cancel for a while
    soundfile.write(path, sound, rate, subtype=subtype)
    expected = read_audio(path)
    whole = path.read_bytes()
    np.testing.assert_array_equal(np.concatenate(list(read_stream(io.BytesIO(whole)))), expected)
    first = whole.index(b"data") + 8
    samples = whole[first : first + round(2.3 * rate) * channels * bits // 8]
    for length in (0, 0xFFFFFFFF, 0x7FFFF000):  # what a streaming writer leaves in the header
        assert read_wav_header(io.BytesIO(wav_header(length, tag, channels, rate, bits)))[-1] is None
        stream = io.BytesIO(wav_header(length, tag, channels, rate, bits) + samples)
        np.testing.assert_array_equal(np.concatenate(list(read_stream(stream))), expected)
    if bits == 16:
        raw = np.concatenate(list(read_stream(io.BytesIO(samples), raw_rate=rate, raw_channels=channels)))
        np.testing.assert_array_equal(raw, expected)


@pytest.mark.parametrize(("format_", "advice"), [("WAV", "leave --raw-rate out"), ("RF64", "leave --raw-rate out"),
                                                 ("FLAC", "give the file itself"), ("OGG", "give the file itself")])
def test_a_file_is_not_taken_for_raw_samples(format_, advice):
    whole = io.BytesIO()
    soundfile.write(whole, np.zeros(1000), 22_050, format=format_)
    whole.seek(0)
    with pytest.raises(AudioError, match=f"(?i)begins as a {'WAV' if format_ == 'RF64' else format_} file.*{advice}"):
        list(read_stream(whole, raw_rate=22_050))


@pytest.mark.filterwarnings("error")
def test_samples_beyond_float32_are_silence_as_in_a_file(tmp_path):
    sound = np.full(2000, 0.5)
    sound[700] = 1e300
    soundfile.write(tmp_path / "a.wav", sound, 22_050, subtype="DOUBLE")
    streamed = np.concatenate(list(read_stream(io.BytesIO((tmp_path / "a.wav").read_bytes()))))
    assert streamed[700] == 0
    np.testing.assert_array_equal(streamed, read_audio(tmp_path / "a.wav"))


def test_a_pipe_that_stalls_is_told_once_a_pause(monkeypatch, capsys):
    def blocks():
        for pause_s in (0, 0.9, 0, 0.9, 0):
            time.sleep(pause_s)
            yield np.zeros(100, np.float32)

    monkeypatch.setattr("utils.pipe.STALL_S", 0.3)
    assert len(list(ReadAhead(blocks()))) == 5
    assert capsys.readouterr().err == 2 * "warning: standard input: no sound has come for 0.3 s; still waiting\n"


def test_a_pipe_that_does_not_wait_is_waited_for():
    """Its other end may set O_NONBLOCK: then nothing to read is not the end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def write_slowly():
        with open(writing, "wb", buffering=0) as stream:
            for part in (b"ab", b"cde", b"f"):
                time.sleep(0.05)
                stream.write(part)

    threading.Thread(target=write_slowly).start()
    with open(reading, "rb", buffering=0) as stream:
        assert read_exactly(stream, 4) == b"abcd" and read_exactly(stream, 4) == b"ef"


class Drip(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def read(self, n=-1):
        part = self.content[self.at : self.at + min(n, 100 + self.at % 37)]
        self.at += len(part)
        return part


def test_slow_pipe_equals_file(tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, scene(6, [(2.0, 1.0)]), SAMPLE_RATE)
    assert scan(read_stream(Drip(path.read_bytes())), StandIn()) == scan(read_blocks(path), StandIn(), file="-")


def test_bytes_after_the_samples_are_not_sound(tmp_path):
    path = tmp_path / "recording.wav"
    soundfile.write(path, scene(1, []), SAMPLE_RATE)
    stream = io.BytesIO(path.read_bytes() + b"LIST\x04\0\0\0abcd")
    np.testing.assert_array_equal(np.concatenate(list(read_stream(stream))), read_audio(path))


def with_chunks(content, chunks, long_size=None):
    """A WAV with more chunks before "fmt "; as RF64, whose chunk ds64 gives the size of the samples, if that is given."""
    form, rest = content[:12], content[12:]
    if long_size is not None:
        form, at = b"RF64" + form[4:], rest.index(b"data") + 4
        rest = rest[:at] + b"\xff\xff\xff\xff" + rest[at + 4 :]
        chunks = [(b"ds64", struct.pack("<QQQI", 0, long_size, 0, 0)), *chunks]
    return form + b"".join(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for name, body in chunks) + rest


@pytest.mark.parametrize("chunks", [[], [(b"ID3 ", bytes(3_000_001))], [(b"LIST", b"abc"), (b"junk", bytes(1000))]])
@pytest.mark.parametrize("long", [False, True])
def test_what_else_a_wav_holds_is_no_sound(tmp_path, chunks, long):
    path = tmp_path / "a.wav"
    soundfile.write(path, scene(1, []), SAMPLE_RATE)
    content = with_chunks(path.read_bytes(), chunks, 2 * SAMPLE_RATE if long else None) + b"LIST\x04\0\0\0abcd"
    np.testing.assert_array_equal(np.concatenate(list(read_stream(io.BytesIO(content)))), read_audio(path))


@pytest.mark.parametrize("long_size", [0, 2**64 - 1])
def test_a_length_that_nobody_knows_means_until_the_end(tmp_path, long_size):
    path = tmp_path / "a.wav"
    soundfile.write(path, scene(1, []), SAMPLE_RATE)
    content = with_chunks(path.read_bytes(), [], long_size)
    np.testing.assert_array_equal(np.concatenate(list(read_stream(io.BytesIO(content)))), read_audio(path))


@pytest.mark.parametrize(("content", "says"), [
    (b"", "nothing arrived"),
    (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\x7f", "damaged WAV header"),
    (b"RIFF\0\0\0\0WAVEID3 \xff\0\0\0abc", "ends before its samples"),
    (b"hello, this is not sound", "not a WAV stream"),
    (wav_header(0, 1, 1, 22_050, 16)[:30], "ends before its samples"),
    (wav_header(0, 1, 1, 22_050, 16), "holds no samples"),
    (wav_header(0, 85, 1, 22_050, 16), "format 85"),
    (wav_header(0, 2, 1, 22_050, 4), "format 2 with 4 bits is not supported"),
    (wav_header(0, 1, 1, 22_050, 24).replace(struct.pack("<HH", 3, 24), struct.pack("<HH", 4, 24)), "24 bits in other cont"),
    (wav_header(0, 1, 0, 22_050, 16), "0 channels"),
    (wav_header(0, 1, 1, 5, 16), "5 Hz"),
    (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "damaged WAV header"),
])
def test_bad_streams_are_one_sentence(content, says):
    with pytest.raises(AudioError, match=f"standard input: .*{says}"):
        list(read_stream(io.BytesIO(content)))


def test_torn_last_frame_is_dropped():
    samples = np.arange(-500, 500, dtype="<i2").tobytes()
    whole = np.concatenate(list(read_stream(io.BytesIO(samples), SAMPLE_RATE, 2)))
    torn = np.concatenate(list(read_stream(io.BytesIO(samples + b"abc"), SAMPLE_RATE, 2)))
    np.testing.assert_array_equal(torn, whole)


def test_memory_does_not_grow_with_the_recording():
    def peak(minutes):
        block = scene(1, [])
        tracemalloc.start()
        scan((block.copy() for _ in range(minutes * 60)), StandIn())
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(1)
    assert peak(20) < peak(5) + 1e6  # bytes; in less than 4 minutes not all that may be held is there


def scan_probabilities(monkeypatch, probabilities, votes=4, heard=1.0, heard_before=0.0, heard_votes=0, **settings):
    """The events of a recording whose windows have these probabilities, and from 0.5 on a majority of so many votes.

    heard, heard_before: what a second look hears in the window that is judged, and in those before it; heard_votes: in all.
    """
    starts = np.arange(len(probabilities)) * 1.4745
    windows = [ScoredWindow(start, start + WINDOW_S, (start, start + 1.4), 0.0, 0.0, np.full(6, p), p,
                            votes * (p >= 0.5), p >= 0.5) for start, p in zip(starts, probabilities)]
    silence = [np.zeros(int(len(windows) * 1.5 * SAMPLE_RATE), np.float32)]  # so long that all events lie inside
    monkeypatch.setattr("utils.scan.score_windows", lambda blocks, *_: [*zip(blocks)] and windows)
    monkeypatch.setattr("utils.scan.second_look", lambda recent, ensemble, judged_s, starts_s, known_s: (
        np.array([heard if start_s == judged_s else heard_before for start_s in starts_s]), [heard_votes] * len(starts_s)))
    return scan(silence, StandIn(), EventSettings(**settings))["events"]


def test_a_window_that_stands_out_from_noise_is_an_event(monkeypatch):
    calm = [0.04] * 40
    [event] = scan_probabilities(monkeypatch, [*calm, 0.4, *calm])
    assert event["start_s"] == pytest.approx(40 * 1.4745, abs=1e-3)
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], contrast=False)
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], threshold=0.45)
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], min_votes=1)
    assert scan_probabilities(monkeypatch, [0.05] * 3 + [0.4] + calm)  # early: what comes after is its background
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], heard=0.265)
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], heard=0.6, heard_before=0.65)
    assert scan_probabilities(monkeypatch, [*calm, 0.4, *calm], heard=0.265, second_look=0.265)
    assert not scan_probabilities(monkeypatch, [*calm, 0.4, *calm], heard=0.6, heard_before=0.45, second_look=0.61)
    assert scan_probabilities(monkeypatch, [*calm, 0.9, *calm], heard=0.3)  # the vote is sure


@pytest.mark.parametrize("window, heard, votes, told", [
    ([0.3], 0.6, 3, (0.6, 3)), ([0.4], 0.37, 2, (0.4, 2)), ([0.7], 0.6, 5, (0.7, 5)), ([0.7], 0.8, 3, (0.8, 4)),
    ([0.9], 0.95, 6, (0.9, 4)), ([0.3, 0.32, 0.1], 0.6, 1, (0.6, 1))],
    ids=["heard better", "not better", "more votes", "more probable", "sure: no second look", "two windows"])
def test_an_event_tells_the_most_probable_look(monkeypatch, window, heard, votes, told):
    [event] = scan_probabilities(monkeypatch, [0.04] * 40 + window + [0.04] * 40, heard=heard, heard_votes=votes)
    assert (event["probability"], event["votes"]) == told


def test_a_look_that_makes_no_event_is_not_told(monkeypatch):
    """The vote is sure of a window; the one after it goes on with the event, but does not stand out on a second look."""
    windows = [0.04] * 40 + [0.85, 0.45] + [0.04] * 40
    [event] = scan_probabilities(monkeypatch, windows, heard=0.9, heard_before=0.9, heard_votes=6)
    assert (event["probability"], event["votes"]) == (0.85, 4)


@pytest.mark.parametrize("size", [1000, SAMPLE_RATE, 10**9])
def test_recent_samples_can_be_asked_for_again(size):
    samples, recent = np.arange(5 * SAMPLE_RATE, dtype=np.float32), RecentSamples()
    for block in recent.remember(cut(samples, size)):
        assert recent.end and block[-1] == recent.end - 1
    assert recent.end == len(samples)
    recent.forget(3.0)
    for first, last in ((3 * SAMPLE_RATE, 4 * SAMPLE_RATE), (90_001, 100_000), (100_000, 10**6), (10**6, 10**7)):
        np.testing.assert_array_equal(recent.cut(first / SAMPLE_RATE, last / SAMPLE_RATE), samples[first:last])
    assert sum(len(block) for _, block in recent.blocks) < 2 * SAMPLE_RATE + size


def noisy_recording(snr, seed=3):
    """30 s of noise, a tone of 0.8 s at 25 s: samples, and RecentSamples that holds them."""
    samples, recent = scene(30, [(25.0, 0.8)], snr, seed), RecentSamples()
    recent.add(samples)
    return samples, recent


def test_a_second_look_hears_less_of_the_background():
    samples, recent = noisy_recording(snr=-3)
    start_s, ensemble = 24.0, StandIn()
    window = samples[24 * SAMPLE_RATE : 24 * SAMPLE_RATE + WINDOW]
    at_first, _, _ = ensemble.combine(ensemble.score(clean_window(window)[None]))
    (look, noise_alone), votes = second_look(recent, ensemble, start_s, [start_s, 15.0])
    assert at_first < 0.35 < 0.5 < look and noise_alone < 0.1
    assert votes.tolist() == [6, 0]


def test_a_second_look_scores_the_loud_part_with_and_without_the_noise():
    samples, recent = noisy_recording(snr=20)
    first = 24 * SAMPLE_RATE
    noise = noise_power(samples[: round((24.0 - SAME_SOUND_S) * SAMPLE_RATE)])
    scored = []

    class Recorder(StandIn):
        def score(self, windows):
            scored.extend(windows)
            return np.array([[0.2] * 6, [0.3, 0.4, 0.7, 0.79, 0.81, 0.9]])

        def combine(self, probabilities):
            odds = np.sqrt(0.25 * np.array([3 / 7, 2 / 3, 7 / 3, 79 / 21, 81 / 19, 9]))  # the mean of both in log-odds
            np.testing.assert_allclose(probabilities, [odds / (1 + odds)])
            return super().combine(probabilities)

    probability, votes = second_look(recent, Recorder(), 24.0, [24.0])
    assert 0.3 < probability[0] < 0.5 and votes.tolist() == [2]
    window = samples[first : first + WINDOW]
    window = without_offset(window)
    for heard, sound in zip(scored, (window, subtract_noise(window, noise))):
        start, end = (round(moment * SAMPLE_RATE) for moment in loud_part(sound))
        assert 0.6 < (end - start) / SAMPLE_RATE < 1.2
        np.testing.assert_array_equal(heard, clean_window(sound[start:end]))


def weak_and_loud(seconds, weak_at, loud_at=()):
    """Noise with tones of 0.7 s: some that no model calls a scream, but that stand out, and some that all of them do."""
    silence = scene(seconds, [])
    weak, loud = (scene(seconds, [(at, 0.7) for at in times], snr) - silence for times, snr in ((weak_at, 0), (loud_at, 20)))
    return silence + weak + loud


@pytest.mark.parametrize("loud_at", [8.0, 12.0, 30.0])
def test_a_loud_scream_does_not_hide_a_weak_one_before_it(loud_at):
    [weak] = scan([weak_and_loud(40, [1.0])], StandIn())["events"]
    first, second = scan([weak_and_loud(40, [1.0], [loud_at])], StandIn())["events"]
    assert (first["start_s"], first["end_s"]) == (weak["start_s"], weak["end_s"]) and weak["start_s"] < 1.5 < weak["end_s"]
    assert second["votes"] == 6 and second["start_s"] == pytest.approx(loud_at, abs=0.2)


@pytest.mark.parametrize("size", [777, 70_000])
@pytest.mark.parametrize("weak_at, loud_at", [([1.0], [8.0]), ([3.0], []), ([10.5], [4.0])])
def test_early_events_do_not_hang_on_how_the_sound_arrives(size, weak_at, loud_at):
    for seconds in (6, 16, 40):
        samples = weak_and_loud(seconds, [at for at in weak_at if at < seconds - 1], [at for at in loud_at if at < seconds - 1])
        whole = scan([samples], StandIn())
        assert scan(cut(samples, size), StandIn(), batch=1 + size % 5) == whole
        assert whole["events"] or seconds == 6


def test_an_event_that_waited_tells_when_its_sound_came():
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def played():
        nonlocal now
        for block in cut(weak_and_loud(8, [2.0]), SAMPLE_RATE):
            now += timedelta(seconds=1)
            yield block
        now += timedelta(minutes=10)  # the camera hangs before the stream ends

    told = []
    scan(played(), StandIn(), on_event=told.append, clock=lambda: now, must_wait=lambda: True)
    [event] = told
    assert event["time"].startswith("2026-01-01T00:00:0")


def test_a_second_look_takes_out_the_noise_after_a_window_too(monkeypatch):
    samples, recent = noisy_recording(snr=20)
    asked = []
    monkeypatch.setattr("utils.scan.noise_power", lambda noise: asked.append(noise) or noise_power(noise))
    for known_s in (None, 30.0):
        second_look(recent, StandIn(), 10.0, [10.0], known_s)
    before, after = (round(moment * SAMPLE_RATE) for moment in (10.0 - SAME_SOUND_S, 10.0 + WINDOW_S))
    np.testing.assert_array_equal(asked[0], samples[:before])
    np.testing.assert_array_equal(asked[1], np.concatenate([samples[:before], samples[after:]]))


@pytest.mark.parametrize("offset", [-0.3, 0.01, 0.1])
def test_an_offset_changes_nothing_on_a_second_look(offset):
    samples, recent = noisy_recording(snr=6)
    shifted = RecentSamples()
    shifted.add(samples + np.float32(offset))
    starts_s = [24.0, 15.0]
    np.testing.assert_allclose(second_look(shifted, StandIn(), 24.0, starts_s)[0],
                               second_look(recent, StandIn(), 24.0, starts_s)[0], atol=0.02)


@pytest.mark.parametrize("offset", [-0.3, 0.05, 0.2])
def test_an_offset_does_not_move_the_limits_of_an_event(offset):
    samples = scene(8, [(3.0, 0.7)])
    [event], [shifted] = (scan([sound], StandIn())["events"] for sound in (samples, samples + np.float32(offset)))
    assert 2.9 < event["start_s"] < 3.05 < 3.65 < event["end_s"] < 3.8
    assert (shifted["start_s"], shifted["end_s"]) == (event["start_s"], event["end_s"])


def test_silence_before_is_no_background_on_a_second_look():
    samples, half_silent = noisy_recording(snr=3)[0].copy(), RecentSamples()
    samples[: 16 * SAMPLE_RATE] = 0
    half_silent.add(samples)
    look, _ = second_look(noisy_recording(snr=3)[1], StandIn(), 24.0, [24.0])
    assert second_look(half_silent, StandIn(), 24.0, [24.0])[0] == pytest.approx(look, abs=0.02)


def test_what_is_too_quiet_without_the_noise_is_heard_as_it_is():
    """At -60 dBFS and 20 dB less nothing of a window of noise is left to score; the scream in it is heard as it is."""
    samples = scene(30, [], seed=3)
    quiet = RecentSamples()
    quiet.add(samples * np.float32(1e-3 / np.abs(samples).max()))
    scored = []

    class Recorder(StandIn):
        def score(self, windows):
            scored.extend(windows)
            return super().score(windows)

    assert second_look(quiet, Recorder(), 24.0, [24.0])[0] > 0
    np.testing.assert_array_equal(scored[0], scored[1])


def test_nothing_is_heard_in_silence_on_a_second_look():
    recent = RecentSamples()
    recent.add(np.zeros(30 * SAMPLE_RATE, np.float32))
    probability, votes = second_look(recent, StandIn(), 25.0, [25.0, 20.0])
    assert probability.tolist() == pytest.approx([0.0, 0.0], abs=1e-3) and votes.tolist() == [0, 0]


def test_the_second_look_is_the_same_however_the_sound_arrives(monkeypatch):
    """A scream that no window is sure of, after a while of noise; real windows, looked at again."""
    samples, looks = scene(50, [(40.2, 0.5)], snr=9), []

    def noted(recent, ensemble, judged_s, starts_s, known_s):
        probability, votes = second_look(recent, ensemble, judged_s, starts_s, known_s)
        looks.append((judged_s, list(starts_s), list(probability), list(votes)))
        return probability, votes

    monkeypatch.setattr("utils.scan.second_look", noted)

    def found(blocks, threads=1, **options):
        ensemble = StandIn(level=0.9)
        ensemble.threads = threads
        looks.clear()
        record = scan(blocks, ensemble, **options)
        return record, list(looks)

    record, seconds = found([samples])
    assert len(record["events"]) == 1 and any(38 < judged_s < 40.5 and len(starts) == 3 for judged_s, starts, _, _ in seconds)
    for size, options in ((7777, {"batch": 1}), (1000, {"batch": 7}), (50_000, {"threads": 2}),
                          (9000, {"must_wait": lambda: True})):
        assert found(cut(samples, size), **options) == (record, seconds)
    for settings in (EventSettings(threshold=0.3), EventSettings(min_votes=1), EventSettings(contrast=False)):
        assert found([samples], settings=settings)[1] == []  # nothing is scored for nothing


def test_windows_too_quiet_to_be_scored_are_no_background(monkeypatch):
    assert not scan_probabilities(monkeypatch, [0.0] * 60 + [0.4])
    assert len(scan_probabilities(monkeypatch, [0.55] * 40 + [0.0] * 10 + [0.4])) == 1  # without the last
    assert scan_probabilities(monkeypatch, [0.04] * 40 + [0.0] * 10 + [0.4])


def test_a_silence_of_minutes_is_longer_than_the_memory_of_the_background(monkeypatch):
    scream = [0.05] * 40 + [0.75] * 3
    assert len(scan_probabilities(monkeypatch, [*scream, *[0.0] * 3, 0.6])) == 1
    assert len(scan_probabilities(monkeypatch, [*scream, *[0.0] * 300, 0.6])) == 2


def test_a_sound_that_the_vote_calls_a_scream_again_and_again_is_background(monkeypatch):
    calls, heard = [0.55, 0.1, 0.1, 0.1] * 40, {"heard": 0.7, "heard_before": 0.65}
    events = scan_probabilities(monkeypatch, calls, **heard)
    assert 2 <= len(events) <= 3 and events[-1]["end_s"] < 15  # until some ten seconds are known, and not after
    assert len(scan_probabilities(monkeypatch, calls, contrast=False)) == 40
    assert len(scan_probabilities(monkeypatch, [0.85, 0.1, 0.1, 0.1] * 40, **heard)) == 40  # the vote is sure
    assert len(scan_probabilities(monkeypatch, calls, votes=6, **heard)) == 40
    assert len(scan_probabilities(monkeypatch, [*calls[:80], 0.9, *calls[81:]], **heard)) == len(events) + 1
