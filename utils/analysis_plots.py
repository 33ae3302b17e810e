"""Pictures of analyze_audio.py: one recording in eight panels, and the feature table of a data set.

Every draw_... of a whole picture returns a matplotlib figure; nothing here reads or writes a file.
"""

import numpy as np

from utils.features import FEATURE_NAMES, N_MELS, N_MFCC, ROLLOFF
from utils.figures import empty_figure, import_seaborn
from utils.plots import draw_spectrogram
from utils.signal_settings import HOP, N_FFT, SAMPLE_RATE

FULL_SCALE_POWER = (N_FFT / 4) ** 2  # of a sine of amplitude 1 in a Hann-windowed STFT: 0 dB in the pictures
RANGE_DB = 80  # shown below the loudest point
MAX_COLUMNS = 2000  # of a drawn spectrogram; more frames are averaged
LABEL_COLOURS = {"scream": "#d62728", "non_scream": "#1f77b4"}
UNITS = {"rms": "of full scale", "zcr": "per sample", "spectral_centroid": "Hz", "spectral_rolloff": "Hz"}
MAX_CLASSES = 30  # bars in the picture of class counts


# --- a recording ---------------------------------------------------------------------------------------------------

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


def draw_votes(axes, windows, names, events, start_s):
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
    for event in events:
        axes.plot([start_s + event["start_s"], start_s + event["end_s"]], [len(table) + 0.5] * 2, color=LABEL_COLOURS["scream"],
                  linewidth=7, solid_capstyle="butt")
    axes.axhline(len(table) - 1, color="black", linewidth=1)
    axes.set_yticks(np.arange(len(table) + 1) + 0.5, [*names, "all together", "events"])
    axes.set(ylim=(0, len(table) + 1))
    return image


def draw_recording(title, samples, start_s, windows=(), model_names=(), events=()):
    """A stretch of a recording, and below it what each model says of it.

    samples: float32 [n] at 22,050 Hz. start_s: their place in the recording. windows: ScoredWindows of the samples in
    order of time, of the models model_names, or none. events: those of the record. Their times count from samples[0].
    """
    described = describe_frames(samples)
    end_s = start_s + len(samples) / SAMPLE_RATE
    times = start_s + np.arange(described["power"].shape[1]) * HOP / SAMPLE_RATE
    # an image's columns stand for frames centred on their times
    extent_s = (times[0] - HOP / SAMPLE_RATE / 2, times[-1] + HOP / SAMPLE_RATE / 2)
    figure = empty_figure(12, 15.5 if windows else 13)
    heights = [2, 4, 4, 3, 1.7, 1.7, 2, *([4] if windows else [])]
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

    if windows:
        image = draw_votes(panels[-1], windows, model_names, events, start_s)
        figure.colorbar(image, ax=panels[-1], label="probability", pad=0.01)
    panels[-1].set(xlabel="time in s", xlim=(start_s, end_s))
    wave.set_title(title, fontweight="bold", parse_math=False)
    return figure


# --- a data set ----------------------------------------------------------------------------------------------------

def feature_unit(name):
    return UNITS.get(name.rsplit("_", 1)[0], "")


def draw_distributions(table, auc):
    """34 panels: each feature's density for screams and for other sounds, the outermost hundredths left out."""
    seaborn = import_seaborn()
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
    return figure


def draw_mfcc(table):
    """Mean and deviation over time of the 13 MFCCs, for screams and other sounds, on one scale."""
    seaborn = import_seaborn()
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
    return figure


def draw_counts(clips):
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
    return figure
