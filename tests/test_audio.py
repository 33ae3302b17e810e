"""utils.audio: every format and rate, blocks that equal the file, cleaning, windows and their times."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils import audio
from utils.audio import AudioError, clean_window, cut_windows, read_audio, read_blocks, trim_silence, window_starts
from utils.features import describe_window
from utils.signal_settings import SAMPLE_RATE, WINDOW, WINDOW_HOP

FORMATS = {  # ending: (subtype, largest error of a sample)
    "8-bit.wav": ("PCM_U8", 0.01), "16-bit.wav": ("PCM_16", 1e-3), "24-bit.wav": ("PCM_24", 1e-3), "32-bit.wav": ("PCM_32", 1e-3),
    "float.wav": ("FLOAT", 1e-3), "double.wav": ("DOUBLE", 1e-3), "u-law.wav": ("ULAW", 0.03), "16-bit.flac": ("PCM_16", 1e-3),
    "24-bit.flac": ("PCM_24", 1e-3), "vorbis.ogg": ("VORBIS", 0.1), "mp3.mp3": ("MPEG_LAYER_III", 0.1),
    "aiff.aiff": ("PCM_16", 1e-3), "au.au": ("PCM_16", 1e-3),
}


def sine(rate, seconds=1.0, hz=440.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("ending", "channels"), [
    (ending, channels) for ending in FORMATS for channels in (1, 2, 6) if (ending, channels) != ("mp3.mp3", 6)])
def test_every_format_gives_the_same_tone(tmp_path, ending, channels):
    subtype, allowed = FORMATS[ending]
    soundfile.write(tmp_path / ending, np.tile(sine(SAMPLE_RATE)[:, None], channels), SAMPLE_RATE, subtype=subtype)
    samples = read_audio(tmp_path / ending)
    assert samples.dtype == np.float32 and samples.shape == (SAMPLE_RATE,)
    assert np.abs(samples - sine(SAMPLE_RATE))[500:-500].max() < allowed  # codecs ring at the ends


@pytest.mark.parametrize("length, told", [(44_100, False), (44_107, False), (44_108, True), (1_000_000, True),
                                          (0x7FFF0000, False), (0xFFFFFFFF, False)])
def test_a_wav_that_lacks_samples_is_said_to(tmp_path, capsys, length, told):
    """Not one whose writer, a pipe, could not know the length."""
    soundfile.write(tmp_path / "tone.wav", sine(SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16")
    whole = (tmp_path / "tone.wav").read_bytes()
    at = whole.index(b"data") + 4
    assert whole[at : at + 4] == (44_100).to_bytes(4, "little")
    (tmp_path / "tone.wav").write_bytes(whole[:at] + length.to_bytes(4, "little") + whole[at + 4 :])
    assert len(read_audio(tmp_path / "tone.wav")) == SAMPLE_RATE
    said = capsys.readouterr().err
    assert said == (f"warning: {tmp_path}/tone.wav: is damaged or cut off; 1.0 s could be decoded\n" if told else "")


@pytest.mark.parametrize("comment", [b"INFO", b"INFOICMT\x0e\0\0\0metadata: site", b"x" * 6001])
def test_unfinished_wav_begins_at_its_data_chunk(tmp_path, comment):
    """A recorder that stopped before it wrote the lengths, with a chunk of notes before the samples."""
    tone = sine(SAMPLE_RATE)
    soundfile.write(tmp_path / "whole.wav", tone, SAMPLE_RATE, subtype="PCM_16")
    whole = (tmp_path / "whole.wav").read_bytes()
    at = whole.index(b"data")
    notes = b"LIST" + len(comment).to_bytes(4, "little") + comment + bytes(len(comment) % 2)
    (tmp_path / "cut.wav").write_bytes(whole[:4] + bytes(4) + whole[8:at] + notes + b"data" + bytes(4) + whole[at + 8 :])
    assert np.array_equal(read_audio(tmp_path / "cut.wav"), read_audio(tmp_path / "whole.wav"))
    with audio.open_sound_file(tmp_path / "cut.wav") as opened:
        assert not opened.source.closed
    assert opened.source.closed


@pytest.mark.parametrize("rate", [8_000, 8_363, 11_025, 16_000, 22_254, 24_000, 32_000, 44_100, 48_000, 96_000])
def test_every_rate_becomes_22050(tmp_path, rate):
    soundfile.write(tmp_path / "tone.wav", sine(rate), rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "tone.wav")
    assert abs(len(samples) - SAMPLE_RATE) <= 1
    inside = slice(1000, -1000)
    assert np.abs(samples - sine(SAMPLE_RATE)[: len(samples)])[inside].max() < 1e-3  # in time, level and frequency


@pytest.mark.parametrize("rate", [8_363, 22_050, 44_100, 48_000])
def test_resampling_does_not_depend_on_the_block_size(rate):
    samples = np.random.default_rng(0).standard_normal(rate * 3).astype(np.float32)
    whole = np.concatenate(list(audio.resample_blocks([samples], rate)))
    for size in (1, 37, 512, rate, 2 * rate + 1) if rate < 44_100 else (512, rate):
        blocks = (samples[i : i + size] for i in range(0, len(samples), size))
        np.testing.assert_array_equal(np.concatenate(list(audio.resample_blocks(blocks, rate))), whole)


def test_file_equals_its_blocks_equals_any_other_cut(tmp_path):
    stereo = np.random.default_rng(0).standard_normal((100_000, 2)) * 0.1
    soundfile.write(tmp_path / "stereo.wav", stereo, 44_100)
    whole = read_audio(tmp_path / "stereo.wav")
    blocks = list(read_blocks(tmp_path / "stereo.wav"))
    assert len(blocks) > 2 and np.array_equal(np.concatenate(blocks), whole)
    expected = list(cut_windows(blocks))
    for size in (1_000, 70_000, len(whole)):
        again = list(cut_windows(whole[i : i + size] for i in range(0, len(whole), size)))
        assert [start for start, _ in again] == [start for start, _ in expected]
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(again, expected))


def test_mp3_in_blocks_equals_mp3_in_one_piece(tmp_path):
    noise = np.cumsum(np.random.default_rng(0).standard_normal(SAMPLE_RATE * 20))
    soundfile.write(tmp_path / "noise.mp3", 0.9 * noise / np.abs(noise).max(), SAMPLE_RATE)
    whole, _ = soundfile.read(tmp_path / "noise.mp3", dtype="float32")
    assert np.abs(read_audio(tmp_path / "noise.mp3") - whole).max() < 1e-5


def test_an_mp3_goes_on_after_a_damaged_stretch(tmp_path, capfd):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE * 30)
    soundfile.write(tmp_path / "noise.mp3", noise, SAMPLE_RATE)
    data = bytearray((tmp_path / "noise.mp3").read_bytes())
    third = len(data) // 3
    data[third : third + 20_000] = bytes(20_000)
    (tmp_path / "damaged.mp3").write_bytes(data)
    lost = 30 - len(read_audio(tmp_path / "damaged.mp3")) / SAMPLE_RATE
    assert lost == pytest.approx(30 * 20_000 / len(data), abs=2.5)  # the stretch and what hangs on it, not the rest
    assert "is damaged or cut off" in capfd.readouterr().err


def test_a_file_is_closed_after_use_and_after_an_error(tmp_path):
    soundfile.write(tmp_path / "good.wav", sine(SAMPLE_RATE, 3), SAMPLE_RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF" * 20)
    soundfile.write(tmp_path / "absurd.wav", sine(100), 100)
    before = len(os.listdir("/proc/self/fd"))
    read_audio(tmp_path / "good.wav")
    next(read_blocks(tmp_path / "good.wav"))  # read no further
    for name in ("bad.wav", "absurd.wav"):
        with pytest.raises(AudioError):
            read_audio(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_channels_are_averaged_unless_they_cancel():
    left = sine(SAMPLE_RATE).astype(np.float32)
    right = sine(SAMPLE_RATE, hz=700).astype(np.float32)
    np.testing.assert_allclose(audio.mono(np.stack([left, right], axis=1)), (left + right) / 2, atol=1e-6)
    np.testing.assert_allclose(audio.mono(np.stack([left, 0 * left], axis=1)), left / 2, atol=1e-6)
    np.testing.assert_array_equal(audio.mono(np.stack([0.9 * left, -left], axis=1)), -left)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_one_impossible_sample_becomes_zero(value):
    assert audio.mono(np.array([[0.5], [value], [-0.5]], np.float32)).tolist() == [0.5, 0, -0.5]


def test_nan_inf_and_absurd_samples_become_zero():
    block = np.array([[0.5], [np.nan], [np.inf], [-np.inf], [1e30], [-0.5]], np.float32)
    assert audio.mono(block).tolist() == [0.5, 0, 0, 0, 0, -0.5]


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """An `ffmpeg` on PATH that notes its arguments and answers with one second of stereo, channels in opposite phase."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "ffmpeg"
    script.write_text(f"""#!{sys.executable}
import json, sys
json.dump(sys.argv[1:], open({str(tmp_path / "arguments.json")!r}, "w"))
import array
sys.stdout.buffer.write(array.array("f", [0.25, -0.25] * {SAMPLE_RATE}).tobytes() + b"abc")
""")
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "arguments.json"


