"""Stress curves: how recall, false positives and ranking change with noise, band limit, reverberation, level and MP3.

    python benchmarks/stress.py --ambience DIR [--models DIR] [--others 150] [--split validation]

Takes the clips of the test split (audio_features.csv), changes the sound, and asks the models. DIR holds long recordings
without screams, among them one file each whose name contains cafe, busy-street, light-rain and crowd. Writes
benchmarks/stress.md and benchmarks/stress.png. Use models that have not seen the test split (not the release weights).
To choose by, take --split validation: other clips, in other noises (restaurant, highway, rain-on-tent, subway-station).
"""

import argparse
import io
import os
import sys

import numpy as np
import soundfile
from tqdm import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.machine import command_given
from utils import scenes
from utils.artifacts import ArtifactError, run_stage
from utils.audio import read_audio
from utils.comparison import refuse_seen_clips
from utils.dataset import FEATURES_CSV, audio_files, read_manifest, read_windows
from utils.ensemble import load_ensemble
from utils.evaluation import ranking_figures
from utils.figures import empty_figure, save_figure
from utils.options import add_trust_option
from utils.scan import scan
from utils.signal_settings import SAMPLE_RATE
from utils.tables import markdown_table, write_text

BACKGROUNDS = {  # split: {noise: part of a file name}
    "test": {"café": "cafe", "street": "busy-street", "rain": "light-rain", "babble": "crowd"},
    "validation": {"restaurant": "restaurant", "highway": "highway", "rain on a tent": "rain-on-tent",
                   "station": "subway-station"}}
SNRS_DB = (20, 10, 5, 0, -5)
AROUND_S = {"short clips": (1, 1), "short recordings": (4, 5), "recordings": (60, 5)}  # of noise before and after a clip


