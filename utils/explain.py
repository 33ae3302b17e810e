"""Why a window was called a scream, as a picture: features for the classical models, places in the spectrogram for the networks.

One method for all six: take something away and see how far the log-odds of "scream" fall. A feature is taken away by
giving it the value that is typical of the training data; for logistic regression this is exactly its linear
contribution. A place in the spectrogram is taken away by making it as quiet as the quiet tenth of the window.
"""

import glob
import os

import numpy as np

from utils.artifacts import ArtifactError
from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_HOP, WINDOW_S, clean_window, cut_windows, printable, read_blocks
from utils.calibration import log_odds
from utils.ensemble import CLASSICAL_FILES, NETWORK_FILES, NETWORK_INPUTS
from utils.event_files import clip_name, safe_name
from utils.features import FEATURE_NAMES, N_BANDS, describe_windows
from utils.figures import empty_figure, save_figure
from utils.plots import FREQUENCY_TICKS, short_clock, draw_spectrogram

PATCH, STRIDE = 16, 8  # bands and frames: 1,400 Hz (or 16 mel bands) by 0.37 s
BATCH = 32
SHOWN_FEATURES = 12
MOST_PICTURES = 10  # per recording: its strongest events
FOR, AGAINST = "#d62728", "#1f77b4"


def typical_features(classical):
    """Values [34] of a typical training window: the centre of a pipeline's scaling, as near to the median as it gets.

    classical: {name: pipeline}. Returns None when no pipeline begins with a scaling whose 0 is the centre of its training data.
    """
    if not classical:
        return None
    from sklearn.preprocessing import PowerTransformer, RobustScaler, StandardScaler

    for name in sorted(classical, key=lambda name: name != "logistic_regression"):  # first: its transform removes skew
        steps = getattr(classical[name], "steps", [(None, None)])
        if isinstance(steps[0][1], (PowerTransformer, RobustScaler, StandardScaler)):
            centre = steps[0][1].inverse_transform(np.zeros((1, len(FEATURE_NAMES))))[0]
            if np.isfinite(centre).all():
                return centre
    return None


def patch_corners():
    """First band and first frame of each patch, in order."""
    starts = range(0, N_BANDS - PATCH + 1, STRIDE)
    return [(band, frame) for band in starts for frame in starts]


def occluded(spectrogram, corners):
    """Copies of a spectrogram [128, 128] in dB with one patch each made quiet: [len(corners), 128, 128]."""
    copies = np.repeat(spectrogram[None], len(corners), axis=0)
    quiet = np.percentile(spectrogram, 10)
    for copy, (band, frame) in zip(copies, corners):
        patch = copy[band : band + PATCH, frame : frame + PATCH]
        np.minimum(patch, quiet, out=patch)
    return copies


def spread_over_patches(falls, corners):
    """What each patch contributed [n] -> map [128, 128]: each cell gets the mean of the patches that cover it."""
    total, covered = np.zeros((N_BANDS, N_BANDS)), np.zeros((N_BANDS, N_BANDS))
    for fall, (band, frame) in zip(falls, corners):
        total[band : band + PATCH, frame : frame + PATCH] += fall
        covered[band : band + PATCH, frame : frame + PATCH] += 1
    return total / covered


def explain_window(window, ensemble):
    """What spoke for a scream in one cleaned window.

    window: float32 [65,024]. ensemble: utils.ensemble.Ensemble. Returns a dict:
    probabilities {model: 0-1};
    features {classical model: [34]}, by how much the log-odds fall when that feature becomes typical; empty if no model
    knows what is typical;
    maps {network: [128 bands, 128 frames]}, by how much they fall when that place becomes quiet;
    spectrograms {"stft": ..., "mel": ...}, both [128, 128] in dB.
    """
    features, stft_db, mel_db = describe_windows([window])
    whole = ensemble.score_described(features, stft_db, mel_db)[0]

    def falls(*changed):
        """By how much each model's log-odds fall when the window is changed to these: {model: [n]}."""
        scores = np.concatenate([ensemble.score_described(*(values[first : first + BATCH] for values in changed))
                                 for first in range(0, len(changed[0]), BATCH)])  # [n, n_models]
        return dict(zip(ensemble.names, (log_odds(whole) - log_odds(scores)).T))

    corners, typical = patch_corners(), typical_features(ensemble.classical)
    by_patch = falls(np.repeat(features, len(corners), axis=0), occluded(stft_db[0], corners), occluded(mel_db[0], corners))
    by_feature = {}
    if typical is not None:
        n = len(FEATURE_NAMES)
        without_one = np.where(np.eye(n, dtype=bool), typical, features)  # [34, 34]: row i lacks feature i
        by_feature = falls(without_one, np.repeat(stft_db, n, axis=0), np.repeat(mel_db, n, axis=0))
    return {
        "probabilities": dict(zip(ensemble.names, map(float, whole))),
        "features": {name: values for name, values in by_feature.items() if name in CLASSICAL_FILES},
        "maps": {name: spread_over_patches(values, corners) for name, values in by_patch.items() if name in NETWORK_FILES},
        "spectrograms": {"stft": stft_db[0], "mel": mel_db[0]},
    }


