"""Look at recordings and at the data set: pictures and statistics, no window and no screen needed.

    python analyze_audio.py                                pictures of the bundled clips
    python analyze_audio.py --file clip.wav DIR            one picture per file, to analysis/
    python analyze_audio.py --file night.flac --start 3600 --duration 120
    python analyze_audio.py --dataset                      what audio_features.csv holds (python extract_features.py)

A recording's picture shows waveform, spectrogram, mel-spectrogram, MFCCs, level and zero crossings, centroid and
roll-off over time, and below them what each model says, where trained models are present. The data set's pictures show
every feature's distribution for screams and other sounds, the MFCCs, and the counts by source and class.
"""

import argparse
import os
import sys

import numpy as np

from utils.artifacts import ArtifactError, run_stage
from utils.audio import AudioError, read_blocks
from utils.event_files import safe_name
from utils.features import FEATURE_NAMES, N_MELS, N_MFCC, ROLLOFF
from utils.inputs import EXAMPLES, REPOSITORY, find_inputs
from utils.plots import draw_spectrogram, empty_figure, save_figure
from utils.signal_settings import HOP, N_FFT, SAMPLE_RATE

FULL_SCALE_POWER = (N_FFT / 4) ** 2  # of a sine of amplitude 1 in a Hann-windowed STFT: 0 dB in the pictures
RANGE_DB = 80  # shown below the loudest point
MAX_COLUMNS = 2000  # of a drawn spectrogram; more frames are averaged
LABEL_COLOURS = {"scream": "#d62728", "non_scream": "#1f77b4"}
UNITS = {"rms": "of full scale", "zcr": "per sample", "spectral_centroid": "Hz", "spectral_rolloff": "Hz"}
MAX_CLASSES = 30  # bars in the picture of class counts


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", nargs="+", metavar="PATH", help="files or folders (default: the bundled clips)")
    parser.add_argument("--dataset", nargs="?", const="audio_features.csv", metavar="CSV",
                        help="analyse the feature table of stage 1 instead (default %(const)s)")
    parser.add_argument("--out", default="analysis", metavar="DIR", help="folder for the pictures (default %(default)s)")
    parser.add_argument("--start", type=float, default=0.0, help="first second to draw (default %(default)s)")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds to draw at most (default %(default)s)")
    parser.add_argument("--models", default=os.path.join(REPOSITORY, "models"), metavar="DIR",
                        help="folder of the trained models")
    args = parser.parse_args(argv)
    if args.dataset and args.file:
        parser.error("give either --file or --dataset")
    if not (0 <= args.start < float("inf") and 0 < args.duration < float("inf")):
        parser.error("--start must be 0 or more and --duration more than 0 seconds")
    return args


# --- recordings ----------------------------------------------------------------------------------------------------

def read_stretch(path, start_s, duration_s):
    """Samples [n] at 22,050 Hz of the wanted stretch; what lies before it is not kept. Raises AudioError."""
    first, last = round(start_s * SAMPLE_RATE), round((start_s + duration_s) * SAMPLE_RATE)
    kept, position = [], 0
    for block in read_blocks(path):
        kept.append(block[max(0, first - position) : max(0, last - position)])
        position += len(block)
        if position >= last:
            break
    samples = np.concatenate(kept)
    if not len(samples):
        raise AudioError(f"{path}: ends after {position / SAMPLE_RATE:.1f} s, before --start {start_s:g}")
    return samples


def describe_frames(samples):
    """What the pictures show of samples [n], one value per STFT frame: a dict of arrays, powers with 0 dB = full scale."""
    import librosa

    samples = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    magnitude = np.abs(librosa.stft(samples, n_fft=N_FFT, hop_length=HOP, pad_mode="constant"))  # [1025, n_frames]
    mel = librosa.feature.melspectrogram(S=magnitude**2, sr=SAMPLE_RATE, n_mels=N_MELS)
    frames = {"frame_length": N_FFT, "hop_length": HOP}
    return {
        "power": magnitude**2 / FULL_SCALE_POWER, "mel_power": mel / FULL_SCALE_POWER,
        "mfcc": librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=N_MFCC),
        "rms": librosa.feature.rms(y=samples, **frames, pad_mode="constant")[0],
        "zcr": librosa.feature.zero_crossing_rate(samples, **frames)[0],
        "centroid": librosa.feature.spectral_centroid(S=magnitude, sr=SAMPLE_RATE)[0],
        "rolloff": librosa.feature.spectral_rolloff(S=magnitude, sr=SAMPLE_RATE, roll_percent=ROLLOFF)[0],
    }