@pytest.mark.parametrize("name", ["clip.m4a", "-i.m4a", "two words.m4a", "a\nb.m4a", "grün.m4a", "$(touch x);`id`'\".m4a"])
def test_other_formats_go_through_ffmpeg_whatever_their_name(tmp_path, monkeypatch, fake_ffmpeg, name):
    import json

    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A ")
    samples = read_audio(name)
    assert len(samples) == SAMPLE_RATE and (np.abs(samples) == 0.25).all()  # opposite phase does not cancel
    arguments = json.loads(fake_ffmpeg.read_text())
    assert arguments[arguments.index("-i") + 1] == str(tmp_path / name)  # absolute: never taken for an option
    assert arguments[arguments.index("-protocol_whitelist") + 1] == "file"
    assert sorted(os.listdir(tmp_path)) == sorted([name, "bin", "arguments.json"])


def test_real_ffmpeg_when_there_is_one(tmp_path):
    import shutil

    if not shutil.which("ffmpeg"):
        pytest.skip("no ffmpeg on PATH")
    soundfile.write(tmp_path / "tone.wav", sine(44_100, 3), 44_100)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "tone.wav", tmp_path / "tone.m4a"], check=True)
    samples = read_audio(tmp_path / "tone.m4a")
    assert len(samples) == pytest.approx(3 * SAMPLE_RATE, abs=3000)
    assert np.abs(np.fft.rfft(samples[:SAMPLE_RATE])).argmax() == 440


