"""How noisy a window is and what that does to the verdict on a clip of a few seconds."""

import json

import numpy as np
import pytest
from stand_in import StandIn, sounding

from utils import extraction, noise_level, scenes
from utils.artifacts import ArtifactError, write_json
from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_HOP, WINDOW_S, clean_window, without_offset
from utils.background_noise import subtract_own_noise
from utils.dataset import Clip
from utils.ensemble import Ensemble, pool_looks, verdict_in_noise
from utils.events import EventSettings
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS, describe_window
from utils.loudness import loud_part, loud_samples
from utils.noise_level import NOISE_FILE, NOISY_FROM, NoiseLevel, as_json, fit_noise_level, read_noise_level
from utils.scan import Judge, RecentSamples, ScoredWindow, scan, verdict_alone

SETTINGS = {"signal": SIGNAL_SETTINGS}

HOP_S = WINDOW_HOP / SAMPLE_RATE


def level_of_first_feature(probability_at_1):
    """A NoiseLevel that looks at the first feature only."""
    coefficients = np.zeros(34)
    coefficients[0] = np.log(probability_at_1 / (1 - probability_at_1))
    return NoiseLevel(np.zeros(34), np.ones(34), coefficients, 0.0)


def features_with(first):
    features = np.zeros((len(first), 34))
    features[:, 0] = first
    return features


def test_noise_shifts_from_its_least_probability_in_a_straight_line():
    level = level_of_first_feature(0.9)
    assert level.probability(features_with([0, 1, -1])) == pytest.approx([0.5, 0.9, 0.1])
    assert NoiseLevel(np.full(34, 0.5), np.full(34, 2.0), level.coefficients, 0.0).probability(features_with([4.5])) == \
        pytest.approx([0.9**2 / (0.9**2 + 0.1**2)])
    shift = level.shift(features_with([0, 1, -1, 100]))
    assert shift == pytest.approx([1.75 * (0.5 - 0.2) / 0.8, 1.75 * (0.9 - 0.2) / 0.8, 0, 1.75])
    assert NOISY_FROM == 0.2 and noise_level.MOST_SHIFT == 1.75


def test_noise_is_told_by_what_differs_whatever_its_unit():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(300, 34)) * 1000
    noisy = rng.normal(size=(300, 34)) * 1000
    noisy[:, 5] += 5000
    level = fit_noise_level(clean, noisy)
    assert level.probability(clean).mean() < 0.1 and level.probability(noisy).mean() > 0.9
    assert np.argmax(np.abs(level.coefficients)) == 5


def test_what_is_written_is_what_is_read(tmp_path):
    rng = np.random.default_rng(1)
    level = fit_noise_level(rng.normal(size=(50, 34)), rng.normal(1, 1, size=(50, 34)))
    write_json(tmp_path / NOISE_FILE, as_json(level, SETTINGS, all_data=False))
    features = rng.normal(size=(9, 34))
    assert read_noise_level(tmp_path).probability(features) == pytest.approx(level.probability(features), abs=0)
    assert read_noise_level(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("change, says", [
    (lambda stored: stored.pop("intercept"), "does not describe"),
    (lambda stored: stored["mean"].pop("rms_std"), "does not describe"),
    (lambda stored: stored["coefficients"].update(mfcc1_mean="x"), "does not describe"),
    (lambda stored: stored["scale"].update(mfcc1_mean=0.0), "other settings"),
    (lambda stored: stored.update(intercept=float("nan")), "other settings"),
    (lambda stored: stored["settings"].update(signal={"hop": 1}), "other settings"),
])
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, says):
    stored = json.loads(json.dumps(as_json(level_of_first_feature(0.9), SETTINGS, all_data=False)))
    change(stored)
    (tmp_path / NOISE_FILE).write_text(json.dumps(stored))
    with pytest.raises(ArtifactError, match=says) as refused:
        read_noise_level(tmp_path)
    assert NOISE_FILE in str(refused.value) and "train_ml.py" in str(refused.value)


def at(log_odds):
    """Six models that all say so."""
    return np.full(6, 1 / (1 + np.exp(-log_odds)))