def mp3(samples, compression):
    """Through an MP3 file of constant bit rate and back; compression 0 to 0.99, the more the lower the rate."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=compression,
                    bitrate_mode="CONSTANT")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0][: len(samples)]


def level(samples, dbfs):
    """Scale so that the peak lies at `dbfs`, then keep 16 bits as a recorder does."""
    peak = float(np.abs(samples).max())
    return np.round(samples / max(peak, 1e-9) * 10 ** (dbfs / 20) * 32767) / np.float32(32767)


def conditions(ambience):
    """{group: {name: change(samples, rng) -> samples}}; the first one is the untouched clip."""
    changes = {"clean": {"clean": lambda samples, rng: samples}}
    for name, background in ambience.items():
        changes[f"noise: {name}"] = {f"{snr} dB": lambda samples, rng, b=background, snr=snr: scenes.mix(
            samples, scenes.loop_to(b, len(samples), rng), snr) for snr in SNRS_DB}
    changes["band limit"] = {f"{hz // 1000} kHz": lambda samples, rng, hz=hz: scenes.limit_band(samples, hz)
                             for hz in (11000, 8000, 4000)}
    changes["reverberation"] = {f"{s} s": lambda samples, rng, s=s: scenes.reverberate(samples, s, 1.0, rng)
                                for s in (0.3, 0.6, 1.2)}
    changes["level"] = {f"{db} dBFS": lambda samples, rng, db=db: level(samples, db) for db in (0, -20, -40, -60)}
    changes["MP3"] = {"24 kbit/s": lambda samples, rng: mp3(samples, 0.9), "8 kbit/s": lambda samples, rng: mp3(samples, 0.99)}
    return changes


def hear(ensemble, samples):
    """Whether main.py makes an event of a file, and the probability that it gives it."""
    record = scan([samples], ensemble)
    return bool(record["events"]), record["probability"]


def choose_clips(windows, split, n_others, seed):
    """Paths and labels of all screams of a split and a random choice of its other clips."""
    files, first = np.unique(windows.file, return_index=True)
    chosen = windows.split[first] == split
    screams = files[chosen & (windows.label[first] == 1)]
    others = files[chosen & (windows.label[first] == 0)]
    others = np.random.default_rng(seed).permutation(others)[:n_others]
    return [*screams, *others], np.array([1] * len(screams) + [0] * len(others))


def row_of(group, condition, label, heard):
    """(group, condition, recall, false-positive rate, average precision) from (is it called, probability) of each clip."""
    called, probability = np.array(heard, float).T
    return (group, condition, float(called[label == 1].mean()), float(called[label == 0].mean()),
            ranking_figures(label, probability).get("average_precision", np.nan))


def measure(ensemble, clips, label, changes, seed):
    """Rows as of row_of."""
    rows = []
    total = sum(len(steps) for steps in changes.values())
    with tqdm(total=total, unit="condition", disable=None) as bar:
        for group, steps in changes.items():
            for name, change in steps.items():
                rows.append(row_of(group, name, label, [hear(ensemble, change(samples, np.random.default_rng([seed, i])))
                                                        for i, samples in enumerate(clips)]))
                bar.update()
    return rows


def hear_in_recording(ensemble, samples, background, snr_db, before_s, after_s):
    """A clip in a recording of noise, with so many seconds of it before and after.

    Whether main.py finds an event where the clip lies, and the probability that it gives the whole.
    """
    first = before_s * SAMPLE_RATE
    recording = scenes.loop_to(background, first + len(samples) + after_s * SAMPLE_RATE, np.random.default_rng(0)).copy()
    place = slice(first, first + len(samples))
    recording[place] = scenes.mix(recording[place], samples, -snr_db)  # the noise stays, the clip is scaled
    record = scan([recording / max(1.0, float(np.abs(recording).max()))], ensemble)
    found = any(event["start_s"] < before_s + len(samples) / SAMPLE_RATE and event["end_s"] > before_s
                for event in record["events"])
    return found, record["probability"]


def measure_in_recordings(ensemble, clips, label, ambience, before_s, after_s):
    """Rows as of row_of, of clips in recordings of noise."""
    rows = []
    for name, background in tqdm(ambience.items(), unit="noise", disable=None):
        for snr in SNRS_DB:
            rows.append(row_of(name, f"{snr} dB", label, [
                hear_in_recording(ensemble, samples, background, snr, before_s, after_s) for samples in clips]))
    return rows


def plot(path, rows):
    groups = [group for group in dict.fromkeys(row[0] for row in rows) if group != "clean"]
    figure = empty_figure(16, 7, dpi=80)
    axes = figure.subplots(2, 4, sharey=True)
    for axis, group in zip(axes.flat, groups):
        points = [row for row in rows if row[0] in ("clean", group)]
        axis.plot([row[1] for row in points], [row[2] for row in points], "o-", label="recall")
        axis.plot([row[1] for row in points], [row[3] for row in points], "s--", label="false-positive rate")
        axis.set(title=group, ylim=(-0.02, 1.02))
        axis.tick_params(axis="x", rotation=30)
    axes.flat[0].legend()
    for axis in axes.flat[len(groups):]:
        axis.set_axis_off()
    save_figure(figure, path)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ambience", required=True, metavar="DIR", help="folder of long recordings without screams")
    parser.add_argument("--features", default=FEATURES_CSV, metavar="CSV")
    parser.add_argument("--data", default="data", metavar="DIR")
    parser.add_argument("--models", default="models", metavar="DIR")
    parser.add_argument("--split", choices=BACKGROUNDS, default="test", help="whose clips (default %(default)s)")
    parser.add_argument("--others", type=int, default=150, help="how many clips without a scream (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)), metavar="DIR")
    add_trust_option(parser)
    args = parser.parse_args(argv)
    ensemble = load_ensemble(args.models, threads=2, trust_unlisted=args.trust_models)
    manifest = read_manifest(args.data)
    refuse_seen_clips(args.models, ensemble.reports, manifest["fingerprint"])
    paths, backgrounds = audio_files(args.ambience), BACKGROUNDS[args.split]
    found = {name: next((p for p in paths if part in os.path.basename(p)), None) for name, part in backgrounds.items()}
    if None in found.values():
        raise ArtifactError(f"{args.ambience} needs recordings named with {', '.join(backgrounds.values())}")
    files, label = choose_clips(read_windows(args.features, manifest), args.split, args.others, args.seed)
    clips = [read_audio(path) for path in files]
    ambience = {name: read_audio(path) for name, path in found.items()}
    rows = measure(ensemble, clips, label, conditions(ambience), args.seed)
    in_recordings = {name: measure_in_recordings(ensemble, clips, label, ambience, *around) for name, around in AROUND_S.items()}
    clean = rows[0][2]

    def table(rows, header):
        return markdown_table([*header, "recall", "of clean", "false positives", "AP"], [
            [group, name, f"{recall:.2f}", f"{recall / max(clean, 1e-9):.0%}", f"{false:.3f}", f"{precision:.3f}"]
            for group, name, recall, false, precision in rows])

    text = (f"# Stress curves\n\n{command_given(__file__, argv)}: {int(label.sum())} screams and {int((1 - label).sum())} other "
            f"clips of the {args.split} split, what main.py makes an event of, and the average precision (AP) of the probability "
            "that it gives.\n\n"
            f"{table(rows, ['change', 'step'])}")
    for name, (before_s, after_s) in AROUND_S.items():
        text += (f"\n## In {name}\n\nThe same clips, each with {before_s} s of the noise before it and {after_s} s after it: "
                 f"what main.py makes an event of, and AP as above.\n\n{table(in_recordings[name], ['noise', 'step'])}")
    print(text)
    name = "stress" if args.split == "test" else f"stress_{args.split}"
    write_text(os.path.join(args.out, f"{name}.md"), text)
    plot(os.path.join(args.out, f"{name}.png"), rows)
    return 0


if __name__ == "__main__":
    run_stage(main)