# --- cleaning ---


@pytest.mark.parametrize("n_samples", [1, 511, 512, 700, 2048, 22_050, 51_200])
def test_trimming_is_librosas(n_samples):
    import librosa

    rng = np.random.default_rng(n_samples)
    shortened = 0
    for floor in (0.0, 1e-7, 0.9e-3, 1.2e-3, 0.1):  # of the ends, beside noise of 1: some are silence, some are not
        for _ in range(20):
            first, last = np.sort(rng.integers(0, n_samples + 1, 2))
            samples = rng.standard_normal(n_samples).astype(np.float32) * 10 ** rng.uniform(-7, 0)
            samples[:first] *= np.float32(floor)
            samples[last:] *= np.float32(floor)
            expected, (expected_first, _) = librosa.effects.trim(samples, top_db=60)
            kept, kept_first = trim_silence(samples)
            np.testing.assert_array_equal(kept, expected)
            assert kept_first == expected_first
            shortened += len(kept) < n_samples
    assert shortened or n_samples <= 1024  # no end of a short clip lies outside the frames of the sound


def test_cleaning_removes_offset_and_normalises_the_peak():
    window = clean_window(0.1 * sine(SAMPLE_RATE) + 0.3)
    assert window.dtype == np.float32 and window.shape == (WINDOW,)
    assert np.abs(window).max() == pytest.approx(1, abs=1e-3)
    assert abs(window[:SAMPLE_RATE].mean()) < 1e-4
    assert np.array_equal(window[SAMPLE_RATE : 2 * SAMPLE_RATE], window[:SAMPLE_RATE])  # repeated to fill the window


def test_a_click_is_not_repeated_into_a_tone():
    window = clean_window(np.array([0.0, 1.0, -1.0, 0.0], np.float32))
    assert np.count_nonzero(window) == 2 * (WINDOW // (SAMPLE_RATE // 2)) + 2 * (WINDOW % (SAMPLE_RATE // 2) > 2)


def test_gain_is_bounded_and_quiet_windows_are_nothing():
    assert np.abs(clean_window(1e-3 * sine(SAMPLE_RATE, 2))).max() == pytest.approx(0.281, rel=1e-2)  # 55 dB, not 66
    assert clean_window(4e-4 * sine(SAMPLE_RATE, 2)) is None
    assert clean_window(np.zeros(WINDOW)) is None and clean_window(np.ones(WINDOW)) is None
    assert clean_window([]) is None


@pytest.mark.parametrize("shape", [(WINDOW + 1,), (10, 2), (0, 2), ()])
def test_a_window_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="at most 65024 samples of one channel"):
        clean_window(np.zeros(shape))


# --- windows ---


