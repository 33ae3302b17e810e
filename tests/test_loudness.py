"""The level of a window where screams are, and its loud part: known answers."""

import numpy as np
import pytest
from stand_in import scene

from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_S
from utils.loudness import band_level, loud_part, loud_samples, window_level

TIME = np.arange(WINDOW) / SAMPLE_RATE


def sine(hz, amplitude=1.0):
    return (amplitude * np.sin(2 * np.pi * hz * TIME)).astype(np.float32)


@pytest.mark.parametrize("hz", [800, 2000, 5800])
@pytest.mark.parametrize("amplitude, level_db", [(1.0, 0), (0.1, -20), (0.001, -60)])
def test_the_level_of_a_sine(hz, amplitude, level_db):
    assert window_level(sine(hz, amplitude)) == pytest.approx(level_db, abs=0.2)


@pytest.mark.parametrize("hz", [0, 50, 300, 8000, 10_000])
def test_what_is_not_where_screams_are_has_no_level(hz):
    rumble = sine(hz) + np.float32(hz == 0)  # 0: a constant
    assert window_level(rumble) < -35
    assert window_level(rumble + sine(2000, 0.1)) == pytest.approx(-20, abs=0.5)


def test_a_short_scream_is_as_loud_as_a_long_one_but_a_click_is_not():
    scream, click = (sine(2000) * (TIME < seconds) for seconds in (0.4, 0.01))
    assert window_level(scream) == pytest.approx(0, abs=0.5)
    assert window_level(click) < -40


def test_silence_and_damaged_samples_have_a_level_too():
    assert window_level(np.zeros(WINDOW, np.float32)) == pytest.approx(-144, abs=0.5) == window_level(np.zeros(1, np.float32))
    broken = sine(2000)
    broken[[100, 30_000, 60_000]] = np.nan, np.inf, 1e30
    assert window_level(broken) == pytest.approx(0, abs=0.2)


def test_loud_part():
    start, end = loud_part(scene(WINDOW_S, [(1.0, 0.8)]))
    assert (start, end) == (pytest.approx(1.0, abs=0.1), pytest.approx(1.8, abs=0.1))
    assert loud_part(scene(WINDOW_S, [])) is None  # steady noise
    louder_db = float(np.ptp(np.percentile(band_level(scene(WINDOW_S, [(1.0, 0.8)])), [10, 95])))
    assert loud_part(scene(WINDOW_S, [(1.0, 0.8)]), louder_db + 0.1) == (start, end)
    assert loud_part(scene(WINDOW_S, [(1.0, 0.8)]), louder_db - 0.1) is None, "what is so much quieter is silence"
    at = np.arange(WINDOW) / SAMPLE_RATE
    for hz in (300, 8000):  # louder than the scream, but not where screams are loud
        rumble = 0.5 * np.sin(2 * np.pi * hz * at) * (at > 2.2)
        assert loud_part(scene(WINDOW_S, [(1.0, 0.8)]) + rumble) == pytest.approx((start, end), abs=0.03)


def test_the_loud_samples_are_those_of_the_loud_part_or_all_where_no_part_is_louder():
    steady, sounding = scene(WINDOW_S, []), scene(WINDOW_S, [(1.0, 0.8)])
    first, last = (round(moment * SAMPLE_RATE) for moment in loud_part(sounding))
    np.testing.assert_array_equal(loud_samples(sounding), sounding[first:last])
    assert loud_part(steady) is None and loud_samples(steady) is steady
