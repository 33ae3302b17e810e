"""One scorer for every input: blocks of samples -> windows -> scores and votes -> events -> the record of a recording.

Files, pipes and the microphone all come through here, so they give the same answer. Memory does not depend on the
length of the recording: a few batches of windows and about three minutes of samples are held, nothing else.
"""

import collections
import functools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_HOP, WINDOW_S, RecentSamples, clean_window, cut_windows, without_offset
from utils.background_noise import noise_power, subtract_noise, subtract_own_noise
from utils.ensemble import pool_looks, verdict_in_noise
from utils.events import DEFAULT_SETTINGS, SAME_SOUND_S, STANDS_OUT_FROM, Background, EventDetector, background_of
from utils.features import describe_window
from utils.loudness import loud_part, loud_samples, window_level
from utils.noise_level import PART_LACKS, PART_SHIFT
from utils.ranking import PARTS, RecordingProbability

BATCH = 32  # windows scored together at most: larger ones gain little, and a minute's
# recording still keeps two threads busy


@dataclass
class ScoredWindow:
    """One window of a recording and what the models say. Times in seconds from the start of the recording."""

    start_s: float  # the window itself
    end_s: float
    core: tuple[float, float]  # the part it stands for: cores of consecutive windows touch and cover the recording
    level_db: float  # peak in dBFS
    band_level_db: float  # see utils.loudness.window_level
    probabilities: np.ndarray  # float64 [n_models], in the order of ensemble.names
    probability: float  # of the ensemble
    votes: int
    verdict: bool
    of_loud_part: np.ndarray | None = None  # float64 [2, n_models], once hear_loud_part has been asked for it
    heard_again: tuple[float, int] | None = None  # probability and votes of the last look at it for a verdict, if not the first


def score_windows(blocks, ensemble, hop=WINDOW_HOP, batch=BATCH, must_wait=None):
    """Yield a ScoredWindow for each window of a recording.

    blocks: iterable of float32 arrays, mono at 22,050 Hz, of any size. ensemble: names, score and combine as in
    utils.ensemble. hop: samples between window starts. batch: windows scored together; fewer if must_wait() says that
    the next window is not there yet. Windows too quiet to hold anything get probability 0 unscored.
    """
    ended = False

    def watched():
        nonlocal ended
        yield from blocks
        ended = True  # cut_windows gives the last window after this

    def batches():
        waiting = []
        for start, samples in cut_windows(watched(), hop):
            waiting.append((start, samples, ended))
            if len(waiting) >= batch or (must_wait and must_wait()):
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    if must_wait or batch == 1:  # somebody waits for each answer
        for waiting in batches():
            yield from score_batch(waiting, ensemble, hop)
    else:
        yield from score_side_by_side(batches(), ensemble, hop)


def score_side_by_side(batches, ensemble, hop):
    """Yield the ScoredWindows of batches in their order, scored by ensemble.threads threads."""
    threads = getattr(ensemble, "threads", 1)
    pool = ThreadPoolExecutor(threads)
    begun = collections.deque()
    try:
        for waiting in batches:
            begun.append(pool.submit(score_batch, waiting, ensemble, hop))
            if len(begun) > threads:  # one more than threads: they go on while the windows of another are judged
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    finally:  # also after Ctrl-C, or when nobody wants the rest
        pool.shutdown(cancel_futures=True)


def score_batch(batch, ensemble, hop):
    """List of (first sample, samples, is last) -> list of ScoredWindows."""
    cleaned = [clean_window(samples) for _, samples, _ in batch]
    heard = [index for index, window in enumerate(cleaned) if window is not None]
    probabilities = np.zeros((len(batch), len(ensemble.names)))
    probability, votes, verdict = np.zeros(len(batch)), np.zeros(len(batch), int), np.zeros(len(batch), bool)
    if heard:
        probabilities[heard] = ensemble.score(np.stack([cleaned[index] for index in heard]))
        probability[heard], votes[heard], verdict[heard] = ensemble.combine(probabilities[heard])
    scored = []
    for index, (start, samples, is_last) in enumerate(batch):
        start_s, end_s = start / SAMPLE_RATE, (start + len(samples)) / SAMPLE_RATE
        centre = start + WINDOW // 2
        core = (0.0 if start == 0 else (centre - hop / 2) / SAMPLE_RATE, end_s if is_last else (centre + hop / 2) / SAMPLE_RATE)
        peak = float(np.abs(samples).max(initial=0))
        scored.append(ScoredWindow(start_s, end_s, core, 20 * np.log10(max(peak, 1e-6)), window_level(samples),
                                   probabilities[index], float(probability[index]), int(votes[index]), bool(verdict[index])))
    return scored


