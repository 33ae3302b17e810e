"""Synthesise the example clips: a scream, speech-like sound and a siren, 3 s each, nobody's voice.

    python data/examples/make_examples.py

Writes scream.wav, speech.wav and siren.wav beside this script (16 bit, 22,050 Hz, mono), the same on every run.
"""

import os

import numpy as np
import soundfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
SAMPLE_RATE = 22_050  # Hz
SECONDS = 3.0
TIME = np.arange(int(SAMPLE_RATE * SECONDS)) / SAMPLE_RATE  # s


def curve(*points):
    """A smooth curve over TIME through (seconds, value) points."""
    straight = np.interp(TIME, *zip(*points))
    ramp = np.hanning(int(0.03 * SAMPLE_RATE))
    return np.convolve(np.pad(straight, len(ramp), "edge"), ramp / ramp.sum(), "same")[len(ramp) : -len(ramp)]


def low_pass(sound, cutoff, order):
    """Attenuate above `cutoff` Hz by 6 dB per octave and order."""
    frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(sound) / (1 + (frequency / cutoff) ** order), len(sound))


def noise(rng, cutoff, order=4):
    """Noise of standard deviation 1 below `cutoff` Hz: a voice's jitter, breath, a hissed consonant, a room."""
    samples = low_pass(rng.standard_normal(len(TIME)), cutoff, order)
    return samples / samples.std()


def voice(pitch, formants, bandwidths, tilt):
    """Harmonics of `pitch` (Hz) shaped by a vocal tract that resonates at `formants` (Hz, each over TIME).

    `tilt`: exponent by which harmonics fall; small for a strained voice, large for a relaxed one.
    """
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    sound = np.zeros(len(TIME))
    for harmonic in range(1, int(SAMPLE_RATE / 2 / pitch.min()) + 1):
        frequency = harmonic * pitch
        gain = sum(1 / (1 + ((frequency - centre) / width) ** 2) for centre, width in zip(formants, bandwidths)) + 0.02
        audible = frequency < 0.47 * SAMPLE_RATE  # nothing folds back
        sound += np.where(audible, gain * np.sin(harmonic * phase) / harmonic**tilt, 0)
    return sound


def scream():
    """A strained voice that glides from 600 up to 1,050 and down again, twice, roughened at 45 to 95 Hz, with breath."""
    rng = np.random.default_rng(1)
    pitch = curve((0, 600), (0.4, 980), (0.9, 1050), (1.5, 700), (1.6, 650), (1.9, 960), (2.3, 900), (2.8, 560), (3, 500))
    pitch *= 1 + 0.015 * np.sin(2 * np.pi * 6.5 * TIME) + 0.02 * noise(rng, 40)
    formants = [curve((0, 800), (0.4, 1150), (3, 950)), curve((0, 1700), (0.4, 2000), (3, 1800)), curve((0, 3100), (3, 3300))]
    rough_phase = 2 * np.pi * np.cumsum(curve((0, 45), (0.9, 70), (2.1, 95), (3, 50)) + 8 * noise(rng, 20)) / SAMPLE_RATE
    roughness = 1 + 0.8 * np.sin(rough_phase) + 0.3 * noise(rng, 150)
    level = curve((0, 0), (0.12, 0), (0.3, 1), (1.2, 0.8), (1.5, 0), (1.6, 0), (1.75, 0.9), (2.2, 0.6), (2.75, 0), (3, 0))
    sound = level * (np.tanh(1.5 * roughness * voice(pitch, formants, [250, 350, 500], tilt=0.7)) + 0.1 * noise(rng, 2500))
    return low_pass(sound, 3500, 4) + 0.0005 * noise(rng, 300, order=1)


def speech():
    """Calm vowels at 105 to 150 Hz, four syllables a second, with hissed consonants between and a pause."""
    rng = np.random.default_rng(2)
    vowels = np.array([[730, 1090, 2440], [270, 2290, 3010], [570, 840, 2410], [530, 1840, 2480], [300, 870, 2240]])
    syllables = np.arange(0.1, 2.9, 0.26)  # s
    order = rng.integers(0, len(vowels), len(syllables))
    formants = [curve(*zip(syllables, vowels[order, i])) for i in range(3)]
    pitch = curve((0, 135), (0.8, 150), (1.3, 115), (1.6, 145), (2.4, 120), (3, 105)) * (1 + 0.008 * noise(rng, 30))
    pause = curve((0, 0), (0.1, 1), (1.28, 1), (1.34, 0), (1.55, 0), (1.62, 1), (2.75, 1), (2.9, 0), (3, 0))
    vowel_level, hiss_level = np.sin(np.pi * (TIME - 0.1) / 0.26) ** 2, np.cos(np.pi * (TIME - 0.1) / 0.26) ** 8
    hiss = np.diff(noise(rng, 5000), append=0)
    sound = pause * (vowel_level * voice(pitch, formants, [60, 90, 150], tilt=1.1) + 0.1 * hiss_level * hiss)
    return low_pass(sound, 3500, 2) + 0.003 * noise(rng, 300, order=1)


def siren():
    """An emergency vehicle's wail between 600 and 1,400 Hz, almost a pure tone, in quiet street noise."""
    rng = np.random.default_rng(3)
    phase = 2 * np.pi * np.cumsum(1000 - 400 * np.cos(2 * np.pi * TIME / 1.5)) / SAMPLE_RATE
    return np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase) + 0.03 * noise(rng, 600, order=1)


def main(folder=FOLDER):
    for make in (scream, speech, siren):
        samples = make()
        path = os.path.join(folder, f"{make.__name__}.wav")
        soundfile.write(path, 0.8 * samples / np.abs(samples).max(), SAMPLE_RATE, subtype="PCM_16")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
