"""Does a test notice? Break one line at a time, in a copy of the repository, and run the tests that should fail.

    python tests/mutations.py             all breaks: a table, and exit status 1 if one is not caught
    python tests/mutations.py events      those of utils/events.py only
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile

import hypothesis
import pytest

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIBRARIES = ("numpy", "scipy.fft", "librosa", "sklearn.metrics", "sklearn.neighbors", "pandas", "soundfile", "soxr", "torch",
             "joblib")
TESTS = {  # module of utils -> options of pytest: the tests that guard it, without those that run a stage first
    "events": ["tests/test_events.py", "tests/test_noise_level.py"],
    "scan": ["tests/test_scan.py", "tests/test_noise_level.py", "-k", "weak_scream or stands_out or too_quiet or again_and_again "
             "or silence_of_minutes or second_look or alone or heard or recent_samples or looked_at_again "
             "or memory or look or loud_part or an_event_tells "
             "or start_of_an_event or long_enough or time_of_day or wait or early or hide or open"],
    "audio": ["tests/test_scan.py", "-k", "second_look or recent_samples or memory or silence_of_minutes"],  # RecentSamples
    "background_noise": ["tests/test_background_noise.py"],
    "dataset": ["tests/test_dataset.py", "tests/test_copies.py", "-k", "not artifact and not stored_split and not augmented_rows "
                "and not another_size and not failed_stage"],
    "copies": ["tests/test_copies.py"],
    "calibration": ["tests/test_calibration.py"],
    "ranking": ["tests/test_ranking.py", "tests/test_scan.py", "-k", "test_ranking or loud_part"],
    "loudness": ["tests/test_loudness.py"],
    "noise_level": ["tests/test_noise_level.py"],
    "ensemble": ["tests/test_ensemble.py", "tests/test_noise_level.py", "-k", "majority or weak_scream or both_looks or "
                 "three_to_three or one_half_is_a or minority or flipped or swapped or scikit or unlisted or malicious"],
}
BREAKS = [  # module, line, what it becomes
    # recordings that hold the same sound
    ("copies", "max(start - NEIGHBOURHOOD[0], 0)", "start"),
    ("copies", "frames[first : stop + NEIGHBOURHOOD[0]]", "frames[first:stop]"),
    ("copies", "return times + start,", "return times,"),
    ("copies", "LEAST_DB = -60.0", "LEAST_DB = -6.0"),
    ("copies", "FAN_OUT, MOST_SPECTRA = 6, 43", "FAN_OUT, MOST_SPECTRA = 1, 43"),
    ("copies", "counts <= TOO_COMMON", "counts <= 2"),
    ("copies", "here = here[here < len(hashes) - step]", "here = here[here < len(hashes) - TOO_COMMON]"),
    ("copies", "(hashes[here + step] == hashes[here]) & ", ""),
    ("copies", " & (owner[here + step] != owner[here])", ""),
    ("copies", "times[same] - times[same + step]", "0"),
    ("copies", "LEAST_SHARED = 15", "LEAST_SHARED = 3"),
    ("copies", "keys, delays - 1)", "keys, delays)"),
    ("copies", "keys, delays + 2)", "keys, delays + 1)"),
    ("copies", "    together[beside] += counts[beside + 1]\n", ""),
    ("copies", "[delays - 1, delays, delays + 1]", "[delays]"),
    ("copies", "STRETCH = 258", "STRETCH = 20_000"),
    ("copies", "<= STRETCH", "< STRETCH"),
    ("copies", "at = np.sort(times[first:end])", "at = times[first:end]"),
    # the ranking of recordings
    ("ranking", "NEAR_S = 5 * WINDOW_HOP", "NEAR_S = 4.9 * WINDOW_HOP"),
    ("ranking", "NEAR_S = 5 * WINDOW_HOP", "NEAR_S = 6 * WINDOW_HOP"),
    ("ranking", "SHARPNESS = 0.5", "SHARPNESS = 0.6"),
    ("ranking", "min(1.0, 10 ** ((level - level_db) / 10))", "10 ** ((level - level_db) / 10)"),
    ("ranking", "(level - level_db) / 10", "(level - level_db) / 20"),
    ("ranking", "float(windows.band_level_db[row])", "0.0"),
    ("ranking", "            self.to_judge -= 1", "            pass"),
    ("ranking", "start_s - self.windows[0][0] > NEAR_S", "start_s - self.windows[0][0] > 2 * NEAR_S"),
    ("ranking", "start_s - self.windows[self.to_judge][0] > NEAR_S", "start_s - self.windows[self.to_judge][0] > 2 * NEAR_S"),
    ("ranking", "max(self.highest, mean)", "mean"),
    ("ranking", "MOST_GAIN = 2.0", "MOST_GAIN = 1.8"),
    ("ranking", "MOST_GAIN = 2.0", "MOST_GAIN = 2.2"),
    ("ranking", "and probability >= STANDS_OUT_FROM and", "and"),
    ("ranking", "[self.highest_window - MOST_GAIN]", "[-9]"),
    ("ranking", "            if heard is not None:\n", "            if heard is not None and heard.size > 1:\n"),
    ("ranking", "score = max(score, float(log", "score = max(-9, float(log"),
    ("ranking", "[0][0])) - PART_LACKS)", "[0][0])))"),
    ("ranking", "max(self.highest_window, score)", "max(self.highest_window, float(log_odds(probability)))"),
    ("ranking", 'np.argsort(windows.start_s, kind="stable")', "range(len(probability))"),
    # what stage 1 was made of
    ("dataset", "hash_or_nothing(clip.path), clip.label", "clip.label"),
    ("dataset", "clip.group, clip.sound_class)\n", "clip.group)\n"),
    ("dataset", "    for pair in copies:\n        joined.join(*pair)\n", ""),
    # the noise in a short clip
    ("noise_level", "NOISY_FROM = 0.2", "NOISY_FROM = 0.21"),
    ("noise_level", "MOST_SHIFT = 1.75", "MOST_SHIFT = 1.8"),
    ("noise_level", "/ (1 - NOISY_FROM), 0, 1)", "/ (1 - NOISY_FROM), -1, 1)"),
    ("noise_level", "- self.mean) / self.scale", "- self.mean)"),
    ("noise_level", "scaler.transform(features)", "features"),
    ("noise_level", "or not (level.scale > 0).all()", ""),
    ("ensemble", "LEAST_PROBABILITY).mean(axis=-2)", "LEAST_PROBABILITY)[..., 0, :]"),
    ("ensemble", "LEAST_PROBABILITY).mean(axis=-2)", "LEAST_PROBABILITY)[..., 1, :]"),
    ("ensemble", "from_log_odds(log_odds(heard) + shift)", "from_log_odds(log_odds(heard))"),
    ("scan", "[window.probabilities, again], shift)", "[again, again], shift)"),
    ("scan", "            if starts_s == [window.start_s]:\n", "            if True:\n"),
    ("scan", "            if starts_s == [window.start_s]:\n", "            if False:\n"),
    ("scan", "if fires and window.heard_again:", "if window.heard_again:"),
    ("scan", "if fires and window.heard_again:", "if False:"),
    ("scan", "max(votes, int(window.heard_again[1])), max(probability,", "int(window.heard_again[1]), max(probability,"),
    ("scan", "max(probability, float(window.heard_again[0]))", "float(window.heard_again[0])"),
    ("scan", "    window.heard_again = probability[0], votes[0]\n    return", "    return"),
    ("scan", "clean_window(subtract_own_noise(samples))", "clean_window(samples)"),
    ("scan", "describe_window(clean_window(samples))[0]", "describe_window(np.ones(WINDOW, np.float32))[0]"),
    ("scan", "or window.probability < STANDS_OUT_FROM or getattr(ensemble", "or getattr(ensemble"),
    ("scan", "    if shift:\n        cleaned", "    if True:\n        cleaned"),
    ("scan", "window.probabilities, again], shift)", "window.probabilities, again], 0.0)"),
    ("scan", "window.probabilities if cleaned is None else ", ""),
    # the loud part of a window alone
    ("scan", "return heard is not None and verdict", "return verdict"),
    ("scan", "[(samples, subtract_own_noise(samples))]", "[(samples, samples)]"),
    ("scan", "[(samples, subtract_own_noise(samples))]", "[(subtract_own_noise(samples), subtract_own_noise(samples))]"),
    ("scan", "if window.of_loud_part is None:", "if True:"),
    ("scan", "if part is None or part[1]", "if part and part[1]"),
    ("scan", "part[1] - part[0] >= shorter_than_s", "part[1] >= shorter_than_s"),
    ("scan", "part[1] - part[0] >= shorter_than_s", "part[1] - part[0] >= 1.0"),
    ("scan", "recent, ensemble, window, **PARTS))", "recent, ensemble, window))"),
    ("scan", "return without_offset(recent.cut(start_s, end_s))", "return recent.cut(start_s, end_s)"),
    ("scan", "part = loud_part(samples, most_db)", "part = loud_part(samples)"),
    ("ranking", "WINDOW_S / 2, ", "WINDOW_S / 1.9, "),
    ("ranking", "WINDOW_S / 2, ", "WINDOW_S / 2.1, "),
    ("ranking", '"most_db": 45.0', '"most_db": 44.0'),
    ("ranking", "SHORT_S, NEARLY = 120.0, 0.25", "SHORT_S, NEARLY = 119.0, 0.25"),
    ("ranking", "SHORT_S, NEARLY = 120.0, 0.25", "SHORT_S, NEARLY = 121.0, 0.25"),
    ("ranking", "SHORT_S, NEARLY = 120.0, 0.25", "SHORT_S, NEARLY = 120.0, 0.23"),
    ("ranking", "SHORT_S, NEARLY = 120.0, 0.25", "SHORT_S, NEARLY = 120.0, 0.27"),
    ("ranking", "> BACKGROUND_S + SLACK_S", "> 2 * BACKGROUND_S"),
    ("ranking", "> BACKGROUND_S + SLACK_S", "> BACKGROUND_S - 1"),
    ("ranking", "self.recent.append((start_s, score))", "self.recent = collections.deque([(start_s, score)])"),
    ("ranking", '"most_db": 45.0', '"most_db": 46.0'),
    ("loudness", "<= loud - quiet <= most_db", "<= loud - quiet"),
    ("scan", "as_it_is if less_noise is None else less_noise]", "less_noise]"),
    ("scan", "ensemble, window.probabilities)\n    return", "ensemble, np.zeros(6))\n    return"),
    ("scan", "PART_SHIFT * shift - PART_LACKS", "shift - PART_LACKS"),
    ("scan", "PART_SHIFT * shift - PART_LACKS", "PART_SHIFT * shift"),
    # windows that wait
    ("scan", "if verdict is None and window.verdict:", "if False:"),
    ("scan", "window.start_s - SAME_SOUND_S))", "math.inf))"),
    ("scan", "verdict = bool(self._beside_those_around(first, window.start_s - SAME_SOUND_S))",
     "verdict = self._beside_all_there_is(first)"),
    ("scan", "< self.background.enough_s:", "< 30:"),
    ("scan", "< self.background.enough_s:", "< 12:"),
    ("scan", "                verdict = self._beside_those_around(first)\n", "                pass\n"),
    ("scan", "if verdict is None and (window.start_s < self.open_until_s or ", "if verdict is None and ("),
    ("scan", "(window.start_s < self.open_until_s and window.probability >= self.settings.exit_threshold)", "False"),
    ("scan", "(window.start_s < self.open_until_s and window.probability", "(window.probability"),
    ("scan", "WINDOW_S + self.settings.gap_s", "WINDOW_S + self.settings.max_gap"),
    ("scan", "math.inf) or verdict_alone(self.recent, self.ensemble, window)", "math.inf) or False"),
    ("scan", "self._beside_those_around(window, math.inf) or ", ""),
    ("scan", "if clock and not judge.waiting:", "if clock:"),
    ("scan", "self.waiting[0][0] if self.waiting else self.newest", "self.newest"),
    ("scan", "starts_s, known_s)\n            if", "starts_s, None)\n            if"),
    ("scan", "recent.cut(judged_s + WINDOW_S, known_s)", "recent.cut(judged_s + 2 * WINDOW_S, known_s)"),
    ("events", "AROUND_AGAIN = 0.09", "AROUND_AGAIN = 0.093"),
    ("events", "AROUND_AGAIN = 0.09", "AROUND_AGAIN = 0.087"),
    ("events", "apart_s = self.apart_s if until_s is None else self.apart_s - self.hop_s", "apart_s = self.apart_s"),
    ("events", "self.apart_s - self.hop_s", "SAME_SOUND_S"),
    ("events", "(self.n_least if until_s is None else 1)", "self.n_least"),
    ("events", "(self.n_least if until_s is None else 1)", "1"),
    ("events", "for window in around if window[0] < until_s]", "for window in around]"),
    ("events", "if abs(start_s - window[0]) >= apart_s", "if start_s - window[0] >= apart_s"),
    ("background_noise", "power[level > level.max() * 10 ** (-TRIM_DB / 10)]", "power"),
    ("background_noise", "QUIETEST = 0.1", "QUIETEST = 0.5"),
    ("background_noise", " / -np.log(1 - QUIETEST)", ""),
    ("background_noise", "samples = without_offset(samples)", "pass"),
    ("events", "            return None\n        if verdict and", "            return verdict\n        if verdict and"),
    ("scan", "if window.verdict or window.probability", "if True or window.probability"),
    # the event machine
    ("events", "EXIT_SHARE = 0.6", "EXIT_SHARE = 0.9"),
    ("events", "STANDS_OUT_FROM = 0.05", "STANDS_OUT_FROM = 0.048"),
    ("events", "HEARD_AGAIN_FROM = 0.36", "HEARD_AGAIN_FROM = 0.38"),
    ("events", "heard_again >= heard_from else", "heard_again >= HEARD_AGAIN_FROM else"),
    ("events", "heard_again < FAINT_SHARE * heard_from", "heard_again < FAINT_SHARE * HEARD_AGAIN_FROM"),
    ("events", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.75", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.77, 0.75"),
    ("events", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.75", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.73, 0.75"),
    ("events", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.75", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.79"),
    ("events", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.75", "FAR_ABOVE_BACKGROUND, FAINT_SHARE = 1.75, 0.71"),
    ("events", "return heard_above > 0 and", "return"),
    ("events", "FIRST_LOOK_SHARE = 0.2", "FIRST_LOOK_SHARE = 0.22"),
    ("events", "FIRST_LOOK_SHARE = 0.2", "FIRST_LOOK_SHARE = 0.18"),
    ("events", "NEAR_HIGHEST_FROM = 0.5, 0.2", "NEAR_HIGHEST_FROM = 0.52, 0.2"),
    ("events", "NEAR_HIGHEST_FROM = 0.5, 0.2", "NEAR_HIGHEST_FROM = 0.48, 0.2"),
    ("events", "NEAR_HIGHEST_FROM = 0.5, 0.2", "NEAR_HIGHEST_FROM = 0.5, 0.18"),
    ("events", "NEAR_HIGHEST_FROM = 0.5, 0.2", "NEAR_HIGHEST_FROM = 0.5, 0.215"),
    ("scan", "detector.event is not announced", "True"),
    ("scan", "stream_began = clock() - timedelta(seconds=recent.end / SAMPLE_RATE)", "stream_began = clock()"),
    ("scan", ", settings.second_look)", ")"),
    ("events", "HEARD_AGAIN_FROM = 0.36", "HEARD_AGAIN_FROM = 0.34"),
    ("events", "ABOVE_BACKGROUND = 0.5", "ABOVE_BACKGROUND = 0.52"),
    ("events", "ABOVE_BACKGROUND = 0.5", "ABOVE_BACKGROUND = 0.48"),
    ("events", "BACKGROUND_LOOKS = 3", "BACKGROUND_LOOKS = 2"),
    ("events", "BACKGROUND_LOOKS = 3", "BACKGROUND_LOOKS = 4"),
    ("events", "key=lambda window: -window[1])", "key=lambda window: window[1])"),
    ("events", "and all(abs(start - other) >= SAME_SOUND_S for other in highest)", ""),
    ("events", "log_odds_of(max(look_again(", "log_odds_of(min(look_again("),
    ("events", "log_odds_of(max(other for", "log_odds_of(min(other for"),
    ("events", "if probability == 0:", "if False:"),
    ("events", "start_s - BACKGROUND_S - SAME_SOUND_S", "-1e9"),
    ("events", "start_s - BACKGROUND_S - SAME_SOUND_S", "start_s - BACKGROUND_S"),
    ("events", "SURE_VOTES = 0.8, 6", "SURE_VOTES = 0.9, 6"),
    ("events", "SURE_VOTES = 0.8, 6", "SURE_VOTES = 0.8, 5"),
    ("events", "if verdict and (probability", "if (probability"),
    ("events", "(probability >= SURE or votes >= SURE_VOTES)", "probability >= SURE"),
    ("events", "< self.n_least:\n            return None", "< self.n_least:\n            return False"),
    ("events", "LEAST_BACKGROUND_S = 30.0, 10.0", "LEAST_BACKGROUND_S = 30.0, 8.0"),
    ("events", "LEAST_BACKGROUND_S = 30.0, 10.0", "LEAST_BACKGROUND_S = 30.0, 12.0"),
    ("events", "LEAST_BACKGROUND_S = 30.0, 10.0", "LEAST_BACKGROUND_S = 35.0, 10.0"),
    ("events", " if start_s - window[0] >= self.apart_s", ""),
    ("events", "(math.ceil(SAME_SOUND_S / hop_s) + 0.5)", "(math.ceil(SAME_SOUND_S / hop_s) - 0.5)"),
    ("events", "self.windows.append((start_s, probability))", "pass"),
    ("events", "return probability >= (self.threshold or 0) and", "return probability > (self.threshold or 0) and"),
    ("events", "and votes >= (self.min_votes or 0)", "and votes > (self.min_votes or 0)"),
    ("events", "and votes >= (self.min_votes or 0)", "or votes >= (self.min_votes or 0)"),
    ("events", "return bool(verdict)", "return probability >= 0.65"),
    ("events", "max(self.max_gap, 2 * self.padding)", "self.max_gap"),
    ("events", 'start_s - self.event["end_s"] > max_gap', 'start_s - self.event["end_s"] >= max_gap'),
    ("events", "(fires or probability >= settings.exit_threshold)", "fires"),
    ("events", "(fires or probability >= settings.exit_threshold)", "(fires or probability >= settings.exit_threshold / 2)"),
    ("events", 'max(self.event["probability"], probability)', "probability"),
    ("events", 'max(self.event["votes"], votes)', "votes"),
    ("events", "elif fires and end_s > self.closed_until:", "elif fires:"),
    ("events", 'max(self.event["end_s"], end_s)', "end_s"),
    ("events", 'elif self.event and end_s - self.event["end_s"] > max_gap', "elif False"),
    ("events", 'self.event["end_s"] = min(self.event["end_s"], end_of_recording_s)', "pass"),
    ("events", "+ self.settings.padding, end_of_recording_s)", "+ self.settings.padding, 1e9)"),
    ("events", "        self.reset()\n        return ended", "        return ended"),
    ("events", 'event["start_s"] < self.settings.min_duration', 'event["start_s"] <= self.settings.min_duration'),
    ("events", "- start_s < self.settings.min_duration", "- start_s <= self.settings.min_duration"),
    ("events", "- start_s < self.settings.min_duration", "< 0"),
    ("events", '"start_s": max(start_s - self.settings.padding, self.closed_until)}', '"start_s": start_s}'),
    ("events", 'max(event["start_s"] - self.settings.padding, self.closed_until)', 'event["start_s"] - self.settings.padding'),
    ("events", 'event["end_s"] = self.closed_until = padded_end_s', 'event["end_s"] = padded_end_s'),
    ("events", "        self.event = None  # the open event", '        self.event = getattr(self, "event", None)'),
    # windows that stand out from their background
    ("scan", "and window.probability > 0):", "):"),
    ("scan", "(self.settings.contrast and self.settings.by_vote and", "(self.settings.by_vote and"),
    ("scan", "(self.settings.contrast and self.settings.by_vote and", "(self.settings.contrast and"),
    ("scan", "verdict = self.background.judge(", "verdict = window.verdict or self.background.judge("),
    ("scan", "judge(window.start_s, window.votes,", "judge(window.start_s, 0,"),
    ("scan", "judge(window.start_s, window.votes,", "judge(0.0, window.votes,"),
    ("scan", "window.probability, window.verdict,\n", "window.probability, False,\n"),
    ("loudness", "samples[round(part[0] * SAMPLE_RATE) :", "samples[:"),
    ("loudness", "np.percentile(band_level(finite_samples(samples)), LOUD_SHARE)", "band_level(finite_samples(samples)).mean()"),
    ("loudness", "band_level(finite_samples(samples))", "band_level(samples)"),
    ("loudness", " - FULL_SCALE_DB)", ")"),
    ("loudness", "SCREAM_BAND = (700, 6000)", "SCREAM_BAND = (200, 9000)"),
    ("scan", "clean_window(loud_samples(samples))", "clean_window(samples)"),
    ("scan", "(window, subtract_noise(window, noise))", "(window, window)"),
    ("scan", "recent.cut(*background_of(judged_s))", "recent.cut(*background_of(judged_s + 5))"),
    ("audio", "            self.add(block)\n", ""),
    ("scan", "as_it_is if less_noise is None else less_noise", "less_noise"),
    ("scan", "        recent.forget(", "        (lambda _: None)("),
    ("scan", "if samples is not None]", "]"),
    ("scan", "second_look(self.recent, self.ensemble, window.start_s,", "second_look(self.recent, self.ensemble, 0.0,"),
    ("audio", "block[max(0, first - begin) :", "block[max(0, first) :"),
    ("audio", "+ len(self.blocks[0][1]) <= first", "<= first"),
    ("audio", "        self.end += len(block)", "        self.end = len(block)"),
    ("background_noise", "OVERSUBTRACTION = 4.0", "OVERSUBTRACTION = 1.0"),
    ("background_noise", "LEAST_GAIN_DB = -20.0", "LEAST_GAIN_DB = -40.0"),
    ("background_noise", "10 ** (LEAST_GAIN_DB / 10)", "10 ** (LEAST_GAIN_DB / 20)"),
    ("background_noise", "frames[frames.any(axis=1)]", "frames"),
    ("background_noise", "np.square(hann()[piece])", "hann()[piece]"),
    ("background_noise", "[N_FFT // 2 : N_FFT // 2 + n_samples]", "[:n_samples]"),
    ("scan", "Background(hop / SAMPLE_RATE,", "Background(hop,"),
    # groups and splits
    ("dataset", "SPLIT_SHARES = (0.70, 0.15, 0.15)", "SPLIT_SHARES = (0.50, 0.25, 0.25)"),
    ("dataset", "NEIGHBOURS_PER_GROUP = 25", "NEIGHBOURS_PER_GROUP = 1"),
    ("dataset", "int(numbers[-1]) // NEIGHBOURS_PER_GROUP", "int(numbers[0]) // NEIGHBOURS_PER_GROUP"),
    ("dataset", "f\"esc-{row['src_file']}\"", "f\"esc-{row['filename']}\""),
    ("dataset", '"non_scream", "esc50"', '"scream", "esc50"'),
    ("dataset", "joined.join(group_of.setdefault(digest, clip.group), clip.group)", "group_of.setdefault(digest, clip.group)"),
    ("dataset", "group=joined.root(clip.group)", "group=clip.group"),
    ("dataset", "first, second = sorted((self.root(one), self.root(other)))", "first, second = self.root(one), self.root(other)"),
    ("dataset", "+ radius, side", ", side"),
    ("dataset", "< radius ** 2, k=1)", "< radius ** 2, k=2)"),
    ("dataset", "order[first + np.stack([row, other], axis=1)]", "first + np.stack([row, other], axis=1)"),
    ("dataset", "(one * len(names) + other)[one != other]", "(one * len(names) + other)[:0]"),
    ("dataset", "    if expected is None:", "    if False:"),
    ("dataset", "(os.path.realpath(clip.path), clip.label), clip)", "clip.path, clip)"),
    ("dataset", "(os.path.realpath(clip.path), clip.label), clip)", "os.path.realpath(clip.path), clip)"),
    ("dataset", "os.path.realpath(path) not in listed", "path not in listed"),
    ("dataset", "part[members[group]] = chosen", "part[members[group][0]] = chosen"),
    ("dataset", "dealt[chosen] += size", "dealt[chosen] += 0"),
    ("dataset", "key=lambda group: -len(members[group])", "key=lambda group: len(members[group])"),
    ("dataset", "for group in sorted(members):", "for group in members:"),
    ("dataset", "    rng = np.random.default_rng(seed)\n    shares", "    rng = np.random.default_rng()\n    shares"),
    ("dataset", '(fold + 1) % folds] = "validation"', '(fold + 1)] = "validation"'),
    ("dataset", 'split[part == fold] = "test"', 'split[part == fold] = "train"'),
    ("dataset", 'split[split == "test"] = "train"', "pass"),
    ("dataset", "split[~np.isin(windows.source, list(sources))]", "split[np.isin(windows.source, list(sources))]"),
    ("dataset", "clip in seen and background in seen", "clip in seen"),
    ("dataset", "zip(augmented.mix_source, augmented.mix_group)", "zip(augmented.source, augmented.mix_group)"),
    ("dataset", "windows.group[split == part]", "windows.group[split != \"test\"]"),
    # operating points and the vote
    ("calibration", "OPERATING_SHARE = 0.75", "OPERATING_SHARE = 0.7"),
    ("calibration", "SCREAMS_QUANTILE = 0.5, 0.75", "SCREAMS_QUANTILE = 0.5, 0.5"),
    ("calibration", "SCREAMS_QUANTILE = 0.5, 0.75", "SCREAMS_QUANTILE = 0.9, 0.75"),
    ("calibration", "np.clip(probability, bound, 1 - bound)", "np.clip(probability, bound, 1)"),
    ("calibration", "score[label == 0], OTHERS_QUANTILE", "score, OTHERS_QUANTILE"),
    ("calibration", "len(np.unique(label)) < 2", "False"),
    ("calibration", "LEAST_QUANTILE = 0.95", "LEAST_QUANTILE = 0.9"),
    ("calibration", "threshold += 1e-6", "threshold += 0"),
    ("calibration", "np.argmin(losses)", "np.argmax(losses)"),
    ("calibration", "np.where(label == 1, distance, -distance)", "np.where(label == 1, -distance, distance)"),
    ("calibration", '- calibration["threshold"]', '+ calibration["threshold"]'),
    ("ensemble", "(probabilities >= 0.5).sum(axis=1)", "(probabilities > 0.5).sum(axis=1)"),
    ("ensemble", "others = probabilities.shape[1] - votes", "others = 6 - votes"),
    ("ensemble", "(votes > others)", "(votes >= others)"),
    ("ensemble", "(votes > others)", "(votes > others + 1)"),
    ("ensemble", "report[\"model\"] != name", "False"),
    ("ensemble", "hexdigest() != report[\"sha256\"]", "hexdigest() == \"\""),
    ("ensemble", "if made_with != installed:", "if False:"),
    ("ensemble", "and not is_listed(report[\"sha256\"]):", "and False:"),
    ("ensemble", "weights_only=True", "weights_only=False"),
]


def copy_repository(target):
    """Everything the tests need: code, tests and the example clips, without data, models and history."""
    for name in os.listdir(REPOSITORY):
        source = os.path.join(REPOSITORY, name)
        if name in ("utils", "tests", "benchmarks"):
            shutil.copytree(source, os.path.join(target, name), ignore=shutil.ignore_patterns("__pycache__"))
        elif name.endswith((".py", ".toml", ".txt", ".md")):
            shutil.copy(source, target)
    examples = os.path.join(REPOSITORY, "data", "examples")
    if os.path.isdir(examples):
        shutil.copytree(examples, os.path.join(target, "data", "examples"))


def run_tests(folder, tests):
    """Exit status of pytest in `folder`, in a child that has the big libraries already: 0 passed, 1 a test failed."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.dont_write_bytecode = True  # two breaks within a second could otherwise share compiled code
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)} (default: all)")
    args = parser.parse_args(argv)
    modules = args.modules or list(TESTS)
    if set(modules) - set(TESTS):
        parser.error(f"there are breaks of {', '.join(TESTS)} only")
    for name in LIBRARIES:
        importlib.import_module(name)
    hypothesis.settings.register_profile("found", database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
    hypothesis.settings.load_profile("found")  # one failing example is enough, it need not be the simplest
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_repository(folder)
        for module in modules:
            if run_tests(folder, TESTS[module]):
                sys.exit(f"error: {' '.join(TESTS[module])} fail before anything is broken")
            path = os.path.join(folder, "utils", f"{module}.py")
            with open(path) as file:
                whole = file.read()
            for _, line, broken in (b for b in BREAKS if b[0] == module):
                if whole.count(line) == 1:
                    with open(path, "w") as file:
                        file.write(whole.replace(line, broken))
                    status = run_tests(folder, TESTS[module])
                    verdict = {0: "SURVIVED", 1: "caught"}.get(status, f"pytest gave {status}")
                else:  # the module has changed since: this list must follow
                    status, verdict = None, f"{whole.count(line)} such lines"
                survived += status != 1
                print(f"{verdict:13} {module:12} {line.strip()!r} -> {broken.strip()!r}", flush=True)
            with open(path, "w") as file:
                file.write(whole)
    total = sum(module in modules for module, _, _ in BREAKS)
    print(f"{total - survived} of {total} breaks caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