def level_samples(recent, start_s, end_s):
    """Samples between two moments of RecentSamples without their offset, which would be a step at both ends."""
    return without_offset(recent.cut(start_s, end_s))


def score_loud_parts(pairs, ensemble, otherwise):
    """Probabilities [2 n, n_models] of the loud parts of n windows, each alone, as if it were a short clip.

    pairs: for each window its samples, as they are and with noise taken out; the second ones count as the first if they are too
    quiet to be heard. otherwise: the probabilities [n_models] of first ones that are.
    """
    heard = []
    for pair in pairs:
        as_it_is, less_noise = (clean_window(loud_samples(samples)) for samples in pair)
        heard += [as_it_is, as_it_is if less_noise is None else less_noise]  # None: too quiet, so was the noise
    scores = np.tile(otherwise, (len(heard), 1))
    loud_enough = [index for index, samples in enumerate(heard) if samples is not None]
    if loud_enough:
        scores[loud_enough] = ensemble.score(np.stack([heard[index] for index in loud_enough]))
    return scores


def hear_loud_part(recent, ensemble, window, shorter_than_s=math.inf, most_db=math.inf):
    """Probabilities [2, n_models] of the loud part of a ScoredWindow alone, as it is and without the window's own noise.

    None if no part of it is louder than the rest, or only one that is not so short, or by more than most_db (see
    utils.loudness.loud_part). Nothing is heard twice.
    """
    samples = level_samples(recent, window.start_s, window.end_s)
    part = loud_part(samples, most_db)
    if part is None or part[1] - part[0] >= shorter_than_s:
        return None
    if window.of_loud_part is None:
        window.of_loud_part = score_loud_parts([(samples, subtract_own_noise(samples))], ensemble, window.probabilities)
    return window.of_loud_part


def second_look(recent, ensemble, judged_s, starts_s, known_s=None):
    """Probability float [n] and votes int [n] of windows on a second look, which hears less of the background.

    recent: RecentSamples. judged_s: start of the window that is judged, in seconds; the noise before it is the background, and
    so is the noise after it, until known_s, if that is given. starts_s: starts of the windows to look at [n]. Each model hears
    the loud part of a window, as if it were a short clip, twice: as it is, and with the noise taken out of the window first;
    the mean of its log-odds counts.
    """
    background = recent.cut(*background_of(judged_s))
    if known_s is not None:
        background = np.concatenate([background, recent.cut(judged_s + WINDOW_S, known_s)])
    noise, pairs = noise_power(background), []
    for start_s in starts_s:
        window = level_samples(recent, start_s, start_s + WINDOW_S)
        pairs.append((window, subtract_noise(window, noise)))
    scores = score_loud_parts(pairs, ensemble, np.zeros(len(ensemble.names)))
    return ensemble.combine(pool_looks(scores.reshape(len(starts_s), 2, -1)))[:2]


def loud_limits(recent, window):
    """Where the sound of a ScoredWindow is loud, in seconds: the limits that it lends to an event."""
    if window.probability == 0:  # too quiet to be scored
        return window.core
    part = loud_part(level_samples(recent, window.start_s, window.end_s))
    return window.core if part is None else (window.start_s + part[0], window.start_s + part[1])


