"""Artifacts of stage 1 and models of stage 2 from random numbers: made in seconds, the same every time."""

import csv
import json
import os

import numpy as np
import soundfile

from utils.audio import SAMPLE_RATE, WINDOW, WINDOW_HOP
from utils.dataset import AUGMENTED_CSV, LABELS_NPY, MANIFEST, MEL_NPY, NOISE_CSV, SPLITS, STFT_NPY
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS

SHORT = ["--epochs", "2", "--steps", "2", "--batch-size", "8", "--device", "cpu", "--threads", "1", "--precision",
         "float32"]  # of a network


def write_artifacts(folder, n_clips=60, seed=0):
    """audio_features.csv, data/ and clips/ of `n_clips` clips with two windows each; a third of the clips are screams.

    Screams differ from other sounds by a shift of all features and by a bright stripe in the spectrograms. All clips hold noise,
    for a while louder: what the models hear there is not what the table says.
    """
    rng = np.random.default_rng(seed)
    os.makedirs(folder / "data")
    os.makedirs(folder / "clips")
    noise = np.random.default_rng(seed).uniform(-0.02, 0.02, WINDOW + WINDOW_HOP)
    noise[WINDOW_HOP : WINDOW_HOP + SAMPLE_RATE] *= 20  # in both windows
    paths = {name: folder / "data" / name for name in (STFT_NPY, MEL_NPY, LABELS_NPY, AUGMENTED_CSV, NOISE_CSV)}
    paths["audio_features.csv"] = folder / "audio_features.csv"
    rows, copies, labels = [], [], []
    for clip in range(n_clips):
        scream = clip % 3 == 0
        label, group, source = ("scream" if scream else "non_scream"), f"group-{clip // 2}", f"source-{clip // 6 % 2}"
        sound_class = "voice" if scream else f"class-{clip % 5}"
        path = folder / "clips" / f"{clip}.wav"
        soundfile.write(path, noise, SAMPLE_RATE)
        split = SPLITS[(0, 0, 1, 0, 2)[clip // 2 % 5]]
        for start in (0.0, 1.4744):
            values = [f"{value:.9g}" for value in rng.normal(1.5 * scream, 1, len(FEATURE_NAMES))]
            rows.append([path, label, *values, start, source, group, split, sound_class, -20 - 5 * start])
            labels.append(int(scream))
        values = [f"{value:.9g}" for value in rng.normal(1.5 * scream, 1, len(FEATURE_NAMES))]
        background = f"group-{(clip + 2) % n_clips // 2}"
        copies.append([path, label, *values, source, group, sound_class, source, background])
    for path, last_columns, table in [
            (paths["audio_features.csv"], ["start_s", "source", "group", "split", "sound_class", "band_level_db"], rows),
            (paths[AUGMENTED_CSV], ["source", "group", "sound_class", "mix_source", "mix_group"], copies),
            (paths[NOISE_CSV], ["source", "group", "sound_class", "mix_source", "mix_group"], copies)]:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["file", "label", *FEATURE_NAMES, *last_columns], *table])
    for name in (STFT_NPY, MEL_NPY):
        spectrograms = rng.normal(-60, 10, (len(labels), 128, 128))
        spectrograms[np.array(labels) == 1, 60:80] += 25
        np.save(paths[name], spectrograms.astype(np.float16))
    np.save(paths[LABELS_NPY], np.array(labels, np.int64))
    (folder / "data" / MANIFEST).write_text(json.dumps({
        "settings": SIGNAL_SETTINGS, "fingerprint": f"synthetic {n_clips} {seed}", "clips": n_clips, "windows": len(labels),
        "files": {name: os.path.getsize(path) for name, path in paths.items()}}))
    return folder


def locations(folder, models):
    """Options that tell a stage script where its artifacts lie."""
    return ["--features", str(folder / "audio_features.csv"), "--data", str(folder / "data"), "--models", str(models)]


def train_all_models(folder, models):
    """Stage 2 in this process: the three classical models and the three networks, tiny."""
    import train_cnn
    import train_cnn_lstm
    import train_cnn_mel
    import train_ml

    assert train_ml.main([*locations(folder, models), "--jobs", "1"]) == 0
    for script in (train_cnn, train_cnn_mel, train_cnn_lstm):
        assert script.main([*locations(folder, models), *SHORT]) == 0
    return models
