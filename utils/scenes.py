"""Turn clean clips into scenes: sound placed in other sound, in a room, through a cheap microphone.

Training copies for the classical models, stress tests and test scenes are all made here, on waveforms.
"""

import numpy as np
import scipy.fft
import soxr

from utils.audio import SAMPLE_RATE, WINDOW


def rms(samples):
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def active_rms(samples, frame=1024):
    """RMS over the frames within 30 dB of the loudest one, so that pauses do not count: a level of the sound itself."""
    frames = samples[: max(frame, len(samples) // frame * frame)]
    frames = np.pad(frames, (0, -len(frames) % frame)).reshape(-1, frame)
    energy = np.square(frames, dtype=np.float64).mean(axis=1)
    return float(np.sqrt(energy[energy >= energy.max() / 1000].mean()))


def mix(sound, background, snr_db):
    """Add `background` (same length) so that the active levels differ by `snr_db` dB."""
    level = active_rms(background)
    if level < 1e-7:
        return sound
    return sound + background * np.float32(active_rms(sound) / level * 10 ** (-snr_db / 20))


def loop_to(samples, length, rng):
    """A stretch of `length` samples from a random place; a short recording repeats."""
    if len(samples) < length:
        samples = np.tile(samples, -(-length // len(samples)))
    start = rng.integers(0, len(samples) - length + 1)
    return samples[start : start + length]


def place(samples, length, rng):
    """Put a clip at a random place of an empty stretch, or take a random stretch of a longer clip."""
    if len(samples) >= length:
        return loop_to(samples, length, rng)
    scene = np.zeros(length, np.float32)
    start = rng.integers(0, length - len(samples) + 1)
    scene[start : start + len(samples)] = samples
    return scene


def change_speed(samples, factor):
    """Faster and higher (factor > 1) or slower and deeper, by resampling."""
    return soxr.resample(samples, SAMPLE_RATE, SAMPLE_RATE / factor, quality="HQ").astype(np.float32)


def shape_spectrum(samples, gain_db, frequencies):
    """Apply a gain curve in dB, given at `frequencies` in Hz, to the whole signal."""
    spectrum = np.fft.rfft(samples)
    at = np.linspace(0, SAMPLE_RATE / 2, len(spectrum))
    return np.fft.irfft(spectrum * 10 ** (np.interp(at, frequencies, gain_db) / 20), len(samples)).astype(np.float32)


def limit_band(samples, cutoff_hz):
    """Low-pass at `cutoff_hz` (60 dB within a fifth of an octave), as a narrow-band recorder does."""
    if cutoff_hz >= SAMPLE_RATE / 2:
        return samples
    stop = cutoff_hz * 1.15
    return shape_spectrum(samples, [0, 0, -60, -80], [0, cutoff_hz, stop, max(stop, SAMPLE_RATE / 2) + 1])


def random_equaliser(samples, rng, spread_db=8.0):
    """A smooth random gain curve with nodes about one octave apart."""
    nodes = np.array([0, 100, 200, 400, 800, 1600, 3200, 6400, SAMPLE_RATE / 2])
    return shape_spectrum(samples, rng.normal(0, spread_db / 2, len(nodes)), nodes)


def reverberate(samples, seconds, wet, rng):
    """Convolve with decaying noise that falls by 60 dB in `seconds`; `wet` is its energy beside the direct sound."""
    length = int(seconds * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= np.sqrt(wet / np.square(tail).sum())
    impulse = np.concatenate([[1.0], tail]).astype(np.float32)
    # The same samples as scipy.signal.fftconvolve gives; importing scipy.signal would cost each worker process 0.9 s.
    size = scipy.fft.next_fast_len(len(samples) + len(impulse) - 1, real=True)
    echoing = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(impulse, size), size)
    return echoing[: len(samples)].astype(np.float32)


def coloured_noise(length, rng, slope_db_per_octave=-3.0):
    """Noise of RMS 1 whose power falls by the given slope (0 white, -3 pink, -6 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    octave = np.log2(np.maximum(np.arange(len(spectrum)), 1))
    noise = np.fft.irfft(spectrum * 10 ** (slope_db_per_octave * octave / 20), length)
    return (noise / rms(noise)).astype(np.float32)


def random_scene(clip, background, rng):
    """One training scene of exactly one window: `clip` in `background`, with random recording conditions.

    clip, background: float32 samples at 22,050 Hz. Returns float32 [65,024]. A third of the scenes are mild (the clip
    fills the window, half of the time with another sound 0 to 30 dB below), a third are loud (it fills the window, the
    other sound is 0 to 15 dB below), and in a third the clip takes up a part of the window only, 0 to 25 dB above.
    """
    if rng.random() < 0.75:
        clip = change_speed(clip, 2 ** rng.uniform(-0.5, 0.5))
    manner = rng.choice(["mild", "loud", "part"])
    if manner == "part":
        scene = place(loop_to(clip, min(len(clip), rng.integers(SAMPLE_RATE // 2, WINDOW)), rng), WINDOW, rng)
    else:  # a short clip repeats, as clean_window does
        scene = loop_to(clip, WINDOW, rng) if len(clip) > WINDOW else np.resize(clip, WINDOW)
    if rng.random() < 0.2:
        scene = reverberate(scene, rng.uniform(0.2, 1.2), rng.uniform(0.1, 1.5), rng)
    if rng.random() < 0.3:
        scene = random_equaliser(scene, rng)
    if manner != "mild" or rng.random() < 0.5:
        scene = mix(scene, loop_to(background, WINDOW, rng), rng.uniform(0, {"mild": 30, "loud": 15, "part": 25}[manner]))
    if rng.random() < 0.3:
        scene = mix(scene, coloured_noise(WINDOW, rng, rng.uniform(-6, 0)), rng.uniform(10, 40))
    if rng.random() < 0.2:
        scene = limit_band(scene, rng.choice([4000, 5500, 8000]))
    if rng.random() < 0.1:
        peak = np.abs(scene).max()
        scene = np.clip(scene, -peak / 3, peak / 3)
    return scene.astype(np.float32)



SIGNAL_KINDS = ("siren", "beeps", "melody", "tone", "noise")


def harmonic_sound(pitch_hz, rng):
    """Harmonics of a pitch curve [n] in Hz, each weaker than the one before by a random factor: float64 [n]."""
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    fall = rng.uniform(0.1, 0.9)
    audible = [order for order in range(1, 13) if order * np.max(pitch_hz) < SAMPLE_RATE / 2]
    return sum(fall ** (order - 1) * np.sin(order * phase) for order in audible)


def technical_signal(kind, rng):
    """A sound that no throat made, of one window: float32 [65,024].

    Sirens, beeps, played notes, steady tones and noise are what a detector of screams is asked to ignore, and few
    collections hold them. kind: one of SIGNAL_KINDS.
    """
    time = np.arange(WINDOW) / SAMPLE_RATE
    if kind == "siren":
        wobble = np.sin(2 * np.pi * (rng.uniform(0.1, 6) * time + rng.random()))
        shape = rng.choice(["sine", "triangle", "two tones"])
        wobble = {"sine": wobble, "triangle": np.arcsin(wobble) * 2 / np.pi, "two tones": np.sign(wobble)}[shape]
        sound = harmonic_sound(rng.uniform(500, 1600) * 2 ** (rng.uniform(0.1, 0.9) * wobble), rng)
    elif kind == "beeps":
        on = (time * rng.uniform(0.5, 8) + rng.random()) % 1 < rng.uniform(0.1, 0.9)
        sound = harmonic_sound(np.full(WINDOW, rng.uniform(400, 4000)), rng) * on
    elif kind == "melody":
        note_s = rng.uniform(0.12, 1.5)
        notes = rng.uniform(150, 1200) * 2 ** (rng.integers(-7, 8, int(time[-1] / note_s) + 1) / 12)
        vibrato = 1 + rng.uniform(0, 0.02) * np.sin(2 * np.pi * rng.uniform(4, 7) * time)
        decay = np.exp(-rng.uniform(0, 4) * (time % note_s))
        sound = harmonic_sound(notes[(time / note_s).astype(int)] * vibrato, rng) * decay
    elif kind == "tone":
        sound = harmonic_sound(np.full(WINDOW, np.exp(rng.uniform(np.log(40), np.log(4000)))), rng)
    elif kind == "noise":
        sound = coloured_noise(WINDOW, rng, rng.uniform(-9, 1))
        sound = sound * (1 + rng.uniform(0, 1) * np.sin(2 * np.pi * rng.uniform(0.2, 20) * time))
    else:
        raise ValueError(f"kind must be one of {', '.join(SIGNAL_KINDS)}, not {kind}")
    return random_scene(sound.astype(np.float32), coloured_noise(WINDOW, rng), rng)