def verdict_alone(recent, ensemble, window):
    """The vote on a ScoredWindow of which nothing around it is known.

    A noisy window is heard a second time without its own noise, with the operating point of that noise. And a sound may fill
    only a part of its window: if a part is louder than the rest, it is heard alone, as if it were a short clip, as it is and
    without that noise, and is asked for a little more. What the vote calls a scream is one in any case, and what is less
    probable than STANDS_OUT_FROM is none.
    """
    if window.verdict or window.probability < STANDS_OUT_FROM or getattr(ensemble, "noise", None) is None:
        return window.verdict
    samples = recent.cut(window.start_s, window.end_s)
    shift = ensemble.noise.shift(describe_window(clean_window(samples))[0][None])[0]
    if shift:
        cleaned = clean_window(subtract_own_noise(samples))
        again = window.probabilities if cleaned is None else ensemble.score(cleaned[None])[0]
        if verdict_again(ensemble, window, [window.probabilities, again], shift):
            return True
    heard = hear_loud_part(recent, ensemble, window)
    return heard is not None and verdict_again(ensemble, window, heard, PART_SHIFT * shift - PART_LACKS)


def verdict_again(ensemble, window, looks, shift):
    """The vote on several looks at a ScoredWindow, [looks, n_models], log-odds raised by shift; the window remembers them."""
    heard = pool_looks(looks)
    probability, votes, _ = ensemble.combine(heard[None])
    window.heard_again = probability[0], votes[0]
    return verdict_in_noise(heard, shift)


class Judge:
    """Which windows of a recording are screams, beside what surrounds them; fed window by window.

    Where too little is known before a window, in the first 13 s and after as much silence as the background is long, it waits
    until enough is known after it, at most 14 s, or the recording ends; the windows after it wait with it. What the vote calls
    a scream there is one, and waits for nothing: windows that wait before it are judged by what is known without it. Nor does
    anything wait while an event of the vote may be open; it would be part of that.
    """

    def __init__(self, recent, ensemble, settings=DEFAULT_SETTINGS, hop=WINDOW_HOP):
        """recent: RecentSamples, which must hold what needed_from_s asks for, up to the end of the window added last."""
        self.recent, self.ensemble, self.settings = recent, ensemble, settings
        self.background = Background(hop / SAMPLE_RATE, settings.second_look)
        self.waiting = collections.deque()  # (ScoredWindow, verdict), None for one that is not known yet
        self.newest = None  # ScoredWindow
        self.open_until_s = -math.inf  # windows that begin before may belong to an event of the vote

    @property
    def needed_from_s(self):
        """No samples before this moment will be asked for."""
        return background_of((self.waiting[0][0] if self.waiting else self.newest).start_s)[0]

    def add(self, window):
        """The next ScoredWindow. Yields (ScoredWindow, verdict) of those that are known by now, in order."""
        self.newest = window
        if window.verdict or (window.start_s < self.open_until_s and window.probability >= self.settings.exit_threshold):
            self.open_until_s = window.start_s + WINDOW_S + self.settings.gap_s
        self.waiting.append((window, self._beside_those_before(window)))
        while self.waiting:
            first, verdict = self.waiting[0]
            if verdict is None and window.verdict:
                verdict = bool(self._beside_those_around(first, window.start_s - SAME_SOUND_S))
            elif verdict is None:
                verdict = self._beside_those_around(first)
            if verdict is None:
                if window.start_s - first.start_s < self.background.enough_s:
                    return
                verdict = self._beside_all_there_is(first)  # there was silence, which tells nothing
            self.waiting.popleft()
            yield first, verdict

    def finish(self):
        """The recording has ended. Yields the others."""
        while self.waiting:
            window, verdict = self.waiting.popleft()
            yield window, self._beside_all_there_is(window) if verdict is None else verdict

    def _beside_those_before(self, window):
        if not (self.settings.contrast and self.settings.by_vote and window.probability > 0):  # 0: too quiet to be a background
            return window.verdict
        verdict = self.background.judge(window.start_s, window.votes, window.probability, window.verdict,
                                        self._look_again(window, None))
        if verdict is None and (window.start_s < self.open_until_s or window.probability < STANDS_OUT_FROM):
            return window.verdict
        return verdict

    def _beside_those_around(self, window, until_s=None):
        known_s = self.newest.end_s if until_s is None else min(until_s, self.newest.end_s)
        return self.background.judge_around(window.start_s, window.probability, self._look_again(window, known_s), until_s)

    def _beside_all_there_is(self, window):
        return self._beside_those_around(window, math.inf) or verdict_alone(self.recent, self.ensemble, window)

    def _look_again(self, window, known_s):
        def look_again(starts_s):
            probability, votes = second_look(self.recent, self.ensemble, window.start_s, starts_s, known_s)
            if starts_s == [window.start_s]:
                window.heard_again = probability[0], votes[0]
            return probability

        return look_again


