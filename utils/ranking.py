"""The probability that ranks recordings, from those of their windows."""

import collections
import math

import numpy as np

from utils.calibration import log_odds
from utils.ensemble import combine
from utils.events import BACKGROUND_S, STANDS_OUT_FROM
from utils.noise_level import PART_LACKS
from utils.signal_settings import SAMPLE_RATE, WINDOW_HOP, WINDOW_S

NEAR_S = 5 * WINDOW_HOP / SAMPLE_RATE  # windows that begin at most so far from another are its neighbours: 7.37 s
SLACK_S = 0.01  # for starts that were rounded
PARTS = {"shorter_than_s": WINDOW_S / 2, "most_db": 45.0}  # which loud parts are heard alone: not those beside silence, which
# the models hear well enough in their window
MOST_GAIN = 2.0  # a loud part is not expected to raise the log-odds of its window by more
SHORT_S, NEARLY = 120.0, 0.25  # to save time, from two minutes on only windows are heard again whose log-odds are at most 0.25
# below the highest of the last half minute
SHARPNESS = 0.5  # a neighbour counts with this power of its odds; 0: all alike, infinite: the most probable one alone


class RecordingProbability:
    """How probable a scream is in a recording, fed window by window: the highest of its windows among their neighbours.

    For each window the log-odds of all windows that begin at most NEAR_S before or after it are averaged, each weighted with
    the square root of its odds and, if it is quieter than that window, with how much less power it has where screams are; the
    highest of these means counts. So a window that alone is like a scream, while what is as loud around it is not, counts less
    than several that agree; a quiet background counts little, and a recording of one window counts with that window. It ranks
    better than the highest window (models/EXPERIMENTS.md). Memory does not depend on the length of the recording.

    And a sound may fill a part of its window, and another sound the rest: then its loud part is heard alone, if it is shorter
    than half a full window, and the window counts with that, less PART_LACKS in log-odds, if it is more.
    """

    def __init__(self):
        self.windows = collections.deque()  # (start in s, log-odds, level in dB), from the first neighbour of the next to judge
        self.to_judge = 0  # the first of them whose neighbours may not all be there yet
        self.highest = -math.inf  # mean log-odds
        self.highest_window = -math.inf  # log-odds
        self.recent = collections.deque()  # (start in s, log-odds as it is) of the windows of BACKGROUND_S before the next

    def add(self, start_s, probability, level_db, hear_loud_part=None):
        """The next window, in the order of their starts; probability 0-1, level as of utils.loudness.window_level.

        hear_loud_part: a function that gives the probabilities [looks, models] of its loud part alone, or None if there is none
        as PARTS says. Called only for windows that are not much less probable than the most probable one so far and, from SHORT_S
        on, nearly as probable as all of the last half minute.
        """
        score = float(log_odds(probability))
        while self.recent and start_s - self.recent[0][0] > BACKGROUND_S + SLACK_S:
            self.recent.popleft()
        rivals = [self.highest_window - MOST_GAIN] + [of_recent - NEARLY for _, of_recent in self.recent if start_s >= SHORT_S]
        self.recent.append((start_s, score))
        if hear_loud_part and probability >= STANDS_OUT_FROM and score >= max(rivals):
            heard = hear_loud_part()
            if heard is not None:
                score = max(score, float(log_odds(combine(np.reshape(heard, (1, -1)))[0][0])) - PART_LACKS)
        self.highest_window = max(self.highest_window, score)
        while self.to_judge < len(self.windows) and start_s - self.windows[self.to_judge][0] > NEAR_S + SLACK_S:
            self._judge()
        self.windows.append((start_s, score, level_db))

    def finish(self):
        """After the last window: the probability of the recording, 0-1; 0 if there was no window."""
        while self.to_judge < len(self.windows):
            self._judge()
        return 1 / (1 + math.exp(-self.highest)) if self.highest > -math.inf else 0.0

    def _judge(self):
        """Average the neighbours of one window: no window after them has been added yet."""
        start_s, _, level_db = self.windows[self.to_judge]
        while start_s - self.windows[0][0] > NEAR_S + SLACK_S:
            self.windows.popleft()
            self.to_judge -= 1
        top = max(score for _, score, _ in self.windows)
        weights = [math.exp(SHARPNESS * (score - top)) * min(1.0, 10 ** ((level - level_db) / 10))
                   for _, score, level in self.windows]
        mean = sum(weight * score for weight, (_, score, _) in zip(weights, self.windows)) / sum(weights)
        self.highest = max(self.highest, mean)
        self.to_judge += 1


def recording_probabilities(windows, probability):
    """RecordingProbability of each file of a table of windows, without a look at loud parts: float [n_files], sorted by file.

    windows: utils.dataset.Windows, in any order; probability: [n_windows].
    """
    files, index = np.unique(windows.file, return_inverse=True)
    recordings = [RecordingProbability() for _ in files]
    for row in np.argsort(windows.start_s, kind="stable"):
        recordings[index[row]].add(float(windows.start_s[row]), float(probability[row]), float(windows.band_level_db[row]))
    return np.array([recording.finish() for recording in recordings])
