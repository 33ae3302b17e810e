"""What a user sees of broken, odd and hostile inputs: one sentence, or a result.

    python tests/test_bad_inputs.py     print the table of the README: input, what the user sees, exit status
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import struct
import sys
import tempfile
import threading
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from utils.audio import AudioError, clean_window, cut_windows, read_audio, read_blocks
from utils.signal_settings import SAMPLE_RATE, WINDOW

RATE = 16_000
NOT_READABLE = "is not a readable audio file ({}); m4a, aac, wma and video need ffmpeg on PATH"


def voice(seconds=2.0, rate=RATE):
    """Something that is clearly a sound: harmonics of 220 Hz, peak 0.5."""
    time = np.arange(round(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * 220 * k * time) / k for k in range(1, 8))
    return 0.5 * sound / np.abs(sound).max()


def noise(seconds=2.0, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, round(seconds * RATE))


# --- makers: each writes one input below `folder` and returns its path ---


def sound_file(name, samples, rate=RATE, subtype=None):
    def make(folder):
        soundfile.write(folder / name, samples, rate, subtype=subtype)
        return folder / name

    return make


def content(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def wav_header(change=(0, b""), keep=None):
    """A good 2 s WAV with some bytes replaced: change = (offset, new bytes), cut to `keep` bytes."""

    def make(folder):
        path = sound_file("clip.wav", voice())(folder)
        data = bytearray(path.read_bytes())
        at, new = change
        data[at : at + len(new)] = new
        path.write_bytes(data[:keep])
        return path

    return make


def cut_off(name, share, seconds=4.0):
    def make(folder):
        path = sound_file(name, 0.3 * noise(seconds))(folder)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make


def damaged(name):
    """20 kB of zeros written over the middle of a good file."""

    def make(folder):
        path = sound_file(name, 0.3 * noise(8.0))(folder)
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 20_000] = bytes(20_000)
        path.write_bytes(data)
        return path

    return make


def unreadable(folder):
    path = sound_file("secret.wav", voice())(folder)
    path.chmod(0)
    return path


def fifo(folder):
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


def link_loop(folder):
    (folder / "a.wav").symlink_to("b.wav")
    (folder / "b.wav").symlink_to("a.wav")
    return folder / "a.wav"


def dangling_link(folder):
    (folder / "link.wav").symlink_to("gone.wav")
    return folder / "link.wav"


def subfolder(folder):
    (folder / "recordings").mkdir()
    return folder / "recordings"


class Case(NamedTuple):
    """One input: what it is, how to make it, and what is seen: a sentence, or seconds of sound and perhaps a warning."""

    what: str
    make: object
    sentence: str = ""
    seconds: float = 0.0
    warning: str = ""
    tolerance: float = 2e-4  # of `seconds`
    scored: bool = True  # False: too quiet, non_scream without being scored


CASES = [
    Case("missing file", lambda folder: folder / "missing.wav", "no such file"),
    Case("link to a missing file", dangling_link, "no such file"),
    Case("symbolic links in a loop", link_loop, "cannot be opened (Too many levels of symbolic links)"),
    Case("file name of 300 characters", lambda folder: folder / ("x" * 300 + ".wav"), "cannot be opened (File name too long)"),
    Case("folder without audio", subfolder, "is a folder, not an audio file"),
    Case("no permission to read", unreadable, "no permission to read it"),
    Case("FIFO", fifo, "is not a regular file; use --file - for a pipe"),
    Case("device", lambda folder: pathlib.Path("/dev/zero"), "is not a regular file; use --file - for a pipe"),
    Case("zero bytes", content("empty.wav", b""), "the file is empty (0 bytes)"),
    Case("zero samples", wav_header((40, bytes(4)), keep=44), "holds no samples"),
    Case("text named .wav", content("text.wav", b"to be, or not to be\n" * 99), NOT_READABLE.format("format not recognised")),
    Case("web page named .mp3", content("page.mp3", b"<html><body>404</body></html>" * 99),
         NOT_READABLE.format("format not recognised")),
    Case("zeros named .flac", content("zeros.flac", bytes(50_000)), NOT_READABLE.format("format not recognised")),
    Case("m4a without ffmpeg", content("clip.m4a", b"\0\0\0\x20ftypM4A " + bytes(999)),
         NOT_READABLE.format("format not recognised")),
    Case("WAV with an unknown codec", wav_header((20, b"\x61\x01")),
         NOT_READABLE.format("unknown codec or damaged header")),
    Case("WAV cut off inside its header", wav_header(keep=30), NOT_READABLE.format("error in wav file. no 'data' chunk marker")),
    Case("FLAC cut off inside its header", cut_off("clip.flac", 0.0002),
         NOT_READABLE.format("unknown codec or damaged header")),
    Case("sample rate of 0 Hz", wav_header((24, struct.pack("<I", 0))), NOT_READABLE.format("damaged header")),
    Case("sample rate of 1 Hz", wav_header((24, struct.pack("<I", 1))), "a sample rate of 1 Hz is not plausible"),
    Case("sample rate of 4 GHz", wav_header((24, struct.pack("<I", 4_000_000_000))), NOT_READABLE.format("damaged header")),
    Case("no channels", wav_header((22, struct.pack("<H", 0))), NOT_READABLE.format("channel count is zero")),
    Case("200 channels", sound_file("many.wav", np.zeros((99, 200))), "200 channels are not plausible"),
    Case("65,535 channels", wav_header((22, b"\xff\xff")), NOT_READABLE.format("too many channels specified")),
    Case("FLAC cut off in its first second", cut_off("clip.flac", 0.1),
         "is damaged, nothing could be decoded (error : flac decoder lost sync)"),
    Case("WAV cut off in the middle", cut_off("clip.wav", 0.5), seconds=2, tolerance=0.01,
         warning="is damaged or cut off; 2.0 s could be decoded"),
    Case("FLAC cut off in the middle", cut_off("clip.flac", 0.6), seconds=2,
         warning="is damaged or cut off; 2.0 s could be decoded"),
    Case("Ogg cut off in the middle", cut_off("clip.ogg", 0.5), seconds=1.2, tolerance=0.8),
    Case("MP3 cut off in the middle", cut_off("clip.mp3", 0.5), seconds=2, tolerance=0.3),
    Case("FLAC damaged in the middle", damaged("clip.flac"), seconds=3,
         warning="is damaged or cut off; 3.0 s could be decoded"),
    Case("Ogg damaged in the middle", damaged("clip.ogg"), seconds=4, tolerance=1),
    Case("MP3 damaged in the middle", damaged("clip.mp3"), seconds=4, tolerance=1.5, warning="is damaged or cut off;"),
    Case("WAV header that promises more than there is", wav_header((40, struct.pack("<I", 10**9))), seconds=2,
         warning="is damaged or cut off; 2.0 s could be decoded"),
    Case("WAV of unknown length, from a stream", wav_header((40, b"\xff\xff\xff\xff")), seconds=2),
    Case("WAV whose recorder stopped before it wrote the length", wav_header((40, bytes(4))), seconds=2),
    Case("1 sample", sound_file("one.wav", np.array([0.5])), seconds=1 / RATE, scored=False),
    Case("10 ms", sound_file("short.wav", voice(0.01)), seconds=0.01),
    Case("exactly one window", sound_file("window.wav", voice(WINDOW / SAMPLE_RATE, SAMPLE_RATE), SAMPLE_RATE),
         seconds=WINDOW / SAMPLE_RATE),
    Case("one window and one sample", sound_file("more.wav", voice((WINDOW + 1) / SAMPLE_RATE, SAMPLE_RATE), SAMPLE_RATE),
         seconds=(WINDOW + 1) / SAMPLE_RATE),
    Case("NaN and Inf among the samples",
         sound_file("nan.wav", np.where(np.arange(2 * RATE) % 1000 < 3, [np.nan, np.inf] * RATE, voice()), subtype="FLOAT"),
         seconds=2),
    Case("nothing but NaN", sound_file("nan.wav", np.full(RATE, np.nan), subtype="FLOAT"), seconds=1, scored=False),
    Case("DC offset of half the full scale", sound_file("offset.wav", 0.5 * voice() + 0.5), seconds=2),
    Case("nothing but DC offset", sound_file("offset.wav", np.full(2 * SAMPLE_RATE, 0.5), SAMPLE_RATE), seconds=2, scored=False),
    Case("digital silence", sound_file("silence.wav", np.zeros(2 * RATE)), seconds=2, scored=False),
    Case("noise at -90 dBFS", sound_file("faint.wav", 10 ** (-90 / 20) * noise(), subtype="PCM_24"), seconds=2, scored=False),
    Case("clipping at full scale", sound_file("clipped.wav", np.clip(20 * voice(), -1, 1)), seconds=2),
    Case("stereo with a dead channel", sound_file("dead.wav", np.stack([voice(), 0 * voice()], axis=1)), seconds=2),
    Case("stereo with a channel inverted", sound_file("phase.wav", np.stack([voice(), -voice()], axis=1)), seconds=2),
    *[Case(what, sound_file(name, voice()), seconds=2) for what, name in {
        "name with spaces": "my clip 1.wav", "name with a line break": "a\nb.wav", "name with umlauts": "Größe.wav",
        "name with a leading dash": "--json.wav", "name with shell characters": "$(reboot);`id`&'\"*.wav",
        "name that is not UTF-8": os.fsdecode(b"caf\xe9.wav"), "name without ending": "clip", "WAV named .mp3": "wav.mp3",
    }.items()],
]
SHOWN_NAMES = {"a\nb.wav": "a\\nb.wav", os.fsdecode(b"caf\xe9.wav"): "caf\\udce9.wav"}


def make_input(case, folder):
    """Write the input; WAV endings that soundfile cannot guess from the name get their content from a .wav."""
    folder.mkdir(exist_ok=True)
    try:
        return case.make(folder)
    except (TypeError, UnicodeEncodeError, soundfile.LibsndfileError):
        path = sound_file("plain.wav", voice())(folder)
    name = {"name without ending": "clip", "name that is not UTF-8": os.fsdecode(b"caf\xe9.wav")}[case.what]
    return path.rename(folder / name)


@contextlib.contextmanager
def ordinary_user():
    """Permissions do not bind root: read as nobody, if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def no_ffmpeg(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_the_user_sees(case, tmp_path, no_ffmpeg, capfd):
    path = make_input(case, tmp_path / "input")
    for folder in list(tmp_path.parents)[:2] + [tmp_path, tmp_path / "input"]:
        folder.chmod(0o755)
    shown = str(path).replace(path.name, SHOWN_NAMES.get(path.name, path.name))
    if case.sentence:
        with ordinary_user() if case.make is unreadable else contextlib.nullcontext(), pytest.raises(AudioError) as error:
            read_audio(path)
        assert str(error.value) == f"{shown}: {case.sentence}"
        assert "\n" not in str(error.value)
    else:
        samples = read_audio(path)
        assert samples.dtype == np.float32 and np.isfinite(samples).all()
        assert len(samples) / SAMPLE_RATE == pytest.approx(case.seconds, abs=case.tolerance)
        scored = [clean_window(window) is not None for _, window in cut_windows([samples])]
        assert any(scored) == case.scored
    printed = capfd.readouterr()
    assert printed.out == ""
    if case.warning:
        assert printed.err.startswith(f"warning: {shown}: {case.warning}") and printed.err.count("\n") == 1
    else:
        assert printed.err == ""


def test_a_file_may_vanish_while_it_is_read(tmp_path):
    path = sound_file("clip.wav", voice(5.0))(tmp_path)
    blocks = read_blocks(path)
    first = next(blocks)
    path.unlink()
    assert len(first) + sum(map(len, blocks)) == pytest.approx(5 * SAMPLE_RATE, abs=1)


def test_a_file_may_be_cut_short_while_it_is_read(tmp_path):
    path = sound_file("clip.wav", voice(60.0))(tmp_path)
    blocks = read_blocks(path)
    n_samples = len(next(blocks))
    os.truncate(path, 44 + 2 * RATE * 10)
    n_samples += sum(map(len, blocks))
    assert n_samples <= 11 * SAMPLE_RATE


@pytest.mark.parametrize("known_length", [True, False])
def test_a_file_may_grow_while_it_is_read(tmp_path, known_length):
    path = wav_header((40, struct.pack("<I", 2 * 2 * RATE if known_length else 0)))(tmp_path)
    blocks = read_blocks(path)
    n_samples = len(next(blocks))
    for _ in range(3):
        with open(path, "ab") as file:
            file.write(bytes(2 * RATE))
        n_samples += len(next(blocks, ()))
    n_samples += sum(map(len, blocks))
    assert 2 * SAMPLE_RATE - 1 <= n_samples <= 5 * SAMPLE_RATE + 1  # it ends, with what was there or came in time


def test_a_fifo_without_a_writer_does_not_hang(tmp_path):
    """The check must come before the file is opened: opening a FIFO waits for ever."""
    done = threading.Event()

    def read():
        with contextlib.suppress(AudioError):
            read_audio(fifo(tmp_path))
        done.set()

    threading.Thread(target=read, daemon=True).start()
    assert done.wait(5)


def test_ffmpeg_that_refuses_gives_one_sentence(tmp_path, monkeypatch):
    ffmpeg = tmp_path / "ffmpeg"
    ffmpeg.write_text("#!/bin/sh\necho 'Invalid data found' >&2\nexit 1\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = content("clip.m4a", b"nothing")(tmp_path)
    with pytest.raises(AudioError, match=r"clip\.m4a: is not a readable audio file \(soundfile and ffmpeg both refused it\)$"):
        read_audio(path)


def test_what_ffmpeg_decodes_of_a_damaged_file_comes_with_a_warning(tmp_path, monkeypatch, capsys):
    ffmpeg = tmp_path / "ffmpeg"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = content("clip.m4a", b"nothing")(tmp_path)
    for status in (0, 1):
        ffmpeg.write_text(f"#!/bin/sh\nhead -c {2 * 8 * SAMPLE_RATE} /dev/zero\nexit {status}\n")
        ffmpeg.chmod(0o755)
        assert len(read_audio(path)) == 2 * SAMPLE_RATE
        warning = f"warning: {path}: is damaged or cut off; 2.0 s could be decoded\n"
        assert capsys.readouterr().err == (warning if status else "")


def test_a_zero_byte_in_a_name():
    with pytest.raises(AudioError, match=r"a\\x00b\.wav: is not a possible file name"):
        read_audio("a\0b.wav")


# --- the table of the README ---


@functools.cache
def trained_ensemble():
    """The trained models, loaded once, and before anything is read as a user who may not read the installed packages."""
    from utils.ensemble import load_ensemble

    return load_ensemble()


def run_main(path):
    """`python main.py --json --file PATH` in this process: (exit status, JSON record, stderr)."""
    import main
    from utils.command_line import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run(main.__doc__, main.MODELS, ["--json", f"--file={path}"], trained_ensemble())
        except SystemExit as end:
            status = end.code
    lines = out.getvalue().splitlines()
    return status, json.loads(lines[0]) if lines else {}, err.getvalue()


def table_row(case, folder):
    """(input, what the user sees, exit status) of one case, as main.py gives it."""
    path = make_input(case, folder)
    trained_ensemble()
    with ordinary_user() if case.make is unreadable else contextlib.nullcontext():
        status, record, err = run_main(path)
    where = str(path).replace(path.name, SHOWN_NAMES.get(path.name, path.name)) + ": "
    if "error" in record:
        return case.what, record["error"].replace(where, ""), status
    seen = f"{record['duration_s']:.3g} s, {record['verdict']}"
    warnings = [line.replace(where, "") for line in err.splitlines() if line.startswith("warning:")]
    return case.what, "; ".join([seen, *warnings]), status


def print_table():
    os.environ["PATH"] = ""  # as on a machine without ffmpeg
    print("| input | what you see | exit status |\n|---|---|---|")
    for number, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            what, seen, status = table_row(case, pathlib.Path(folder) / f"{number}")
            print(f"| {what} | {seen.replace('|', chr(92) + '|')} | {status} |")


@pytest.mark.slow
def test_main_shows_the_same_and_its_exit_status_is_honest(tmp_path, no_ffmpeg):
    from utils.artifacts import ArtifactError

    for number, case in enumerate(CASES):
        try:
            what, seen, status = table_row(case, tmp_path / str(number))
        except ArtifactError as error:
            pytest.skip(f"no models: {error}")
        assert status == (1 if case.sentence else 0), what
        if case.what != "folder without audio":
            assert (case.sentence or case.warning) in seen, what
        if not case.scored and not case.sentence:
            assert seen.endswith("non_scream"), what


if __name__ == "__main__":
    print_table()
