"""The event state machine, on strings under a ruler: one letter is one window of one second.

. nothing (0.0)   - below the exit threshold (0.2)   o above it, but not firing (0.4)   A fires (0.9)   a fires (0.6)
An expected event stands under its windows as <==>: its first second is the first letter, its last second the last.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.audio import SAMPLE_RATE, WINDOW_S
from utils.events import Background, EventDetector, EventSettings

SCORES = {".": (0, 0.0), "-": (1, 0.2), "o": (2, 0.4), "a": (4, 0.6), "A": (6, 0.9)}


def run(windows, detector=None, **settings):
    """Feed a string of windows to the state machine: list of events."""
    detector = detector or EventDetector(EventSettings(**settings))
    events = []
    for second, letter in enumerate(windows):
        votes, probability = SCORES[letter]
        events.append(detector.add(second, second + 1, votes, probability, verdict=letter in "aA"))
    events.append(detector.finish(len(windows)))
    return [event for event in events if event]


def drawn(events, length):
    """Events with whole-second limits, as a string under the ruler."""
    line = [" "] * length
    for event in events:
        first, last = int(event["start_s"]), int(event["end_s"]) - 1
        line[first : last + 1] = "<" + "=" * (last - first - 1) + ">" if last > first else "|"
    return "".join(line)


def check(windows, expected, **settings):
    assert drawn(run(windows, **settings), len(windows)) == expected.ljust(len(windows))


def test_a_run_of_firing_windows_is_one_event():
    #      0123456789
    check("..AAAA....",
          "  <==>", max_gap=0)


def test_nothing_gives_no_event():
    check("..........", "")
    check("", "")


def test_one_window_is_an_event():
    check("....A.....",
          "    |", max_gap=0)


def test_event_at_both_edges_of_the_recording():
    check("AA.....AAA",
          "<>     <=>", max_gap=0)


def test_open_event_goes_on_down_to_the_exit_threshold():
    #      0123456789012345
    check("oooAoo-oo..Aooo-",
          "   <=>     <==>", max_gap=0)


def test_exit_threshold_alone_never_begins_an_event():
    check("oooooo", "")


def test_exit_threshold_can_be_set():
    check("AAoo--..",
          "<====>", exit_threshold=0.2, max_gap=0)
    check("AAoo--..",
          "<>", exit_threshold=0.5, max_gap=0)


def test_default_exit_threshold_lies_below_the_threshold():
    assert EventSettings().exit_threshold == pytest.approx(0.3)
    assert EventSettings(threshold=0.8).exit_threshold == pytest.approx(0.48)


def test_gaps_up_to_the_maximum_are_bridged():
    #      01234567890123
    check("AA..A...A.....",
          "<===>   |", max_gap=2)
    check("AA..A...A.....",
          "<=======>", max_gap=3)


def test_exit_level_after_a_bridged_gap_continues_the_event():
    check("AA.oo...",
          "<===>", max_gap=1)


def test_short_events_are_dropped_after_gaps_are_bridged():
    check("A...AA....A.A.",
          "    <>    <=>", max_gap=1, min_duration=2)


def test_what_lies_in_the_last_event_does_not_count_for_the_duration():
    detector = EventDetector(EventSettings(threshold=0.5, exit_threshold=0.4, max_gap=0, min_duration=0.8))
    assert detector.add(0.0, 2.0, 6, 0.9) is None
    assert detector.add(1.0, 2.5, 0, 0.1)["end_s"] == 2.0
    assert detector.add(1.5, 2.4, 6, 0.9) is None  # 0.9 s, of which 0.4 s are new
    assert detector.finish(10.0) is None


def test_padding_stays_inside_the_recording_and_between_events():
    #      0123456789012
    check("A.....AA....A",
          "<>   <==>  <>", padding=1, max_gap=0)


def test_padded_neighbours_become_one_event():
    check("....A..A....",
          "   <====>", padding=1, max_gap=0)


def test_threshold_takes_the_place_of_the_verdict():
    check("aaAAaa", "  <>", threshold=0.8, exit_threshold=0.8, max_gap=0)
    check(".oo...", " <>", threshold=0.3, max_gap=0)


def test_a_probability_at_the_threshold_counts():
    check(".aao.", " <>", threshold=0.6, exit_threshold=0.6, max_gap=0)
    check(".aao.", " <=>", threshold=0.6, exit_threshold=0.4, max_gap=0)


def test_silence_is_no_scream_at_any_threshold():
    for settings in (EventSettings(threshold=0.0), EventSettings(min_votes=0)):
        assert not settings.fires(0, 0.0, False) and settings.fires(0, 1e-6, False)


def test_min_votes():
    check("aaAAa.", "  <=>", min_votes=5, max_gap=0)  # the last a is above the exit threshold
    check("ooAAaa", "<====>", min_votes=2, max_gap=0)
    check("ooAAaa", "  <==>", min_votes=2, threshold=0.8, max_gap=0)


def limits(*windows, **settings):
    """Events of firing windows (start_s, end_s), or (start_s, end_s, probability) of others, as [(start_s, end_s)]."""
    detector = EventDetector(EventSettings(**settings))
    events = [detector.add(start, end, 6, *(rest or (0.9,)), verdict=not rest) for start, end, *rest in windows]
    return [(event["start_s"], event["end_s"]) for event in [*events, detector.finish(100)] if event]


def test_firing_windows_whose_sounds_lie_apart_are_two_events():
    assert limits((1.0, 1.5), (3.0, 3.5), max_gap=1) == [(1.0, 1.5), (3.0, 3.5)]
    assert limits((1.0, 1.5), (2.0, 3.5), max_gap=1) == [(1.0, 3.5)]


def test_an_event_never_reaches_back_into_the_last_one():
    assert limits((1.0, 4.0), (4.0, 6.0, 0.0), (3.5, 5.0), max_gap=1) == [(1.0, 4.0), (4.0, 5.0)]
    assert limits((1.0, 4.0), (4.0, 6.0, 0.0), (3.0, 3.9), max_gap=1) == [(1.0, 4.0)]


def test_event_reports_highest_probability_and_votes():
    assert run(".aAao.", max_gap=0) == [{"start_s": 1, "end_s": 5, "probability": 0.9, "votes": 6}]


def test_event_is_given_back_as_soon_as_it_is_certain():
    detector = EventDetector(EventSettings(max_gap=1))
    ended = [bool(detector.add(i, i + 1, *SCORES[c], verdict=c == "A")) for i, c in enumerate("A..A")]
    assert ended == [False, False, True, False]
    assert detector.finish(4) == {"start_s": 3, "end_s": 4, "probability": 0.9, "votes": 6}


@pytest.mark.parametrize("settings, begins, start_s", [
    ({}, 2, 2.0), ({"min_duration": 2.0}, 3, 2.0), ({"min_duration": 2.5}, 4, 2.0), ({"padding": 1.5}, 2, 0.5),
    ({"padding": 3.0}, 2, 0.0)])
def test_what_has_begun_is_known_while_it_goes_on(settings, begins, start_s):
    """From the first window on, or from when nothing drops it as too short; it never reaches back into the last event."""
    detector, known = EventDetector(EventSettings(max_gap=0, **settings)), []
    for second, letter in enumerate("..AAAA........"):
        detector.add(second, second + 1, *SCORES[letter], verdict=letter == "A")
        known.append(detector.begun())
    assert next(second for second, event in enumerate(known) if event) == begins
    assert known[begins]["start_s"] == start_s and known[begins]["end_s"] == begins + 1
    assert known[-1] is None
    detector.closed_until = 14.75
    detector.add(14.5, 18, *SCORES["A"], verdict=True)
    assert detector.begun()["start_s"] == 14.75


def test_finish_cuts_at_the_end_of_the_recording():
    detector = EventDetector(EventSettings(padding=5))
    detector.add(0, 3, 6, 0.9, True)
    assert detector.finish(2.5) == {"start_s": 0, "end_s": 2.5, "probability": 0.9, "votes": 6}


def test_duration_counts_up_to_the_end_of_the_recording():
    detector = EventDetector(EventSettings(min_duration=2.8))
    detector.add(0, 3, 6, 0.9, True)
    assert detector.finish(2.5) is None


def test_a_window_that_ends_earlier_does_not_shorten_the_event():
    detector = EventDetector()
    detector.add(0, 5, 6, 0.9, True)
    detector.add(1, 2, 6, 0.9, True)
    assert detector.finish(10)["end_s"] == 5


def test_a_window_inside_an_event_that_has_been_given_back_begins_no_other():
    """Windows around silence may end before the one before them: what lies within the padding is told already."""
    detector = EventDetector(EventSettings(padding=1.0, max_gap=2.0))
    windows = [(0.0, 1.0, 0.9, True), (1.0, 3.5, 0.0, False), (1.2, 1.8, 0.9, True), (2.0, 3.0, 0.4, False)]
    events = [detector.add(start, end, 6, probability, verdict) for start, end, probability, verdict in windows]
    assert [event and event["end_s"] for event in events] == [None, 2.0, None, None]
    assert detector.finish(4.0) is None


def test_reset_forgets_the_open_event_and_the_time():
    detector = EventDetector()
    detector.add(100, 101, 6, 0.9, True)
    detector.reset()
    assert run("A.", detector) == [{"start_s": 0, "end_s": 1, "probability": 0.9, "votes": 6}]


def test_finish_readies_the_detector_for_the_next_recording():
    detector = EventDetector()
    assert run("..AA", detector) == run("..AA", detector)


def test_two_detectors_share_nothing():
    one, other = EventDetector(), EventDetector()
    one.add(0, 1, 6, 0.9, True)
    assert other.finish(1) is None


@pytest.mark.parametrize("settings", [
    {"threshold": 1.1}, {"threshold": -0.1}, {"exit_threshold": 2}, {"threshold": 0.3, "exit_threshold": 0.4},
    {"second_look": 1.5}, {"second_look": -0.1},
    {"min_duration": -1}, {"max_gap": -1}, {"padding": -1}, {"padding": float("nan")}, {"max_gap": float("inf")},
])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError):
        EventSettings(**settings)


@given(
    windows=st.text("..--oaA", max_size=40), max_gap=st.floats(0, 4), padding=st.floats(0, 3), min_duration=st.floats(0, 3),
    overlap=st.floats(0, 3),
)
def test_events_are_ordered_disjoint_and_inside_the_recording(windows, max_gap, padding, min_duration, overlap):
    detector = EventDetector(EventSettings(max_gap=max_gap, padding=padding, min_duration=min_duration))
    events = []
    for second, letter in enumerate(windows):  # limits of firing windows may overlap those of their neighbours
        reach = overlap if letter in "aoA" else 0
        start_s, end_s = max(0, second - reach), min(second + 1 + reach, len(windows))
        events.append(detector.add(start_s, end_s, *SCORES[letter], letter in "aA"))
    events.append(detector.finish(len(windows)))
    events = [event for event in events if event]
    limits = [limit for event in events for limit in (event["start_s"], event["end_s"])]
    assert limits == sorted(limits)
    assert all(event["start_s"] < event["end_s"] for event in events)
    cut = [event for event in events if event["end_s"] < len(windows)]  # the end of the recording may cut the last one
    assert all(event["end_s"] - event["start_s"] >= min_duration - 1e-9 for event in cut)
    assert all(0 <= limit <= len(windows) for limit in limits)


# what stands out from its background

CALM, HOP_S = [0.04] * 42, 1.4745


def fires(probability, before, verdict=False, hop_s=HOP_S, pause_s=0.0, votes=3, heard=1.0, heard_before=0.0, looks=None,
          **options):
    """Whether a window fires after others of the given probabilities.

    heard, heard_before: what a second look hears in it, and in those before. looks: list that gets the starts of each look.
    """
    background, start_s = Background(hop_s, **options), len(before) * hop_s + pause_s

    def look_again(starts_s):
        if looks is not None:
            looks.append([round(start / hop_s) for start in starts_s])
        return [heard if start == start_s else heard_before for start in starts_s]

    for index, earlier in enumerate(before):
        background.judge(index * hop_s, 0, earlier, False, lambda starts_s: np.ones(len(starts_s)))
    return background.judge(start_s, votes, probability, verdict, look_again)


def probability_at(log_odds):
    return 1 / (1 + math.exp(-log_odds))


def test_a_window_that_stands_out_from_calm_seconds_needs_no_majority():
    assert fires(0.051, CALM) and not fires(0.049, CALM)
    assert fires(1.0, CALM) and not fires(0.0, CALM)


@pytest.mark.parametrize("verdict", [True, False])
def test_it_must_be_nearly_as_probable_as_anything_in_the_half_minute_before(verdict):
    def before(position):  # one such window, so many before the one to be judged
        windows = [0.01] * 42
        windows[-position] = probability_at(0.9)
        return windows

    enough, too_little = probability_at(0.41), probability_at(0.39)  # odds of the window that lack 0.49 and 0.51
    assert fires(enough, before(3), verdict) and not fires(too_little, before(3), verdict)
    assert not fires(too_little, before(22), verdict)  # the last of 20, after the 2 that may hold the same sound
    assert fires(too_little, before(23), verdict) and fires(too_little, before(2), verdict)


def test_what_is_improbable_must_be_more_probable_than_all_of_its_background():
    assert fires(0.21, [0.22] * 42) and not fires(0.19, [0.19] * 42) and fires(0.19, [0.18] * 42)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_second_look_must_hear_a_scream_and_no_such_thing_in_the_background(verdict):
    before = [0.5] * 42  # as probable as the window itself
    heard = {"heard_before": probability_at(-1.5)}
    assert fires(0.5, before, verdict, heard=0.365, **heard) and not fires(0.5, before, verdict, heard=0.355, **heard)
    assert fires(0.5, before, verdict, heard=0.31, second_look=0.3, **heard)
    assert not fires(0.5, before, verdict, heard=0.49, second_look=0.5, **heard)
    background = probability_at(0.0)
    assert fires(0.5, before, verdict, heard=probability_at(0.51), heard_before=background)
    assert not fires(0.5, before, verdict, heard=probability_at(0.49), heard_before=background)


@pytest.mark.parametrize("verdict", [True, False])
def test_what_lies_far_above_the_background_may_be_fainter(verdict):
    """Three quarters of what is asked of others on a second look."""
    before, heard = [0.5] * 42, probability_at(-0.6)  # 0.35
    assert fires(0.5, before, verdict, heard=0.275) and not fires(0.5, before, verdict, heard=0.265)
    assert fires(0.5, before, verdict, heard=0.46, second_look=0.6)
    assert not fires(0.5, before, verdict, heard=0.44, second_look=0.6)
    assert fires(0.5, before, verdict, heard=heard, heard_before=probability_at(-2.36))
    assert not fires(0.5, before, verdict, heard=heard, heard_before=probability_at(-2.34))


def test_a_second_look_that_hears_no_more_than_in_the_background_is_none():
    calm = [0.001] * 42
    assert fires(0.5, calm, heard=0.61, heard_before=0.6) and not fires(0.5, calm, heard=0.6, heard_before=0.6)


@pytest.mark.parametrize(("lies_above", "needed"), [(0.0, 0.5), (1.0, 0.3), (2.0, 0.1), (-0.4, 0.58)])
def test_a_fifth_of_how_far_the_window_itself_stands_out_counts(lies_above, needed):
    before = [probability_at(-lies_above)] * 42
    for heard, fired in ((needed + 0.01, True), (needed - 0.01, False)):
        assert fires(0.5, before, heard=probability_at(heard), heard_before=0.5) == fired
    for above, fired in ((needed + 1.26, True), (needed + 1.24, False)):  # and one that is fainter
        assert fires(0.5, before, heard=probability_at(-0.6), heard_before=probability_at(-0.6 - above)) == fired


def test_the_three_most_probable_windows_are_the_background_of_a_second_look():
    looks, before = [], [0.04] * 42
    before[25], before[30], before[35], before[38] = 0.1, 0.11, 0.12, 0.09
    before[10], before[40] = 0.3, 0.3  # too long ago, and the same sound
    assert fires(0.4, before, looks=looks)
    assert [sorted(starts) for starts in looks] == [[42], [25, 30, 35]]
    background, heard = Background(HOP_S), {25: 0.1, 30: 0.47, 35: 0.1}
    for index, earlier in enumerate(before):
        background.judge(index * HOP_S, 0, earlier, False, lambda starts_s: np.ones(len(starts_s)))
    assert not background.judge(42 * HOP_S, 0, 0.4, False, lambda starts_s: np.array(
        [heard.get(round(start / HOP_S), 0.5) for start in starts_s]))  # the highest of them counts


def test_the_windows_that_stand_for_the_background_do_not_overlap():
    looks = []
    assert fires(0.4, [0.04] * 100 + [0.3, 0.31, 0.3] + [0.04] * 100 + [0.2, 0.21] + [0.04] * 60 + [0.1] + [0.04] * 30,
                 hop_s=0.1, looks=looks)
    assert looks == [[296], [101, 204, 265]]


def test_what_the_vote_is_sure_of_need_not_stand_out():
    before = [0.9] * 42
    assert fires(0.81, before, verdict=True) and not fires(0.79, before, verdict=True)
    assert not fires(0.81, before, verdict=False)
    assert fires(0.81, CALM, verdict=False)
    assert fires(0.6, before, verdict=True, votes=6) and not fires(0.6, before, verdict=True, votes=5)


@pytest.mark.parametrize(("probability", "before", "verdict", "decided", "n_looks"), [
    (0.9, CALM, True, True, 0), (0.04, [0.03] * 42, False, False, 0), (0.4, [0.53] * 42, False, False, 0),
    (0.6, [0.05] * 8, True, None, 0), (0.4, CALM, False, False, 1),
], ids=["the vote is sure", "low", "does not stand out", "too early", "no scream on a second look"])
def test_nothing_is_looked_at_again_where_that_decides_nothing(probability, before, verdict, decided, n_looks):
    looks = []
    assert fires(probability, before, verdict, heard=0.0, looks=looks) == decided and len(looks) == n_looks


def test_the_background_begins_after_some_ten_seconds():
    """7 windows, and the 2 before the window itself, which may hold the same sound."""
    assert fires(0.45, [0.05] * 9) and fires(0.45, [0.05] * 8) is None
    assert fires(0.45, [0.05] * 26, hop_s=0.5) and fires(0.45, [0.05] * 25, hop_s=0.5) is None
    assert fires(0.45, [0.6] * 9, verdict=True) is False and fires(0.45, [0.6] * 8, verdict=True) is None


def around(probability, before, after, heard=1.0, heard_before=0.0, until=None, looks=None):
    """What is known of a window with others of the given probabilities before and after it; see fires."""
    background, judged_s = Background(HOP_S), len(before) * HOP_S

    def look_again(starts_s):
        if looks is not None:
            looks.append([round(start / HOP_S) for start in starts_s])
        return [heard if start == judged_s else heard_before for start in starts_s]

    for index, other in enumerate([*before, probability, *after]):
        background.judge(index * HOP_S, 0, other, False, lambda starts_s: np.ones(len(starts_s)))
    return background.judge_around(judged_s, probability, look_again, None if until is None else until * HOP_S)


def test_an_early_window_is_judged_beside_those_around_it():
    """7 windows, and on each side the 2 that may hold the same sound."""
    assert around(0.3, [], [0.05] * 9) and around(0.3, [], [0.05] * 8) is None
    assert around(0.3, [0.05] * 5, [0.05] * 6) and around(0.3, [0.05] * 5, [0.05] * 5) is None
    assert around(0.3, [0.05] * 3, [0.6] * 2 + [0.05] * 7), "the same sound is no background"
    for louder in range(7):
        others = [0.05] * louder + [0.6] + [0.05] * (6 - louder)
        assert around(0.3, [0.05] * 3, [0.05] * 2 + others) is False and around(0.3, [*others, 0.05, 0.05], [0.05] * 3) is False
    looks = []
    around(0.3, [0.06, 0.05, 0.05, 0.05], [0.05] * 4 + [0.07, 0.05, 0.05], looks=looks)
    assert looks[0] == [4] and set(looks[1]) >= {0, 9} and len(looks[1]) == 3


def test_less_background_asks_for_more_on_a_second_look():
    calm = [0.05] * 4, [0.05] * 10
    assert around(0.3, *calm, heard=0.451, heard_before=0.2) and not around(0.3, *calm, heard=0.449, heard_before=0.2)
    assert around(0.3, *calm, heard=0.449, heard_before=0.05), "unless it stands out far"


def test_where_no_more_is_to_come_one_window_is_background_enough():
    everything = math.inf
    assert around(0.3, [], [0.05] * 2, until=everything) and around(0.3, [0.05] * 2, [], until=everything)
    assert around(0.3, [0.05], [0.05], until=everything) is None, "both overlap it"
    assert around(0.3, [], [0.05, 0.6], until=everything) is False
    assert around(0.3, [], [0.05] * 2, heard=0.3, until=everything) is False


def test_what_begins_later_than_asked_for_is_no_background():
    after = [0.05] * 3 + [0.9]
    assert around(0.3, [], after, until=4) and around(0.3, [], after, until=4.5) is False
    assert around(0.3, [], after, until=2) is None


@pytest.mark.parametrize("hop_s", [0.1, 0.5, 0.7, HOP_S, 2.0, 2.9, WINDOW_S])
def test_whether_windows_overlap_no_rounding_decides(hop_s):
    starts = np.arange(100) * round(hop_s * SAMPLE_RATE) / SAMPLE_RATE
    least = math.ceil(2.9 / hop_s)  # hops from a window to the next that hardly overlaps it
    for first in range(30):
        for apart in (least, least - 1):
            background = Background(hop_s)
            for index in (first, first + apart):
                background.judge(starts[index], 0, 0.05, False, None)
            known = background.judge_around(starts[first], 0.3, lambda starts_s: np.ones(len(starts_s)), math.inf)
            assert (known is not None) == (apart == least)


@pytest.mark.parametrize("hop_s", [0.1, 0.5, 0.7, 1.0, HOP_S, 2.0, 2.9])
def test_there_is_a_background_whatever_the_hop(hop_s):
    assert fires(0.45, [0.05] * 400, hop_s=hop_s) and not fires(0.45, [0.6] * 400, verdict=True, hop_s=hop_s)


def test_a_sound_of_two_windows_is_not_its_own_background():
    assert fires(0.45, [0.05] * 20 + [0.6] * 2) and not fires(0.45, [0.05] * 18 + [0.6] * 4)


def test_a_sound_just_before_a_silence_counts_after_it():
    """The windows of the silence are not judged: the last two of those before are then no part of the same sound."""
    before = [0.05] * 20 + [0.6]
    assert fires(0.45, before) and not fires(0.45, before, pause_s=2.5)


def test_what_was_before_a_silence_is_forgotten():
    """The windows of a silence are not judged, so minutes may lie between one window and the next."""
    before = [0.05] * 40 + [0.75] * 3
    assert not fires(0.6, before, verdict=True, pause_s=5)
    assert fires(0.6, before, verdict=True, pause_s=35) is None
