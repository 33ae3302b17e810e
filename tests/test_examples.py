"""The synthesised example clips: what they claim to be, and that the committed files are what the script makes."""

import runpy

import numpy as np
import pytest
import scipy.signal
import soundfile
from conftest import REPOSITORY

EXAMPLES = REPOSITORY / "data" / "examples"
SCRIPT = EXAMPLES / "make_examples.py"
NAMES = ("scream", "speech", "siren")


def loudest_frequencies(samples, rate):
    """Frequency in Hz of the strongest bin in every 46 ms frame that is within 20 dB of the loudest."""
    frequencies, _, power = scipy.signal.spectrogram(samples, rate, nperseg=1024, noverlap=512)
    level = power.sum(axis=0)
    return frequencies[power.argmax(axis=0)][level > level.max() / 100]


def roughness(samples, rate):
    """Share of the envelope's variation that lies between 30 and 100 Hz: above syllables, below the pitch of the speech."""
    envelope = np.abs(scipy.signal.hilbert(samples))
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean())) ** 2
    at = np.fft.rfftfreq(len(envelope), 1 / rate)
    return spectrum[(at >= 30) & (at <= 100)].sum() / spectrum[(at > 0) & (at <= 1000)].sum()


@pytest.mark.parametrize("name", NAMES)
def test_format(name):
    path = EXAMPLES / f"{name}.wav"
    info = soundfile.info(path)
    assert (info.samplerate, info.channels, info.subtype, info.duration) == (22050, 1, "PCM_16", 3.0)
    assert path.stat().st_size < 150_000
    assert 0.7 < np.abs(soundfile.read(path)[0]).max() < 0.9


def test_script_makes_the_committed_files(tmp_path):
    runpy.run_path(str(SCRIPT))["main"](tmp_path)
    for name in NAMES:
        made, _ = soundfile.read(tmp_path / f"{name}.wav", dtype="int16")
        committed, _ = soundfile.read(EXAMPLES / f"{name}.wav", dtype="int16")
        assert np.abs(made.astype(int) - committed).max() <= 1  # rounding may differ by one step between machines
    assert len(SCRIPT.read_text().splitlines()) <= 100


def test_only_the_scream_is_rough():
    rough = {name: roughness(*soundfile.read(EXAMPLES / f"{name}.wav")) for name in NAMES}
    assert rough["scream"] > 0.15
    assert rough["scream"] > 2 * max(rough["speech"], rough["siren"])


def test_scream_glides_high_and_speech_stays_low():
    scream, speech, siren = (loudest_frequencies(*soundfile.read(EXAMPLES / f"{name}.wav")) for name in NAMES)
    assert 500 < np.median(scream) < 2500 and np.percentile(scream, 90) > 1.2 * np.percentile(scream, 10)
    assert np.median(speech) < 800
    assert siren.min() > 550 and siren.max() < 1450 and np.ptp(siren) > 700
