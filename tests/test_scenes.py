"""Scenes made on waveforms: levels, spectra, lengths and tails are those that were asked for."""

import numpy as np
import pytest

from utils import scenes
from utils.audio import SAMPLE_RATE, WINDOW


def tone(hz, seconds=1.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def noise(length=SAMPLE_RATE, seed=0):
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def level_db(samples):
    return 20 * np.log10(scenes.rms(samples))


def peak_hz(samples):
    return np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples)


def test_rms():
    assert scenes.rms(np.array([3.0, -4.0])) == pytest.approx(np.sqrt(12.5))
    assert scenes.rms(np.zeros(0)) == 0
    assert scenes.rms(tone(1000)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


def test_active_level_leaves_pauses_out():
    sound = tone(1000, 32 * 1024 / SAMPLE_RATE)
    paused = np.concatenate([np.zeros(50 * 1024, np.float32), sound, np.zeros(50 * 1024, np.float32)])
    assert scenes.active_rms(paused) == pytest.approx(scenes.active_rms(sound), rel=1e-3)
    assert scenes.active_rms(paused) > 1.9 * scenes.rms(paused)
    assert scenes.active_rms(sound[:100]) > 0  # shorter than a frame


@pytest.mark.parametrize("snr_db", [-20, -5, 0, 30])
def test_mix_gives_the_requested_ratio(snr_db):
    sound, background = tone(1000), 0.01 * noise()
    added = scenes.mix(sound, background, snr_db) - sound
    assert 20 * np.log10(scenes.active_rms(sound) / scenes.active_rms(added)) == pytest.approx(snr_db, abs=0.05)
    assert np.corrcoef(added, background)[0, 1] > 0.999


def test_mix_with_silence_is_the_sound():
    sound = tone(500)
    assert np.array_equal(scenes.mix(sound, np.zeros_like(sound), 0), sound)


def test_loop_to():
    rng = np.random.default_rng(0)
    short = np.arange(10, dtype=np.float32)
    looped = scenes.loop_to(short, 35, rng)
    assert len(looped) == 35 and (np.diff(looped) % 10 == 1).all()  # the recording follows itself without a break
    long = np.arange(100, dtype=np.float32)
    parts = [scenes.loop_to(long, 35, rng) for _ in range(20)]
    assert all((np.diff(part) == 1).all() for part in parts) and len({part[0] for part in parts}) > 5
    assert np.array_equal(scenes.loop_to(long, 100, rng), long)


def test_place():
    rng = np.random.default_rng(0)
    clip = np.ones(100, np.float32)
    placed = [scenes.place(clip, 1000, rng) for _ in range(20)]
    assert {len(scene) for scene in placed} == {1000}
    assert all(scene.sum() == 100 for scene in placed)  # the whole clip, wherever it lies
    assert len({int(scene.argmax()) for scene in placed}) > 5
    assert len(scenes.place(clip, 30, rng)) == 30


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_changes_length_and_pitch(factor):
    changed = scenes.change_speed(tone(1000, 2.0), factor)
    assert len(changed) == pytest.approx(2 * SAMPLE_RATE / factor, abs=2)
    assert peak_hz(changed) == pytest.approx(1000 * factor, rel=2e-3)
    assert changed.dtype == np.float32
    assert scenes.rms(changed) == pytest.approx(scenes.rms(tone(1000)), rel=0.01)


@pytest.mark.parametrize("cutoff", [4000, 8000])
def test_band_limit_lies_60_db_down_above_the_cutoff(cutoff):
    for hz, change in ((cutoff * 0.5, 0), (cutoff * 0.98, 0), (cutoff * 1.2, -60)):
        sound = tone(hz) * np.hanning(SAMPLE_RATE).astype(np.float32)
        changed = level_db(scenes.limit_band(sound, cutoff)) - level_db(sound)
        assert changed == pytest.approx(0, abs=0.3) if change == 0 else changed < -59


def test_band_limit_above_half_the_rate_changes_nothing():
    assert np.array_equal(scenes.limit_band(noise(), SAMPLE_RATE / 2), noise())


def test_shape_spectrum_applies_the_gain_curve():
    for hz, gain in ((500, 6), (2000, -20)):
        shaped = scenes.shape_spectrum(tone(hz), [6, 6, -20, -20], [0, 900, 1100, SAMPLE_RATE])
        assert level_db(shaped) - level_db(tone(hz)) == pytest.approx(gain, abs=0.2)


def test_equaliser_without_spread_is_the_identity():
    sound = noise()
    assert np.allclose(scenes.random_equaliser(sound, np.random.default_rng(0), spread_db=0), sound, atol=1e-5)
    assert not np.allclose(scenes.random_equaliser(sound, np.random.default_rng(0)), sound, atol=0.1)


def test_reverberation_is_causal_and_has_the_stated_energy():
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[1000] = 1.0
    after = scenes.reverberate(click, seconds=0.5, wet=0.7, rng=np.random.default_rng(0))
    assert len(after) == len(click) and np.abs(after[:1000]).max() < 1e-6
    assert after[1000] == pytest.approx(1.0, abs=1e-5)
    tail = after[1001:].astype(float)
    assert np.square(tail).sum() == pytest.approx(0.7, rel=1e-3)
    early, late = (np.square(tail[int(s * SAMPLE_RATE) :][:2000]).mean() for s in (0.05, 0.30))
    assert 10 * np.log10(early / late) == pytest.approx(60 * 0.25 / 0.5, abs=1.5)
    assert np.abs(tail[SAMPLE_RATE // 2 + 10 :]).max() < 1e-5


@pytest.mark.parametrize("slope", [0, -3, -6])
def test_coloured_noise_has_its_slope_and_level(slope):
    samples = scenes.coloured_noise(1 << 17, np.random.default_rng(0), slope)
    assert scenes.rms(samples) == pytest.approx(1, rel=1e-3)
    power = np.square(np.abs(np.fft.rfft(samples.astype(float))))
    hz = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    density = [power[(hz >= low) & (hz < 1.2 * low)].mean() for low in (400, 3200)]
    assert 10 * np.log10(density[1] / density[0]) / 3 == pytest.approx(slope, abs=0.3)


@pytest.mark.parametrize("seconds", [0.3, 2.0, 10.0])
def test_a_scene_is_one_window_and_repeatable(seconds):
    clip, background = tone(1200, seconds), noise(3 * SAMPLE_RATE)
    clip_before = clip.copy()
    made = [scenes.random_scene(clip, background, np.random.default_rng(seed)) for seed in range(20)]
    again = [scenes.random_scene(clip, background, np.random.default_rng(seed)) for seed in range(20)]
    for one, same in zip(made, again):
        assert one.shape == (WINDOW,) and one.dtype == np.float32 and np.isfinite(one).all() and one.any()
        assert np.array_equal(one, same)
    assert not np.array_equal(made[0], made[1])
    assert np.array_equal(clip, clip_before)


def test_a_scene_with_silence_around_it_is_finite():
    silence = np.zeros(SAMPLE_RATE, np.float32)
    for seed in range(20):
        assert np.isfinite(scenes.random_scene(silence, silence, np.random.default_rng(seed))).all()
        assert np.isfinite(scenes.random_scene(tone(900), silence, np.random.default_rng(seed))).all()


def test_in_a_third_of_the_scenes_the_clip_takes_up_a_part_of_the_window():
    """The rest is the other sound alone, so with a silent one it is silence."""
    silence, clip = np.zeros(WINDOW, np.float32), np.full(SAMPLE_RATE, 0.5, np.float32)
    made = [scenes.random_scene(clip, silence, np.random.default_rng(seed)) for seed in range(150)]
    quiet = np.array([(np.abs(scene) < 1e-3 * np.abs(scene).max()).mean() for scene in made])
    assert 0.1 < (quiet > 0.25).mean() < 0.45 and (quiet < 0.05).mean() > 0.5


@pytest.mark.parametrize("kind", scenes.SIGNAL_KINDS)
def test_technical_signals_fill_a_window_and_follow_their_seed(kind):
    first, again, other = (scenes.technical_signal(kind, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.shape == (WINDOW,) and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.abs(first).max() > 0.01
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_unknown_signals_are_refused():
    with pytest.raises(ValueError, match="siren"):
        scenes.technical_signal("trombone", np.random.default_rng(0))


def test_harmonics_stay_below_half_the_sample_rate():
    power = np.abs(np.fft.rfft(scenes.harmonic_sound(np.full(SAMPLE_RATE, 4000.0), np.random.default_rng(1)))) ** 2
    peaks = np.flatnonzero(power > power.max() * 1e-6)
    assert set(peaks) == {4000, 8000}  # Hz: one second of sound has bins of 1 Hz; 12 kHz would fold back to 10,050
