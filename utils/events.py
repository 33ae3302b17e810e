"""Events: what turns one scored window after another into stretches of time. It knows nothing of audio."""

import collections
import math
from dataclasses import dataclass

EXIT_SHARE = 0.6  # default exit threshold as a share of the enter threshold

STANDS_OUT_FROM = 0.05  # a window with a lower probability never stands out from its background
NEAR_HIGHEST, NEAR_HIGHEST_FROM = 0.5, 0.2  # it must be more probable than all of its background, but from 0.2 on at most 0.5
# less, in log-odds, than the highest of it
HEARD_AGAIN_FROM = 0.36  # the least probability of a second look at it (--second-look)
ABOVE_BACKGROUND = 0.5  # by so much, in log-odds, the second look at it must exceed that at its background
FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.75  # if it exceeds that by 1.75, three quarters of HEARD_AGAIN_FROM are enough
FIRST_LOOK_SHARE = 0.2  # to that difference, such a share of the difference of the first looks is added
BACKGROUND_S, LEAST_BACKGROUND_S = 30.0, 10.0  # what counts as the background, and how much of it must be there
BACKGROUND_LOOKS = 3  # so many of its most probable windows, which do not overlap, are looked at again
AROUND_AGAIN = 0.09  # is added to HEARD_AGAIN_FROM where the background is what comes before and after
SURE, SURE_VOTES = 0.8, 6  # a verdict of this probability, or of so many votes, counts whatever came before
SAME_SOUND_S = 2.9  # windows that begin less than this apart overlap
RULE = {"from": STANDS_OUT_FROM, "near_highest": NEAR_HIGHEST, "near_highest_from": NEAR_HIGHEST_FROM,
        "above_background": ABOVE_BACKGROUND, "far_above_background": FAR_ABOVE_BACKGROUND, "faint_share": FAINT_SHARE,
        "first_look_share": FIRST_LOOK_SHARE, "background_s": BACKGROUND_S, "least_background_s": LEAST_BACKGROUND_S,
        "around_again": AROUND_AGAIN, "background_looks": BACKGROUND_LOOKS, "sure": SURE, "sure_votes": SURE_VOTES,
        "same_sound_s": SAME_SOUND_S}  # a journal's records hold for one rule only