def test_both_looks_count_alike_and_the_shift_raises_every_model():
    np.testing.assert_allclose(pool_looks([[at(-1), at(-0.4)], [at(2), at(0)]]), [at(-0.7), at(1)])
    assert verdict_in_noise(at(-0.7), 0.71) and not verdict_in_noise(at(-0.7), 0.69)
    assert verdict_in_noise(at(0.1), 0.0) and not verdict_in_noise(at(-0.1), 0.0)
    one_is_against = np.r_[at(1)[:3], at(-0.5)[:2], at(-3)[:1]]
    assert verdict_in_noise(one_is_against, 0.51), "the majority decides, not the mean"
    assert not verdict_in_noise(one_is_against, 0.0)


class HearsAgain(Ensemble):
    """An ensemble that hears in windows without their noise what it is told, and remembers how often it was asked."""

    def __init__(self, again, noise):
        super().__init__({}, {}, {}, {}, "cpu", noise=noise)
        self.again, self.heard = again, []

    def score(self, windows):
        self.heard.append(windows)
        return np.stack([self.again] * len(windows))


def alone(ensemble, probabilities, samples, start_s=0.0):
    """verdict_alone of a window of a recording that holds these samples from start_s on."""
    recent = RecentSamples()
    recent.add(np.concatenate([np.full(round(start_s * SAMPLE_RATE), 0.3, np.float32), samples]))
    pooled, votes, verdict = ensemble.combine(probabilities[None])
    window = ScoredWindow(start_s, start_s + WINDOW_S, (0.0, 3.0), 0.0, 0.0, probabilities, pooled[0], votes[0], bool(verdict[0]))
    return verdict_alone(recent, ensemble, window)


@pytest.mark.parametrize("first, probability, noisy, verdict, looks", [
    (-1.0, 0.9, 30, True, 1), (-1.0, 0.05, 30, False, 1), (-2.9, 0.9, 30, True, 1), (-3.0, 0.9, 30, False, 0),
    (0.1, 0.1, 30, True, 0), (-1.0, 0.9, -30, False, 0),
], ids=["heard again", "not heard again", "just probable enough", "too improbable", "a scream in any case", "no noise"])
def test_a_noisy_window_is_heard_again(first, probability, noisy, verdict, looks):
    ensemble = HearsAgain(np.full(6, probability), NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), float(noisy)))
    assert alone(ensemble, at(first), sounding(0)) is verdict
    assert len(ensemble.heard) == looks


@pytest.mark.parametrize("start_s", [0.0, 2.0])
def test_a_window_is_heard_with_its_own_sound_and_its_own_noise(start_s, monkeypatch):
    ensemble, described = HearsAgain(at(2.0), level_of_first_feature(0.999)), []
    monkeypatch.setattr("utils.scan.describe_window", lambda window: [described.append(window) or features_with([1])[0]])
    assert alone(ensemble, at(-1), sounding(2), start_s) is True
    [heard] = ensemble.heard
    np.testing.assert_array_equal(heard[0], clean_window(subtract_own_noise(sounding(2))))
    np.testing.assert_array_equal(described[0], clean_window(sounding(2)))
    monkeypatch.setattr("utils.scan.describe_window", lambda window: [features_with([-1])[0]])
    assert alone(ensemble, at(-1), sounding(2), start_s) is False and len(ensemble.heard) == 1, "no noise"


def hears_noise(everywhere):
    return NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), 30.0 if everywhere else -30.0)


def with_a_burst():
    """A window of faint noise with 0.8 s of a 2 kHz tone in it: float32 [65,024]."""
    rng, time = np.random.default_rng(0), np.arange(WINDOW) / SAMPLE_RATE
    tone = 0.5 * np.sin(2 * np.pi * 2000 * time) * ((time > 1) & (time < 1.8))
    return (tone + 0.003 * rng.standard_normal(WINDOW)).astype(np.float32)


