"""Picture of a recording: its mel-spectrogram, what the models say over time, and the events shaded.

Works for any length in bounded memory and in one pass, so pipes and ten-hour files have a picture, too.
"""

import os

import numpy as np
import scipy.fft

from utils.audio import printable
from utils.event_files import safe_name
from utils.features import N_MELS, decibels, hann, hz_to_mel, mel_power
from utils.figures import empty_figure, save_figure
from utils.signal_settings import HOP, N_FFT, SAMPLE_RATE

MAX_COLUMNS = 2048  # of a spectrogram; twice the pixels that are needed
FRAMES_PER_COLUMN = 16  # at most: a column of a long recording is the mean of so many frames spread over it
MAX_POINTS = 1500  # of a probability curve; more windows are drawn as the maximum of neighbours
MODEL_COLOURS = ("#1f77b4", "#17becf", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")  # no red: that is for events
EVENT_COLOUR = "#d62728"
TICK_STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400)
FREQUENCY_TICKS = (250, 500, 1000, 2000, 4000, 8000)  # Hz


class SpectrogramOverview:
    """Mel-spectrogram of a recording of unknown length: 23 ms a column, halved in resolution whenever it grows too wide.

        overview = SpectrogramOverview()
        scan(overview.watch(blocks), ...)
        mel_db = overview.decibels()  # [128, n_columns]
    """

    def __init__(self):
        self.column_samples = HOP
        self.columns = np.zeros((0, N_MELS), np.float32)  # power
        self.pending = np.zeros(0, np.float32)
        self.n_samples = 0

    def watch(self, blocks):
        """Pass the blocks on unchanged, and see them."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block):
        """Take the next samples: float32 [n] at 22,050 Hz, any n."""
        self.n_samples += len(block)
        self.pending = np.concatenate([self.pending, block])
        while (n_columns := (len(self.pending) - N_FFT) // self.column_samples) > 0:
            n_columns = min(n_columns, MAX_COLUMNS - len(self.columns))
            self._append(self.pending, n_columns)
            self.pending = self.pending[n_columns * self.column_samples :]
            if len(self.columns) == MAX_COLUMNS:
                self.columns = self.columns.reshape(-1, 2, N_MELS).mean(axis=1)
                self.column_samples *= 2

    def _append(self, samples, n_columns):
        per_column = min(self.column_samples // HOP, FRAMES_PER_COLUMN)
        frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[:: self.column_samples // per_column]
        spectrum = scipy.fft.rfft(frames[: n_columns * per_column] * hann())  # [n_columns * per_column, 1025]
        mel = mel_power(np.square(spectrum.real) + np.square(spectrum.imag))
        self.columns = np.concatenate([self.columns, mel.reshape(n_columns, per_column, N_MELS).mean(axis=1)])

    def decibels(self):
        """The spectrogram so far, in dB [128 mel bands, n_columns]; the last column is padded with silence."""
        last = SpectrogramOverview()
        last.column_samples, last.columns = self.column_samples, self.columns
        if len(self.pending):
            n_columns = -(-len(self.pending) // self.column_samples)
            last._append(np.pad(self.pending, (0, n_columns * self.column_samples + N_FFT - len(self.pending))), n_columns)
        return decibels(last.columns).T

    @property
    def duration_s(self):
        return self.n_samples / SAMPLE_RATE


def thin_out(times, values):
    """At most MAX_POINTS points of curves [n], [n, curves]: the maximum of neighbours, so that no peak is lost."""
    step = -(-len(times) // MAX_POINTS)
    if step <= 1:
        return times, values
    starts = np.arange(0, len(times), step)
    return times[starts], np.maximum.reduceat(values, starts, axis=0)


def short_clock(seconds):
    """12.5 -> '0:12.5', 3723 -> '1:02:03'."""
    minutes, seconds = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{seconds:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def draw_spectrogram(axes, mel_db, extent_s, range_db=80):
    """Mel-spectrogram [128, n] in dB as an image over `extent_s` = (first, last) second, with a frequency axis in Hz."""
    top = float(mel_db.max(initial=-100.0))
    image = axes.imshow(mel_db, origin="lower", aspect="auto", cmap="magma", vmin=top - range_db, vmax=top,
                        extent=(*extent_s, 0, N_MELS), interpolation="nearest")
    per_mel = (N_MELS + 1) / hz_to_mel(SAMPLE_RATE / 2)  # band i peaks at mel edge i + 1
    axes.set_yticks([float(hz_to_mel(hz)) * per_mel - 0.5 for hz in FREQUENCY_TICKS], [str(hz) for hz in FREQUENCY_TICKS])
    axes.set_ylabel("Hz")
    return image


def plot_path(folder, file):
    """Where the picture of `file` goes below `folder`: safe, and apart for files of one name in different folders."""
    return os.path.join(folder, safe_name(file) + ".png")


def plot_recording(path, overview, windows, model_names, record, threshold=None):
    """Write the picture of a recording.

    path: PNG to write. overview: SpectrogramOverview that saw all of it. windows: its ScoredWindows in order of time
    (start_s, end_s, probability, votes, probabilities [n_models]). model_names: names of those models. record: the
    recording's record, with its events. threshold: line to draw, if one was set. Raises ArtifactError.
    """
    save_figure(draw_recording(overview, windows, model_names, record, threshold), path)


def draw_recording(overview, windows, model_names, record, threshold=None):
    """The picture as a matplotlib figure of three axes: spectrogram, probabilities, votes. Arguments as plot_recording."""
    figure = empty_figure(12, 6.5)  # first: it says what to do where there is no matplotlib
    from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

    duration_s = max(overview.duration_s, 1e-3)
    above, below, strip = figure.subplots(3, 1, sharex=True, height_ratios=(5, 4, 1))
    draw_spectrogram(above, overview.decibels(), (0, duration_s))
    events = record["events"]
    n_events = f"{len(events)} event{'s' * (len(events) != 1)}"
    above.set_title(f"{printable(os.path.basename(record['file']))}   {short_clock(duration_s)}   {n_events}", parse_math=False)
    if windows:
        times = np.array([(window.start_s + window.end_s) / 2 for window in windows])
        curves = np.column_stack([np.stack([window.probabilities for window in windows]),
                                  [window.probability for window in windows], [window.votes for window in windows]])
        times, curves = thin_out(times, curves)
        style = {"marker": ".", "markersize": 4} if len(times) < 60 else {}
        for name, colour, curve in zip(model_names, MODEL_COLOURS, curves.T):
            below.plot(times, curve, color=colour, linewidth=0.9, label=name, **style)
        below.plot(times, curves[:, -2], color="black", linewidth=1.8, label="together", **style)
        below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
        strip.step(times, curves[:, -1], where="mid", color="black", linewidth=1.0)
    if threshold is not None:
        below.axhline(threshold, color="grey", linewidth=0.8, linestyle="--")
    for event in events:
        for axes, colour in ((above, "white"), (below, EVENT_COLOUR), (strip, EVENT_COLOUR)):
            axes.axvspan(event["start_s"], event["end_s"], color=colour, alpha=0.3, linewidth=1)
        below.plot((event["start_s"] + event["end_s"]) / 2, 1.04, marker="v", color=EVENT_COLOUR, clip_on=False)
    below.set(ylim=(-0.02, 1.08), ylabel="probability")
    strip.set(ylim=(-0.3, len(model_names) + 0.3), ylabel="votes", xlabel="time", xlim=(0, duration_s))
    strip.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    strip.xaxis.set_major_locator(MultipleLocator(next((step for step in TICK_STEPS_S if duration_s <= 10 * step), 86_400)))
    strip.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: short_clock(seconds)))
    return figure
