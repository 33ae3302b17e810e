"""Fixtures that several test files share: recordings to work on, synthesised or real."""

import builtins
import csv
import pathlib
import signal
from datetime import datetime

import numpy as np
import pytest
import soundfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
REAL_AUDIO = REPOSITORY.parent / "shared" / "audio"


def pytest_configure():
    """Ctrl-C works here and in the processes that tests start, also where a shell began the run in its background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_pickles_of_the_tests(tmp_path_factory):
    """What tests train goes on no list of the user's."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture
def one_thread():
    """torch on one thread: small networks gain nothing from more, and tests that run beside others lose."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hide_packages(monkeypatch):
    """hide_packages("onnx", ...): importing these fails as where they are not installed."""
    def hide(*names):
        real_import = builtins.__import__

        def import_others(name, *args, **options):
            if name.split(".")[0] in names:
                raise ImportError(name)
            return real_import(name, *args, **options)

        monkeypatch.setattr(builtins, "__import__", import_others)

    return hide


@pytest.fixture(scope="session")
def real_audio():
    """Folder of the real recordings with its clips.csv, where it lies beside the repository; else the test is skipped."""
    if not (REAL_AUDIO / "clips.csv").is_file():
        pytest.skip(f"no real recordings in {REAL_AUDIO.relative_to(REPOSITORY.parent)} beside the repository")
    return REAL_AUDIO


def synthetic_scream(rng, rate, seconds):
    """Harmonics of a gliding voice around 1.2 kHz, roughened at 70 Hz."""
    time = np.arange(int(rate * seconds)) / rate
    pitch = rng.uniform(900, 1500) + rng.uniform(-200, 200) * time / seconds
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return 0.3 * voice * (1 + 0.7 * np.sin(2 * np.pi * 70 * time)) + 0.02 * rng.standard_normal(len(time))


def synthetic_sound(rng, rate, seconds):
    """Low-passed noise that comes and goes a few times a second."""
    time = np.arange(int(rate * seconds)) / rate
    noise = np.convolve(rng.standard_normal(len(time)), np.ones(20) / 20, "same")
    return 0.5 * noise * (1 + np.sin(2 * np.pi * rng.uniform(1, 4) * time))


@pytest.fixture(scope="session")
def tiny_data_set(tmp_path_factory):
    """A labelled data set of 60 synthesised clips in the three input layouts, as their owners ship them.

    Folders below the returned one: Converted_Separately/ (12 screams, 12 others; WAV at 44.1 kHz), ESC-50-master/
    (16 clips of 8 Freesound ids, 2 classes) and described/ (10 screams, 10 others; FLAC at 16 kHz, with clips.csv).
    """
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(1)

    def write(path, samples, rate):
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate)

    for i in range(12):
        write(folder / f"Converted_Separately/scream/{i * 30}.wav", synthetic_scream(rng, 44100, 1.0), 44100)
        write(folder / f"Converted_Separately/non_scream/{i * 30}.wav", synthetic_sound(rng, 44100, 1.0), 44100)

    names = [f"1-{1000 + i // 2}-{'AB'[i % 2]}-{i // 8}.wav" for i in range(16)]
    for name in names:
        write(folder / "ESC-50-master/audio" / name, synthetic_sound(rng, 22050, 2.0), 22050)
    (folder / "ESC-50-master/meta").mkdir()
    with open(folder / "ESC-50-master/meta/esc50.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        table.writerows([[n, 1, i // 8, ["dog", "rain"][i // 8], True, 1000 + i // 2, "AB"[i % 2]] for i, n in enumerate(names)])

    rows = []
    for i in range(20):
        label = "scream" if i < 10 else "non_scream"
        path = f"{label}/clip-{i:03}.flac"
        write(folder / "described" / path, (synthetic_scream if i < 10 else synthetic_sound)(rng, 16000, 1.5), 16000)
        rows.append([path, label, "field", f"session-{i // 2}", "voice" if i < 10 else "wind"])
    with open(folder / "described/clips.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "source", "group", "sound_class"])
        table.writerows(rows)
    return folder


LAYOUTS = ("Converted_Separately", "ESC-50-master", "described")


@pytest.fixture(scope="session")
def tiny_artifacts(tiny_data_set, tmp_path_factory):
    """Folder with audio_features.csv and data/, made by stage 1 from the tiny data set."""
    import extract_features

    folder = tmp_path_factory.mktemp("artifacts")
    options = [option for layout in LAYOUTS for option in ("--audio", str(tiny_data_set / layout))]
    options += ["--csv", str(folder / "audio_features.csv"), "--data", str(folder / "data"), "--jobs", "1", "--signals", "0"]
    assert extract_features.main(options) == 0
    return folder


def without_time(events):
    """Events of a stream without the time of day; each must have one."""
    assert all(datetime.fromisoformat(event["time"]).utcoffset() is not None for event in events)
    return [{name: value for name, value in event.items() if name != "time"} for event in events]