def test_the_loud_part_of_a_window_is_heard_alone():
    samples, ensemble = with_a_burst(), HearsAgain(at(9), hears_noise(False))
    assert alone(ensemble, at(-1), samples) is True
    first, last = loud_part(samples)
    assert 0.9 < first < 1.0 < 1.8 < last < 1.9
    as_it_is, less_noise = np.concatenate(ensemble.heard)
    level = without_offset(samples)
    np.testing.assert_array_equal(as_it_is, clean_window(loud_samples(level)))
    np.testing.assert_array_equal(less_noise, clean_window(loud_samples(subtract_own_noise(level))))


@pytest.mark.parametrize("noisy, heard, first, verdict", [
    (False, 0.49, -1, False), (False, 0.51, -1, True), (True, -0.83, -2.9, False), (True, -0.79, -2.9, True),
    (False, 9, -3.0, False), (True, 9, -3.0, False),
], ids=["not quite", "without noise", "not quite in noise", "in noise", "too improbable", "too improbable in noise"])
def test_the_loud_part_alone_is_asked_for_more_and_in_noise_for_less(noisy, heard, first, verdict):
    ensemble = HearsAgain(at(heard), hears_noise(noisy))
    assert alone(ensemble, at(first), with_a_burst()) is verdict
    assert alone(ensemble, at(first), sounding(0)) is False, "no part of it is louder than the rest"


def test_a_loud_part_that_is_too_quiet_to_be_heard_counts_as_the_window(monkeypatch):
    monkeypatch.setattr("utils.scan.loud_samples", np.zeros_like)
    assert alone(HearsAgain(at(9), hears_noise(False)), at(-1), with_a_burst()) is False
    monkeypatch.setattr("utils.scan.PART_LACKS", -1.1)
    ensemble = HearsAgain(at(-9), hears_noise(False))
    assert alone(ensemble, at(-1), with_a_burst()) is True and not ensemble.heard


def test_what_is_nothing_but_noise_is_heard_as_it_is(monkeypatch):
    monkeypatch.setattr("utils.scan.subtract_own_noise", np.zeros_like)
    for log_odds, verdict in ((-1.0, True), (-2.0, False)):  # the shift is 1.75
        ensemble = HearsAgain(at(9), NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), 30.0))
        assert alone(ensemble, at(log_odds), sounding(0)) is verdict
        assert not ensemble.heard


def test_without_a_noise_level_the_vote_alone_decides():
    ensemble = HearsAgain(at(9), None)
    assert alone(ensemble, np.full(6, 0.4), sounding(0)) is False and alone(ensemble, np.full(6, 0.6), sounding(0)) is True
    assert not ensemble.heard


def judged(monkeypatch, probabilities, heard, noisy=False, called=(), **settings):
    """[(number of windows given so far, number of the window, verdict)] of windows with these probabilities.

    heard: what a second look hears in a window at each start in half windows, 0.1 where it does not say. noisy: what the vote
    says of a window alone. called: numbers of the windows that the vote calls a scream.
    """
    monkeypatch.setattr("utils.scan.verdict_alone", lambda recent, ensemble, window: noisy or window.verdict)
    def second_look(recent, ensemble, judged_s, starts_s, known_s=None):
        assert (known_s is None) == (judged_s == judge.newest.start_s > 13) and (known_s is None or known_s <= judge.newest.end_s)
        return [heard.get(round(start_s / HOP_S), 0.1) for start_s in starts_s], [0] * len(starts_s)

    monkeypatch.setattr("utils.scan.second_look", second_look)
    judge, known = Judge(None, None, EventSettings(**settings)), []
    for number, probability in enumerate(probabilities):
        start_s = number * HOP_S
        window = ScoredWindow(start_s, start_s + WINDOW_S, (start_s, start_s + HOP_S), 0.0, 0.0, np.full(6, probability),
                              probability, 4 * (number in called), number in called)
        known += [(number + 1, round(first.start_s / HOP_S), bool(verdict)) for first, verdict in judge.add(window)]
        assert judge.needed_from_s <= min(start_s, len(known) * HOP_S) - 30, "for the next one to be judged"
    known += [(len(probabilities), round(first.start_s / HOP_S), bool(verdict)) for first, verdict in judge.finish()]
    assert [number for _, number, _ in known] == list(range(len(probabilities))), "each window once, in order"
    return known