@dataclass(frozen=True)
class EventSettings:
    """When an event begins, goes on and ends. Times in seconds, probabilities 0-1.

    With neither `threshold` nor `min_votes`, the vote decides (a window's verdict); in longer recordings a window must also
    stand out from what surrounds it, and may then do so with fewer votes (see Background; not with `contrast` False).
    Either of the two, or both, take the place of this.
    """

    threshold: float | None = None  # a window fires from this probability on ...
    min_votes: int | None = None  # ... if also so many models say scream
    exit_threshold: float | None = None  # an open event goes on down to this probability
    min_duration: float = 0.0  # a shorter event is dropped
    max_gap: float = 2.5  # pauses about as long do not end an event; those of a mono stream then come 4.8 s late (but see Judge)
    padding: float = 0.0  # added on both sides
    contrast: bool = True  # windows are judged by how they stand out from their background
    second_look: float = HEARD_AGAIN_FROM  # what stands out fires from this probability of a second look on (see Background)

    def __post_init__(self):
        if self.exit_threshold is None:
            object.__setattr__(self, "exit_threshold", EXIT_SHARE * (0.5 if self.threshold is None else self.threshold))
        for name in ("threshold", "exit_threshold", "second_look"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1")
        if self.threshold is not None and self.exit_threshold > self.threshold:
            raise ValueError("exit_threshold must not be above threshold")
        for name in ("min_duration", "max_gap", "padding"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more seconds")

    @property
    def gap_s(self):
        """So long a pause does not end an event: padded neighbours must not overlap, either."""
        return max(self.max_gap, 2 * self.padding)

    @property
    def by_vote(self):
        """Whether a window's verdict decides, not a threshold."""
        return self.threshold is None and self.min_votes is None

    def fires(self, votes, probability, verdict):
        if self.by_vote:
            return bool(verdict)
        if probability == 0:  # silence, which no model has scored: no threshold makes it a scream
            return False
        return probability >= (self.threshold or 0) and votes >= (self.min_votes or 0)


DEFAULT_SETTINGS = EventSettings()


def background_of(start_s):
    """Where the background of a window that begins there begins and ends, in seconds; before 0 is nothing."""
    return start_s - BACKGROUND_S - SAME_SOUND_S, start_s - SAME_SOUND_S


def log_odds_of(probability):  # not utils.calibration's: the options import this file, and --help should not wait for numpy
    bounded = min(max(probability, 1e-3), 1 - 1e-3)
    return math.log(bounded / (1 - bounded))


class Background:
    """What the vote's probability has been in the last seconds, and which windows stand out from it.

    Noise lowers the probability of a scream, but that of everything else more: the scream still stands out. And what the
    vote takes for a weak scream again and again, such as a frog, does not. Radar finds echoes in clutter so, by an ordered
    statistic of their surroundings (Rohling 1983), here nearly the highest. What stands out is verified by a second look,
    which hears less of the background and only the loud part of a window: there it must stand out, too, from what a second
    look hears in the background, and the farther it does, the less probable it may be. The background is what came before;
    until LEAST_BACKGROUND_S of it are known, it is what comes before and after, or all there is at the end of a recording.
    """

    def __init__(self, hop_s, second_look=HEARD_AGAIN_FROM):
        """hop_s: seconds from one window to the next. second_look: see EventSettings."""
        self.second_look = second_look
        # between two window starts, so that no rounding decides: those that end where a window begins may hold its sound, too
        self.apart_s = (math.ceil(SAME_SOUND_S / hop_s) + 0.5) * hop_s
        self.hop_s, self.n_least = hop_s, round(LEAST_BACKGROUND_S / hop_s)
        self.enough_s = self.apart_s + LEAST_BACKGROUND_S  # from one window on: by then its background is known, or was silent
        self.windows = collections.deque()  # (start in seconds, probability), oldest first

    def judge(self, start_s, votes, probability, verdict, look_again):
        """Whether the next window is a scream beside those before it.

        start_s: its start in seconds; votes, probability, verdict: as the vote gives them. look_again: a function that takes
        the starts of windows and returns the probability (0-1) of each on a second look; called only where that decides.
        Returns bool, or None where too little is known of what was before; after that the window is one of those before.
        """
        while self.windows and self.windows[0][0] < background_of(start_s)[0]:
            self.windows.popleft()
        before = [window for window in self.windows if start_s - window[0] >= self.apart_s]
        self.windows.append((start_s, probability))
        if len(before) < self.n_least:
            return None
        if verdict and (probability >= SURE or votes >= SURE_VOTES):
            return True
        return self._stands_out(start_s, probability, before, self.second_look, look_again)

    def judge_around(self, start_s, probability, look_again, until_s=None):
        """Whether a window of which `judge` knew too little stands out from those before and after it.

        Returns bool, or None until LEAST_BACKGROUND_S of them have been given to `judge`. until_s: where no more is to come,
        the moment before which windows must begin to count; one is enough then, and None says that there is none.
        """
        apart_s = self.apart_s if until_s is None else self.apart_s - self.hop_s  # the next ones hardly overlap it
        around = [window for window in self.windows if abs(start_s - window[0]) >= apart_s]
        if until_s is not None:
            around = [window for window in around if window[0] < until_s]
        if len(around) < (self.n_least if until_s is None else 1):
            return None
        return self._stands_out(start_s, probability, around, self.second_look + AROUND_AGAIN, look_again)

    def _stands_out(self, start_s, probability, background, heard_from, look_again):
        lacks = log_odds_of(max(other for _, other in background)) - log_odds_of(probability)
        if probability < STANDS_OUT_FROM or lacks >= (NEAR_HIGHEST if probability >= NEAR_HIGHEST_FROM else 0):
            return False
        heard_again = look_again([start_s])[0]
        if heard_again < FAINT_SHARE * heard_from:
            return False
        highest = []  # starts
        for start, _ in sorted(background, key=lambda window: -window[1]):
            if len(highest) < BACKGROUND_LOOKS and all(abs(start - other) >= SAME_SOUND_S for other in highest):
                highest.append(start)
        heard_above = log_odds_of(heard_again) - log_odds_of(max(look_again(highest)))
        needed = ABOVE_BACKGROUND if heard_again >= heard_from else FAR_ABOVE_BACKGROUND
        return heard_above > 0 and heard_above - FIRST_LOOK_SHARE * lacks >= needed


class EventDetector:
    """Takes windows in order of time and gives back each event as soon as nothing can change it any more.

    Events are dicts {start_s, end_s, probability (highest), votes (highest)}, in order and without overlap.
    """

    def __init__(self, settings=DEFAULT_SETTINGS):
        self.settings = settings
        self.reset()

    def reset(self):
        """Forget everything: the next window belongs to another recording."""
        self.event = None  # the open event
        self.closed_until = 0.0  # end of the last event given back

    def add(self, start_s, end_s, votes, probability, verdict=False):
        """Take the next window: what it stands for in seconds, and its scores. Returns the event it ends, or None."""
        settings = self.settings
        max_gap = settings.gap_s  # by then an event's padded end is known to lie inside the recording, too
        fires = settings.fires(votes, probability, verdict)
        ended = None
        if self.event and start_s - self.event["end_s"] > max_gap:
            ended = self._close(self.event["end_s"] + settings.padding)
        if self.event and (fires or probability >= settings.exit_threshold):
            self.event["end_s"] = max(self.event["end_s"], end_s)
            self.event["probability"] = max(self.event["probability"], probability)
            self.event["votes"] = max(self.event["votes"], votes)
        elif fires and end_s > self.closed_until:
            self.event = {"start_s": start_s, "end_s": end_s, "probability": probability, "votes": votes}
        elif self.event and end_s - self.event["end_s"] > max_gap:
            ended = self._close(self.event["end_s"] + settings.padding)
        return ended

    def begun(self):
        """The open event as far as it is known, with its padding; None without one, or while it may still be too short."""
        if self.event is None:
            return None
        start_s = max(self.event["start_s"], self.closed_until)
        if self.event["end_s"] - start_s < self.settings.min_duration:
            return None
        return self.event | {"start_s": max(start_s - self.settings.padding, self.closed_until)}

    def finish(self, end_of_recording_s):
        """The recording ends here. Returns the event that was still open, or None; then starts anew."""
        ended = None
        if self.event:
            self.event["end_s"] = min(self.event["end_s"], end_of_recording_s)
            ended = self._close(min(self.event["end_s"] + self.settings.padding, end_of_recording_s))
        self.reset()
        return ended

    def _close(self, padded_end_s):
        event, self.event = self.event, None
        event["start_s"] = max(event["start_s"], self.closed_until)
        if event["end_s"] - event["start_s"] < self.settings.min_duration:
            return None
        event["start_s"] = max(event["start_s"] - self.settings.padding, self.closed_until)
        event["end_s"] = self.closed_until = padded_end_s
        return event