def strongest_windows(blocks, stretches, ensemble, hop=WINDOW_HOP):
    """The strongest window of each stretch of a recording, in one pass and bounded memory.

    blocks: the recording. stretches: list of (start_s, end_s). Returns for each a tuple (start in s, cleaned window,
    probability, votes), or None if all of it was too quiet to score.
    """
    best = [None] * len(stretches)
    batch = []  # (start_s, window, indices of its stretches)

    def score():
        probability, votes, _ = ensemble.combine(ensemble.score(np.stack([window for _, window, _ in batch])))
        for (start_s, window, touched), p, n in zip(batch, probability, votes):
            for index in touched:
                if best[index] is None or p > best[index][2]:
                    best[index] = start_s, window, float(p), int(n)
        batch.clear()

    for start, samples in cut_windows(blocks, hop):
        first, last = start / SAMPLE_RATE, (start + WINDOW) / SAMPLE_RATE
        touched = [index for index, (start_s, end_s) in enumerate(stretches) if start_s < last and end_s > first]
        window = clean_window(samples) if touched else None
        if window is not None:
            batch.append((first, window, touched))
            if len(batch) == BATCH:
                score()
    if batch:
        score()
    return best


def draw_feature_bars(axes, contributions, name, probability):
    """The strongest features as bars, the strongest on top: contributions [34]."""
    order = np.argsort(np.abs(contributions))[-SHOWN_FEATURES:]
    values = contributions[order]
    axes.barh([FEATURE_NAMES[i] for i in order], values, color=[FOR if value > 0 else AGAINST for value in values])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.tick_params(labelsize="x-small")
    axes.set_xlabel("log-odds", fontsize="small")
    axes.set_title(f"{name}  {probability:.2f}")


def draw_map(axes, spectrogram, kind, contributions, name, probability):
    """A spectrogram in grey, with what spoke for a scream in red and what spoke against it in blue."""
    extent = (0, WINDOW_S)
    if kind == "mel":
        image = draw_spectrogram(axes, spectrogram, extent)
        image.set_cmap("gray")
        top = N_BANDS
    else:
        top = SAMPLE_RATE / 2
        level = float(spectrogram.max())
        axes.imshow(spectrogram, origin="lower", aspect="auto", cmap="gray", vmin=level - 80, vmax=level,
                    extent=(*extent, 0, top))
        axes.set_yticks(FREQUENCY_TICKS[2:], [str(hz) for hz in FREQUENCY_TICKS[2:]])
        axes.set_ylabel("Hz")
    limit = max(float(np.abs(contributions).max()), 1e-9)
    axes.imshow(contributions, origin="lower", aspect="auto", cmap="bwr", vmin=-limit, vmax=limit, extent=(*extent, 0, top),
                alpha=0.75 * np.abs(contributions) / limit, interpolation="bilinear")
    axes.set_xlabel("s", fontsize="small")
    axes.set_title(f"{name}  {probability:.2f}")


def draw_explanation(explanation, title):
    """An explanation as a matplotlib figure: a map per network, bars per classical model.

    Models that could not be explained are named above; if that is all of them, ArtifactError is raised.
    """
    maps, features, probabilities = explanation["maps"], explanation["features"], explanation["probabilities"]
    unexplained = [name for name in probabilities if name not in maps and name not in features]
    if unexplained:
        why = f"{', '.join(unexplained)} cannot be explained: no scaling of the features says what is typical"
        if len(unexplained) == len(probabilities):
            raise ArtifactError(why)
        title = f"{title}\n{why}"
    rows = [row for row in (maps, features) if row]
    figure = empty_figure(13, 4.2 * len(rows) + 0.6)
    figure.suptitle(f"{title}\nred spoke for a scream, blue against it", parse_math=False)
    grid = figure.subplots(len(rows), max(map(len, rows)), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for row, contributions_of in zip(grid, rows):
        for axes, (name, contributions) in zip(row, contributions_of.items()):
            axes.set_visible(True)
            if contributions_of is maps:
                kind = NETWORK_INPUTS[name]
                draw_map(axes, explanation["spectrograms"][kind], kind, contributions, name, probabilities[name])
            else:
                draw_feature_bars(axes, contributions, name, probabilities[name])
    return figure


def explained_stretches(record):
    """(start, end) in s of what gets a picture: the most probable events, or the whole recording if it has no event."""
    most_probable = sorted(record["events"], key=lambda event: -event["probability"])[:MOST_PICTURES]
    stretches = sorted((event["start_s"], event["end_s"]) for event in most_probable)
    return stretches or [(0.0, record["duration_s"])]


def picture_path(folder, file, start_s):
    return os.path.join(folder, clip_name(file, start_s).removesuffix(".wav") + ".png")


def lacks_pictures(record, folder):
    """Whether a picture that explain_recording makes of a record is not in the folder; none is made of silence."""
    if record["probability"] == 0:
        return False
    if not record["events"]:  # named after its strongest window, which the record does not tell
        return not glob.glob(glob.escape(os.path.join(folder, safe_name(record["file"]))) + "_*.png")
    return not all(os.path.exists(picture_path(folder, record["file"], start_s)) for start_s, _ in explained_stretches(record))


def explain_recording(record, ensemble, folder, hop=WINDOW_HOP):
    """Write a picture for the strongest window of each event, or of the whole recording if it has no event.

    record: the record of a file, which is read once more. folder: where the PNGs go; they are named as clips are. Of
    more than ten events, the ten with the highest probability. Returns the paths; raises AudioError, ArtifactError.
    """
    file = record["file"]
    events, stretches, paths = record["events"], explained_stretches(record), []
    for (start_s, end_s), strongest in zip(stretches, strongest_windows(read_blocks(file), stretches, ensemble, hop)):
        if strongest is None:
            continue
        window_s, window, probability, votes = strongest
        place = f"event {short_clock(start_s)} to {short_clock(end_s)}" if events else "no event"
        title = (f"{printable(os.path.basename(file))}   {place}, strongest window from {short_clock(window_s)}   "
                 f"probability {probability:.2f}   {votes} of {len(ensemble.names)} votes")
        path = picture_path(folder, file, start_s if events else window_s)
        save_figure(draw_explanation(explain_window(window, ensemble), title), path)
        paths.append(path)
    return paths