def test_an_early_window_waits_for_what_comes_after_and_the_next_ones_with_it(monkeypatch):
    for heard, verdict in ((0.9, True), (0.2, False)):
        known = judged(monkeypatch, [0.01, 0.4] + [0.01] * 20, {1: heard}, noisy=True)
        assert known[0] == (1, 0, False) and known[1] == (11, 1, verdict)  # 7 windows that do not overlap it
        assert all(told == max(11, number + 1) and not called for told, number, called in known[2:])


@pytest.mark.parametrize("noisy", [False, True])
def test_a_window_that_the_vote_calls_a_scream_waits_for_nothing(monkeypatch, noisy):
    known = judged(monkeypatch, [0.2, 0.01, 0.01, 0.2, 0.7, 0.2, 0.2, 0.2, 0.2] + [0.01] * 18, {}, noisy=noisy, called=[4])
    assert known[4] == (5, 4, True), "not for an earlier one"
    assert [told for told, _, _ in known] == [5, 5, 5, 5, 5, 6, 7, 8, *[12] * 4, *range(13, 28)]
    assert [number for _, number, called in known if called] == [4], "the noise alone makes no other one a scream"


def test_what_keeps_an_event_open_is_not_waited_for(monkeypatch):
    tail = [0.31] * 6  # from 0.3 on an event goes on
    known = judged(monkeypatch, [0.7, *tail] + [0.1] * 20, {}, called=[0])
    assert [told for told, _, _ in known][:10] == list(range(1, 11)), "nor three windows after it"
    known = judged(monkeypatch, [0.7] + [0.1] * 20, {}, called=[0], padding=4.0)
    assert [told for told, _, _ in known][:8] == list(range(1, 9))


def test_a_louder_scream_does_not_hide_one_before_it(monkeypatch):
    known = judged(monkeypatch, [0.3, 0.01, 0.01, 0.01, 0.01, 0.9] + [0.01] * 20, {0: 0.9}, called=[5])
    assert [(told, number) for told, number, called in known if called] == [(6, 0), (6, 5)]
    known = judged(monkeypatch, [0.01, 0.3, 0.01, 0.9] + [0.01] * 20, {1: 0.9}, called=[3])
    assert [number for _, number, called in known if called] == [3], "nothing is known but what overlaps one of the two"


def test_what_ends_too_early_is_judged_by_all_there_is(monkeypatch):
    for noisy in (False, True):
        for heard, verdict in ((0.9, True), (0.2, noisy)):
            known = judged(monkeypatch, [0.4, 0.01, 0.01], {0: heard}, noisy=noisy)
            assert known == [(3, 0, verdict), (3, 1, False), (3, 2, False)]
        assert judged(monkeypatch, [0.4], {0: 0.9}, noisy=noisy) == [(1, 0, noisy)], "nothing around it"


@pytest.mark.parametrize("noisy", [False, True])
def test_silence_does_not_keep_a_window_waiting(monkeypatch, noisy):
    known = judged(monkeypatch, [0.4] + [0.0] * 100, {0: 0.9}, noisy=noisy)
    assert known[0] == (11, 0, noisy)  # 14 s
    known = judged(monkeypatch, [0.01] * 40 + [0.0] * 40 + [0.4] + [0.0] * 40, {80: 0.9}, noisy=noisy)
    assert known[80] == (91, 80, noisy), "what was before the silence is forgotten"


def test_the_noise_counts_only_where_too_little_is_known(monkeypatch):
    known = judged(monkeypatch, [0.3] * 20, {}, noisy=True)
    assert not any(called for _, _, called in known)
    assert all(called for _, _, called in judged(monkeypatch, [0.3, 0.3], {}, noisy=True))