def columns(values):
    """Average neighbouring frames of [bands, n_frames] so that at most MAX_COLUMNS are drawn."""
    step = -(-values.shape[1] // MAX_COLUMNS)
    starts = np.arange(0, values.shape[1], step)
    return np.add.reduceat(values, starts, axis=1) / np.diff(np.append(starts, values.shape[1]))


def to_decibels(power):
    return 10 * np.log10(np.maximum(power, 1e-12))


def draw_waveform(axes, samples, start_s):
    """The range of the samples in each of at most MAX_COLUMNS steps."""
    step = -(-len(samples) // MAX_COLUMNS)
    starts = np.arange(0, len(samples), step)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    axes.fill_between(start_s + starts / SAMPLE_RATE, low, high, color="#333333", linewidth=0.5, step="post")
    limit = max(0.01, float(np.abs(samples).max()) * 1.05)
    axes.set(ylim=(-limit, limit), ylabel="amplitude\n(full scale 1)")


def draw_votes(axes, windows, names, record, start_s):
    """A row per model and one for the ensemble: probability as colour and, where there is room, as a number."""
    edges = [windows[0].core[0], *(window.core[1] for window in windows)]
    table = np.column_stack([[*window.probabilities, window.probability] for window in windows])  # [n_models + 1, n_windows]
    image = axes.pcolormesh(np.array(edges) + start_s, np.arange(len(table) + 1), table, cmap="RdBu_r", vmin=0, vmax=1)
    for column, window in enumerate(windows if len(windows) <= 16 else ()):
        for row, probability in enumerate(table[:, column]):
            style = {"color": "white" if abs(probability - 0.5) > 0.3 else "black"}
            if probability >= 0.5:
                style["fontweight"] = "bold"
            axes.text(start_s + sum(window.core) / 2, row + 0.5, f"{probability:.2f}", ha="center", va="center", **style)
    for event in record["events"]:
        axes.plot([start_s + event["start_s"], start_s + event["end_s"]], [len(table) + 0.5] * 2, color=LABEL_COLOURS["scream"],
                  linewidth=7, solid_capstyle="butt")
    axes.axhline(len(table) - 1, color="black", linewidth=1)
    axes.set_yticks(np.arange(len(table) + 1) + 0.5, [*names, "all together", "events"])
    axes.set(ylim=(0, len(table) + 1))
    return image


def draw_recording(path, samples, start_s, ensemble, picture):
    """Write the picture of a stretch of a recording; returns its verdict, or None without models."""
    described = describe_frames(samples)
    end_s = start_s + len(samples) / SAMPLE_RATE
    times = start_s + np.arange(described["power"].shape[1]) * HOP / SAMPLE_RATE
    # an image's columns stand for frames centred on their times
    extent_s = (times[0] - HOP / SAMPLE_RATE / 2, times[-1] + HOP / SAMPLE_RATE / 2)
    figure = empty_figure(12, 15.5 if ensemble else 13)
    heights = [2, 4, 4, 3, 1.7, 1.7, 2, *([4] if ensemble else [])]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    wave, stft, mel, mfcc, level, crossings, shape = panels[:7]

    draw_waveform(wave, samples, start_s)
    power_db = to_decibels(columns(described["power"]))
    image = stft.imshow(power_db, origin="lower", aspect="auto", cmap="magma", vmin=power_db.max() - RANGE_DB,
                        vmax=power_db.max(), extent=(*extent_s, 0, SAMPLE_RATE / 2), interpolation="nearest")
    stft.set_ylabel("spectrogram\nHz")
    figure.colorbar(image, ax=stft, label="dB of full scale", pad=0.01)
    image = draw_spectrogram(mel, to_decibels(columns(described["mel_power"])), extent_s, RANGE_DB)
    mel.set_ylabel("mel-spectrogram\nHz")
    figure.colorbar(image, ax=mel, label="dB of full scale", pad=0.01)

    # the first coefficient is ten times the others: each is drawn around its own mean, in its own deviations
    coefficients = described["mfcc"]
    coefficients = coefficients - coefficients.mean(axis=1, keepdims=True)
    coefficients /= np.maximum(coefficients.std(axis=1, keepdims=True), 1e-6)
    image = mfcc.imshow(columns(coefficients), origin="lower", aspect="auto", cmap="RdBu_r", vmin=-3, vmax=3,
                        extent=(*extent_s, 0.5, N_MFCC + 0.5), interpolation="nearest")
    mfcc.set(ylabel="MFCC\nnumber", yticks=[1, 4, 7, 10, 13])
    figure.colorbar(image, ax=mfcc, label="deviations\nfrom its mean", pad=0.01)

    level.plot(times, to_decibels(described["rms"] ** 2), color="#1f77b4", linewidth=1.2)
    level.set_ylabel("RMS level\ndB of full scale")
    crossings.plot(times, described["zcr"], color="#ff7f0e", linewidth=1.2)
    crossings.set(ylabel="zero crossings\nper sample", ylim=(0, None))
    shape.plot(times, described["rolloff"], color="#2ca02c", linewidth=1.2, label=f"{ROLLOFF:.0%} roll-off")
    shape.plot(times, described["centroid"], color="#9467bd", linewidth=1.2, label="centroid")
    shape.set(ylabel="frequency\nHz", ylim=(0, 1.35 * max(described["rolloff"].max(), 1)))  # room for the legend
    shape.legend(loc="upper left", ncols=2, fontsize="small", frameon=False)

    title, record = f"{os.path.basename(path)}   {start_s:g} to {end_s:.2f} s", None
    if ensemble:
        from utils.scan import scan

        windows = []
        record = scan([samples], ensemble, on_window=windows.append)
        image = draw_votes(panels[-1], windows, ensemble.names, record, start_s)
        figure.colorbar(image, ax=panels[-1], label="probability", pad=0.01)
        votes = f"{record['votes']} of {len(ensemble.names)} votes"
        title += f"   {record['verdict']}: probability {record['probability']:.2f}, {votes}"
    panels[-1].set(xlabel="time in s", xlim=(start_s, end_s))
    wave.set_title(title, fontweight="bold", parse_math=False)
    save_figure(figure, picture)
    return record and record["verdict"]


def analyse_recordings(args):
    """A picture for each file; returns the exit status."""
    from utils.ensemble import load_ensemble

    if args.file:
        inputs = find_inputs(args.file)
    else:
        inputs = find_inputs([os.path.relpath(os.path.join(REPOSITORY, EXAMPLES))])
    try:
        ensemble = load_ensemble(args.models, device="cpu")
        for sentence in ensemble.missing.values():
            print(f"without this model's vote: {sentence}", file=sys.stderr)
    except ArtifactError:
        ensemble = None
        print(f"no trained models in {args.models}: the pictures show no votes", file=sys.stderr)
    failed = False
    for path, error in inputs:
        try:
            if error:
                raise AudioError(error)
            picture = os.path.join(args.out, safe_name(path) + ".png")
            verdict = draw_recording(path, read_stretch(path, args.start, args.duration), args.start, ensemble, picture)
            print(f"wrote {picture}" + (f" ({verdict})" if verdict else ""))
        except AudioError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
    return int(failed)


# --- data set ------------------------------------------------------------------------------------------------------

def plotting():
    """seaborn, on a canvas that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import seaborn

    return seaborn


def feature_unit(name):
    return UNITS.get(name.rsplit("_", 1)[0], "")


def feature_statistics(table, auc):
    """Mean, deviation and quartiles of each feature for each label, and how well the feature alone ranks screams."""
    statistics = table.groupby("label")[FEATURE_NAMES].describe().stack(level=0, future_stack=True)
    statistics = statistics[["mean", "std", "25%", "50%", "75%"]].unstack("label")
    statistics.columns = [f"{label}_{figure}" for figure, label in statistics.columns]
    return statistics.loc[FEATURE_NAMES].assign(roc_auc_alone=auc)


def draw_distributions(table, auc, picture):
    """34 panels: each feature's density for screams and for other sounds, the outermost hundredths left out."""
    seaborn = plotting()
    figure = empty_figure(18, 18)
    panels = figure.subplots(6, 6)
    for axes, name in zip(panels.flat, FEATURE_NAMES):
        low, high = np.percentile(table[name], [0.5, 99.5])
        shown = table[table[name].between(low, high)]
        seaborn.histplot(shown, x=name, hue="label", hue_order=list(LABEL_COLOURS), palette=LABEL_COLOURS, stat="density",
                         common_norm=False, bins=40, element="step", alpha=0.35, legend=False, ax=axes)
        axes.set(title=f"{name}\nAUC {auc[name]:.2f}", xlabel=feature_unit(name), ylabel="", yticks=[])
        axes.title.set_fontweight("bold" if abs(auc[name] - 0.5) >= 0.25 else "normal")
    for axes in panels.flat[len(FEATURE_NAMES) :]:
        axes.axis("off")
    for height, (label, colour) in zip((0.75, 0.55), LABEL_COLOURS.items()):
        windows = int((table["label"] == label).sum())
        panels.flat[-2].text(0, height, f"■ {label}: {windows} windows", color=colour, fontsize=16, in_layout=False)
    panels.flat[-2].text(0, 0.1, "AUC: how well this feature alone ranks screams\n"
                                 "(0.5 not at all, 0 or 1 perfectly; bold: 0.25 or more from 0.5)", in_layout=False)
    save_figure(figure, picture)


def draw_mfcc(table, picture):
    """Mean and deviation over time of the 13 MFCCs, for screams and other sounds, on one scale."""
    seaborn = plotting()
    figure = empty_figure(13, 9)
    panels = figure.subplots(2, 1)
    for axes, (statistic, title) in zip(panels, {"mean": "mean over the window", "std": "deviation within the window"}.items()):
        names = [f"mfcc{i}_{statistic}" for i in range(1, N_MFCC + 1)]
        scaled = (table[names] - table[names].mean()) / table[names].std().replace(0, 1)
        long = scaled.set_axis(range(1, N_MFCC + 1), axis=1).assign(label=table["label"]).melt("label", var_name="MFCC")
        seaborn.boxplot(long, x="MFCC", y="value", hue="label", hue_order=list(LABEL_COLOURS), palette=LABEL_COLOURS,
                        whis=(5, 95), showfliers=False, ax=axes, legend="full" if statistic == "mean" else False)
        axes.axhline(0, color="grey", linewidth=0.8, zorder=0)
        axes.set(title=f"MFCC: {title}", xlabel="MFCC number", ylabel="standard deviations\nfrom the mean of all windows")
    panels[0].legend(title="box: quartiles, whiskers: 5 to 95 %", loc="lower right", ncols=2)
    save_figure(figure, picture)


def draw_counts(clips, picture):
    """Clips by source and by sound class, screams and others."""
    figure = empty_figure(15, 9)
    for axes, (column, title) in zip(figure.subplots(1, 2), {"source": "source", "sound_class": "sound class"}.items()):
        counts = clips.groupby([column, "label"]).size().unstack(fill_value=0).reindex(columns=list(LABEL_COLOURS), fill_value=0)
        counts = counts.loc[counts.sum(axis=1).sort_values(kind="stable").index]
        hidden = max(0, len(counts) - MAX_CLASSES)
        counts = counts.iloc[hidden:]
        left = np.zeros(len(counts))
        for label, colour in LABEL_COLOURS.items():
            n_clips = (clips["label"] == label).sum()
            bars = axes.barh(counts.index, counts[label], left=left, color=colour, label=f"{label}: {n_clips} clips")
            left += counts[label].to_numpy()
        axes.bar_label(bars, [f" {scream} + {other}" for scream, other in counts[list(LABEL_COLOURS)].to_numpy()], fontsize=9)
        note = f" (the {MAX_CLASSES} largest of {len(counts) + hidden})" if hidden else ""
        axes.set(title=f"clips by {title}{note}", xlabel="clips")
        axes.margins(x=0.2, y=0.01)
        axes.legend(loc="lower right")
    save_figure(figure, picture)


def analyse_data_set(args):
    """Pictures and a table of statistics of a feature table; returns the exit status. Raises ArtifactError."""
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    from utils.dataset import read_windows

    windows = read_windows(args.dataset)
    table = pd.DataFrame(windows.features, columns=FEATURE_NAMES).assign(
        file=windows.file, label=np.where(windows.label == 1, "scream", "non_scream"), source=windows.source,
        sound_class=windows.sound_class, split=windows.split)
    table[["source", "sound_class", "split"]] = table[["source", "sound_class", "split"]].replace("", "not given")
    if table["label"].nunique() < 2:
        raise ArtifactError(f"{args.dataset} holds only {table['label'].iloc[0]} rows: nothing to compare")
    auc = pd.Series({name: roc_auc_score(windows.label, table[name]) for name in FEATURE_NAMES})
    clips = table.drop_duplicates("file")

    os.makedirs(args.out, exist_ok=True)
    names = ("features.png", "mfcc.png", "counts.png", "statistics.csv")
    paths = {name: os.path.join(args.out, f"dataset_{name}") for name in names}
    draw_distributions(table, auc, paths["features.png"])
    draw_mfcc(table, paths["mfcc.png"])
    draw_counts(clips, paths["counts.png"])
    statistics = feature_statistics(table, auc)
    statistics.to_csv(paths["statistics.csv"], float_format="%.6g", index_label="feature")

    print(pd.crosstab(clips["source"], [clips["label"], clips["split"]], margins=True, margins_name="all").to_string())
    print(f"\n{len(clips)} clips, {len(table)} windows, {clips['sound_class'].nunique()} sound classes\n\nMFCC statistics")
    shown = ["scream_mean", "scream_std", "non_scream_mean", "non_scream_std", "roc_auc_alone"]
    print(statistics.loc[FEATURE_NAMES[: 2 * N_MFCC], shown].round(2).to_string())
    print(f"\nwrote {', '.join(paths.values())}")
    return 0


def main(argv=None):
    args = parse_arguments(argv)
    return analyse_data_set(args) if args.dataset else analyse_recordings(args)


if __name__ == "__main__":
    run_stage(main)