def rounded(event):
    """An event as users see it: times to the millisecond."""
    return {"start_s": round(event["start_s"], 3), "end_s": round(event["end_s"], 3),
            "probability": round(event["probability"], 6), "votes": event["votes"]}


def local_time():
    """The time of day here, with its distance from UTC."""
    return datetime.now().astimezone()


def scan(blocks, ensemble, settings=DEFAULT_SETTINGS, hop=WINDOW_HOP, batch=BATCH, file="-", on_event=None, on_window=None,
         must_wait=None, on_start=None, clock=None):
    """Analyse a recording and return its record, a dict that json can write.

    blocks: iterable of float32 arrays, mono at 22,050 Hz, of any size; the result depends neither on their size nor on
    how many windows are scored together (batch, must_wait: see score_windows).
    on_event(event) is called as soon as an event has ended, on_window(ScoredWindow) after each window, on_start(event) as
    soon as one has begun, with its end and scores as far as they are known; those that Judge lets wait come later.
    clock: for sound that is heard as it comes, a function that returns the time of day, such as local_time: on_event and
    on_start then get the "time" (ISO 8601) at which an event began. The record is the same with and without it.
    The record holds file, duration_s, verdict, probability (see utils.ranking), votes and models (those of the most
    probable window) and events. Raises AudioError when the blocks do.
    """
    detector, recent, recording = EventDetector(settings), RecentSamples(), RecordingProbability()
    judge = Judge(recent, ensemble, settings, hop)
    events, best, announced, stream_began = [], None, None, None

    def tell(listener, event):
        told = rounded(event)
        if clock:
            told["time"] = (event["stream_began"] + timedelta(seconds=event["start_s"])).isoformat(timespec="milliseconds")
        listener(told)

    def keep(event):
        if event:
            events.append(rounded(event))
            if on_event:
                tell(on_event, event)

    def take(window, verdict):
        nonlocal announced
        fires = settings.fires(window.votes, window.probability, verdict)
        counts = fires or window.probability >= settings.exit_threshold
        limits = loud_limits(recent, window) if counts else window.core
        votes, probability = window.votes, window.probability
        if fires and window.heard_again:  # an event tells the highest of its windows, each as it is and as it was heard again
            votes, probability = max(votes, int(window.heard_again[1])), max(probability, float(window.heard_again[0]))
        keep(detector.add(*limits, votes, probability, verdict))
        if clock and detector.event:  # once for an event, so that its start and its end tell the same time
            detector.event.setdefault("stream_began", stream_began)
        begun = detector.begun()
        if on_start and begun and detector.event is not announced:
            announced = detector.event
            tell(on_start, begun)

    for window in score_windows(recent.remember(blocks), ensemble, hop, batch, must_wait):
        if clock and not judge.waiting:  # else it was told when the first of them came
            stream_began = clock() - timedelta(seconds=recent.end / SAMPLE_RATE)
        for judged in judge.add(window):
            take(*judged)
        recent.forget(judge.needed_from_s)
        recording.add(window.start_s, window.probability, window.band_level_db,
                      functools.partial(hear_loud_part, recent, ensemble, window, **PARTS))
        if best is None or window.probability > best.probability:
            best = window
        if on_window:
            on_window(window)
    for judged in judge.finish():
        take(*judged)
    keep(detector.finish(recent.end / SAMPLE_RATE))
    scores = np.zeros(len(ensemble.names)) if best is None else best.probabilities
    return {
        "file": file,
        "duration_s": round(recent.end / SAMPLE_RATE, 3),
        "verdict": "scream" if events else "non_scream",
        "probability": round(recording.finish(), 6),
        "votes": best.votes if best else 0,
        "models": {name: {"verdict": "scream" if score >= 0.5 else "non_scream", "probability": round(float(score), 6)}
                   for name, score in zip(ensemble.names, scores)},
        "events": events,
    }