@pytest.mark.parametrize("settings", [{"contrast": False}, {"threshold": 0.5}, {"min_votes": 3}])
def test_with_a_rule_of_ones_own_no_window_waits(monkeypatch, settings):
    known = judged(monkeypatch, [0.3, 0.7] * 5, {}, noisy=True, called=range(1, 10, 2), **settings)
    assert known == [(number + 1, number, number % 2 == 1) for number in range(10)]


class InNoise(StandIn):
    """The stand-in with a noise level that hears noise everywhere, or nowhere."""

    def __init__(self, intercept, **options):
        super().__init__(**options)
        self.noise = NoiseLevel(np.zeros(34), np.ones(34), np.zeros(34), intercept)



def weak_scream(seconds):
    """Noise, and from 1 to 2 s a tone that the stand-in takes for a scream, but not quite."""
    samples = 0.1 * np.random.default_rng(3).normal(size=seconds * SAMPLE_RATE)
    samples[SAMPLE_RATE : 2 * SAMPLE_RATE] += 0.1 * np.sin(2 * np.pi * 2000 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    return [samples.astype(np.float32)]


@pytest.mark.parametrize("noisy, burst, heard", [(True, False, 0.4), (False, True, 1.8), (True, True, 0.4), (False, False, None)],
                         ids=["its noise", "its loud part", "its noise first", "no second look"])
def test_a_window_remembers_what_was_heard_of_it_alone(noisy, burst, heard):
    ensemble = HearsAgain(at(1.8), hears_noise(noisy))
    window = ScoredWindow(0.0, WINDOW_S, (0.0, 3.0), 0.0, 0.0, at(-1), at(-1)[0], 0, False)
    recent = RecentSamples()
    recent.add(with_a_burst() if burst else sounding(0))
    assert verdict_alone(recent, ensemble, window) is (heard is not None)
    if heard is None:
        assert window.heard_again is None
    else:
        assert window.heard_again == (pytest.approx(at(heard)[0]), 6)


def test_an_event_tells_what_was_heard_alone():
    [event] = scan(weak_scream(4), InNoise(30.0))["events"]
    assert event["probability"] > 0.8 and event["votes"] == 6, "of the window as it is: at most 0.5 and 2"


@pytest.mark.parametrize("noisy, verdict", [(-30, "non_scream"), (30, "scream")])
def test_a_weak_scream_in_a_noisy_clip_is_an_event(noisy, verdict):
    record, quiet = scan(weak_scream(4), InNoise(float(noisy))), scan(weak_scream(4), InNoise(-30.0))
    assert record["verdict"] == verdict and quiet["verdict"] == "non_scream"
    assert all(event["start_s"] < 3 for event in record["events"]) and len(record["events"]) == (verdict == "scream")
    assert record["probability"] == quiet["probability"], "ranking does not know of the noise"
    assert 0.1 < quiet["probability"] < 0.5


@pytest.mark.parametrize("seconds", [6, 10, 60])
@pytest.mark.parametrize("noisy", [-30.0, 30.0])
def test_a_weak_scream_beside_some_seconds_of_noise_is_an_event(seconds, noisy):
    [event] = scan(weak_scream(seconds), InNoise(noisy))["events"]
    assert event["start_s"] < 1.5 < event["end_s"]


def test_rows_in_noise_hold_clip_and_noise(monkeypatch):
    rng = np.random.default_rng(4)
    at = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    sounds = {"tone": np.sin(2 * np.pi * 1000 * at).astype(np.float32), "hiss": scenes.coloured_noise(WINDOW, rng, 0.0)}
    monkeypatch.setattr(extraction, "read_audio_again", lambda path: sounds[path])
    clip, noise = (Clip(name, "non_scream", "s", name, name) for name in ("tone", "hiss"))
    rows = extraction.describe_noisy(clip, [noise] * 5, [0, 1])
    assert [background for background, _ in rows] == [noise] * 5
    zcr = [features[FEATURE_NAMES.index("zcr_mean")] for _, features in rows]
    alone = describe_window(np.resize(sounds["tone"], WINDOW))[0][FEATURE_NAMES.index("zcr_mean")]
    assert len(set(zcr)) == 5 and min(zcr) > 1.2 * alone, "five levels of noise"