@pytest.mark.parametrize(("n_samples", "starts"), [
    (0, []), (1, [0]), (WINDOW, [0]), (WINDOW + 1, [0, WINDOW_HOP]), (WINDOW + WINDOW_HOP, [0, WINDOW_HOP]),
    (WINDOW + WINDOW_HOP + 1, [0, WINDOW_HOP, 2 * WINDOW_HOP]),
])
def test_window_starts(n_samples, starts):
    assert window_starts(n_samples) == starts


@pytest.mark.parametrize("n_samples", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + WINDOW_HOP, 4 * WINDOW])
@pytest.mark.parametrize("block", [100, WINDOW_HOP, WINDOW, 5 * WINDOW])
def test_cutting_blocks_gives_exactly_the_window_starts(n_samples, block):
    samples = np.arange(n_samples, dtype=np.float32)
    windows = list(cut_windows(samples[i : i + block] for i in range(0, n_samples, block)))
    assert [start for start, _ in windows] == window_starts(n_samples)


@pytest.mark.parametrize("hop", [0, -1, WINDOW + 1])
def test_windows_that_would_leave_gaps_are_refused(hop):
    with pytest.raises(ValueError, match="must follow each other"):
        window_starts(WINDOW, hop)
    with pytest.raises(ValueError, match="must follow each other"):
        list(cut_windows([], hop))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 150_000), max_size=5), hop=st.integers(5_000, WINDOW))
def test_windows_cover_every_recording_whatever_the_blocks(sizes, hop):
    samples = np.arange(sum(sizes), dtype=np.float32)  # sample i has the value i
    blocks = np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []
    windows = list(cut_windows(blocks, hop))
    assert [start for start, _ in windows] == window_starts(len(samples), hop)
    covered = 0
    for index, (start, window) in enumerate(windows):
        assert start <= covered and window[0] == start  # no gap; times are those of the recording
        assert np.array_equal(window, samples[start : start + WINDOW])
        assert len(window) == WINDOW or index == len(windows) - 1
        covered = start + len(window)
    assert covered == len(samples)


# --- properties: any array at all ---

ANY_FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
ANY_SAMPLES = st.one_of(
    *[hnp.arrays(dtype, st.integers(0, 400)) for dtype in (np.float32, np.float64, np.float16, np.int16, np.int32, np.uint8)],
    st.tuples(st.integers(1, WINDOW), ANY_FLOATS).map(lambda pair: np.full(pair[0], pair[1], np.float32)),
    st.tuples(st.integers(1, WINDOW), st.floats(-9, 9), st.integers(0, 99)).map(
        lambda drawn: (np.random.default_rng(drawn[2]).standard_normal(drawn[0]) * 10.0 ** drawn[1]).astype(np.float32)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(samples=ANY_SAMPLES)
def test_any_samples_give_a_clean_window_with_finite_features_or_nothing(samples):
    window = clean_window(samples)
    if window is None:
        return
    assert window.shape == (WINDOW,) and window.dtype == np.float32
    assert np.isfinite(window).all() and np.abs(window).max() <= 1
    for array in describe_window(window):
        assert np.isfinite(array).all()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(rate=st.integers(1_000, 192_000), channels=st.integers(1, 8), seconds=st.floats(0.001, 0.5), seed=st.integers(0, 99))
def test_any_rate_and_channel_count_keeps_duration_and_level(tmp_path, rate, channels, seconds, seed):
    n_frames = max(1, int(rate * seconds))
    block = np.random.default_rng(seed).uniform(-1, 1, (n_frames, channels)).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", block, rate, subtype="FLOAT")
    samples = read_audio(tmp_path / "noise.wav")
    assert abs(len(samples) - n_frames * SAMPLE_RATE / rate) <= 1
    assert np.isfinite(samples).all() and np.abs(samples).max(initial=0) < 3


@pytest.mark.parametrize("notes", [b"x" * 40_000, b"x" * 4001])
def test_notes_behind_an_empty_data_chunk_are_no_sound(tmp_path, notes):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), SAMPLE_RATE, subtype="PCM_16")
    whole = (tmp_path / "empty.wav").read_bytes()
    whole = whole[: whole.index(b"data") + 8] + b"LIST" + len(notes).to_bytes(4, "little") + notes + bytes(len(notes) % 2)
    (tmp_path / "empty.wav").write_bytes(whole[:4] + (len(whole) - 8).to_bytes(4, "little") + whole[8:])
    with pytest.raises(AudioError, match=r"empty.wav: holds no samples"):
        read_audio(tmp_path / "empty.wav")
