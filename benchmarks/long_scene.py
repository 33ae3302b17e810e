"""Ten hours of ambience with screams at known times: build such a recording, scan it, compare the events with the truth.

    python benchmarks/long_scene.py build scene.wav --ambience DIR_OR_CSV [--hours 10] [--screams 40] [--seed 1]
    python benchmarks/long_scene.py score scene.wav [--markdown table.md] [-- options for main.py ...]

`build` writes scene.wav (mono, 22,050 Hz, 16 bits; 1.6 GB for ten hours) and scene.json, the ground truth. The screams
come from the test split of audio_features.csv, which no evaluated model has seen; each is mixed in at 0 to 20 dB above
the ambience at that place, by active level. `score` runs main.py on the scene and on its first minute, measures time
and peak resident memory of both, and writes a Markdown table; with --events FILE it scores a finished --json output.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile
from scipy.stats import chi2

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, REPOSITORY)

from utils import scenes  # noqa: E402
from utils.artifacts import ArtifactError, run_stage, write_json  # noqa: E402
from utils.audio import SAMPLE_RATE, read_audio  # noqa: E402
from utils.dataset import audio_files  # noqa: E402

SNR_DB = (0.0, 20.0)  # active level of the scream above that of the ambience under it
AMBIENCE_DB = (-45.0, -32.0)  # active level of a recording in dBFS: leaves room for a scream 20 dB louder
CROSSFADE_S = 1.0  # between recordings
MARGIN_S = 5.0  # at least twice this lies between screams
AUDIBLE_DB = 30  # a scream lasts from its first to its last moment within this of its loudest
SHORTEST_S = 0.3
FADE_S = 0.005  # at the cut ends of a scream
BLOCK = 60 * SAMPLE_RATE  # samples written at once


def find_ambience(path):
    """Paths of the long recordings: all audio below a folder, or the column `path` of a CSV (relative to the CSV)."""
    if os.path.isdir(path):
        found = audio_files(path)
    else:
        try:
            with open(path, newline="") as file:
                found = [os.path.join(os.path.dirname(path), row["path"]) for row in csv.DictReader(file)]
        except (OSError, KeyError, UnicodeDecodeError):
            raise ArtifactError(f"{path}: give a folder of recordings, or a CSV with a column path") from None
    if not found:
        raise ArtifactError(f"{path}: no recordings there")
    return found


def find_held_out_screams(features_csv):
    """Paths of the screams in the test split of stage 1's table, in its order."""
    try:
        with open(features_csv, newline="", encoding="utf-8", errors="surrogateescape") as file:
            found = dict.fromkeys(row["file"] for row in csv.DictReader(file)
                                  if row["label"] == "scream" and row["split"] == "test")
    except (OSError, KeyError):
        raise ArtifactError(f"{features_csv}: needs the columns file, label and split; "
                            "run python extract_features.py first") from None
    if not found:
        raise ArtifactError(f"{features_csv}: no screams in its test split")
    return list(found)


def audible_part(samples, frame=256):
    """The stretch between the first and the last frame within 30 dB of the loudest, with faded ends."""
    frames = np.pad(samples, (0, -len(samples) % frame)).reshape(-1, frame)
    energy = np.square(frames, dtype=np.float64).sum(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (-AUDIBLE_DB / 10))
    part = samples[loud[0] * frame : (loud[-1] + 1) * frame].copy()
    fade = min(int(FADE_S * SAMPLE_RATE), len(part) // 2)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    part[:fade] *= ramp
    part[len(part) - fade :] *= ramp[::-1]
    return part


def choose_screams(paths, number, rng):
    """`number` screams as (path, samples), each used once before any is used again; clips too short are left out."""
    heard = [(path, audible_part(samples)) for path in paths if np.abs(samples := read_audio(path)).max() > 0]
    heard = [(path, samples) for path, samples in heard if len(samples) >= SHORTEST_S * SAMPLE_RATE]
    if not heard:
        raise ArtifactError(f"no scream is as long as {SHORTEST_S} s")
    rounds = [rng.permutation(len(heard)) for _ in range(-(-number // len(heard)))]
    return [heard[index] for index in np.concatenate(rounds)[:number]]


def place_screams(lengths, n_samples, rng):
    """First sample of each scream: one in each of equal slots, anywhere but at the slot's edges."""
    slot, margin = n_samples / len(lengths), MARGIN_S * SAMPLE_RATE
    if slot < max(lengths) + 2 * margin:
        raise ArtifactError(f"{len(lengths)} screams do not fit into {n_samples / SAMPLE_RATE:.0f} s; take fewer or more hours")
    return [int(slot * index + rng.uniform(margin, slot - margin - length)) for index, length in enumerate(lengths)]


def endless_ambience(paths, rng, log):
    """Yield recordings in random order, again and again, each from a random point round to it, crossfaded.

    At most one recording is held in memory. log: list that gets {"file", "start_s"} of each.
    """
    fade = int(CROSSFADE_S * SAMPLE_RATE)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    tail, position = np.zeros(fade, np.float32), 0
    while True:
        for index in rng.permutation(len(paths)):
            samples = read_audio(paths[index])
            level = scenes.active_rms(samples)
            if len(samples) < 2 * fade or level < 1e-6:
                continue
            samples = np.roll(samples, rng.integers(len(samples))) * np.float32(10 ** (rng.uniform(*AMBIENCE_DB) / 20) / level)
            samples[:fade] = samples[:fade] * ramp + tail * ramp[::-1]
            tail = samples[-fade:]
            log.append({"file": paths[index], "start_s": round(position / SAMPLE_RATE, 3)})
            position += len(samples) - fade
            yield samples[:-fade]
        if not log:
            raise ArtifactError("no ambience is long and loud enough")


class Reader:
    """Takes any number of samples from an endless stream of blocks."""

    def __init__(self, blocks):
        self.blocks, self.pending = blocks, np.zeros(0, np.float32)

    def take(self, n_samples):
        while len(self.pending) < n_samples:
            self.pending = np.concatenate([self.pending, next(self.blocks)])
        taken, self.pending = self.pending[:n_samples], self.pending[n_samples:]
        return taken


def build(path, ambience, scream_paths, hours, n_screams, seed):
    """Write the scene and its truth beside it; returns the truth. Memory does not depend on `hours`."""
    rng = np.random.default_rng(seed)
    n_samples = round(hours * 3600 * SAMPLE_RATE)
    screams = choose_screams(scream_paths, n_screams, rng)
    starts = place_screams([len(samples) for _, samples in screams], n_samples, rng)
    log, truth, position, clipped = [], [], 0, 0
    reader = Reader(endless_ambience(ambience, rng, log))
    big = n_samples * 2 > 4_000_000_000
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16", format="RF64" if big else "WAV") as scene:
        for (source, scream), start in [*zip(screams, starts), ((None, np.zeros(0, np.float32)), n_samples)]:
            while position < start:
                block = reader.take(min(BLOCK, start - position))
                scene.write(np.clip(block, -1, 1))
                position += len(block)
            if source is None:
                break
            snr_db = rng.uniform(*SNR_DB)
            mixed = scenes.mix(reader.take(len(scream)), scream, -snr_db)  # the ambience stays, the scream is scaled
            clipped += int((np.abs(mixed) > 1).sum())
            scene.write(np.clip(mixed, -1, 1))
            truth.append({"file": source, "start_s": round(start / SAMPLE_RATE, 3),
                          "end_s": round((start + len(scream)) / SAMPLE_RATE, 3), "snr_db": round(snr_db, 2)})
            position += len(scream)
    truth = {"audio": os.path.basename(path), "duration_s": round(n_samples / SAMPLE_RATE, 3), "seed": seed,
             "clipped_samples": clipped, "screams": truth, "ambience": log}
    write_json(truth_path(path), truth)
    return truth


def truth_path(path):
    return os.path.splitext(path)[0] + ".json"


def compare(events, truth):
    """Events [{start_s, end_s}] with the truth: recall, onset errors, false alarms.

    A scream is found if an event overlaps it; its onset error is that of the first such event, positive when late. An
    event that overlaps no scream is a false alarm. Returns a dict.
    """
    screams = truth["screams"]

    def overlap(event, scream):
        return event["start_s"] < scream["end_s"] and event["end_s"] > scream["start_s"]

    onsets = [min((event["start_s"] for event in events if overlap(event, scream)), default=None) for scream in screams]
    errors = np.array([onset - scream["start_s"] for onset, scream in zip(onsets, screams) if onset is not None])
    false_alarms = [event for event in events if not any(overlap(event, scream) for scream in screams)]
    middle = sum(SNR_DB) / 2
    by_level = {name: [onset is not None for onset, scream in zip(onsets, screams) if chosen(scream["snr_db"])]
                for name, chosen in ((f"{SNR_DB[0]:g}-{middle:g} dB", lambda snr: snr < middle),
                                     (f"{middle:g}-{SNR_DB[1]:g} dB", lambda snr: snr >= middle))}
    return {
        "screams": len(screams), "found": len(errors), "events": len(events), "false_alarms": len(false_alarms),
        "false_alarms_per_hour": len(false_alarms) / (truth["duration_s"] / 3600),
        "onset_error_median_s": float(np.median(np.abs(errors))) if len(errors) else None,
        "onset_error_p90_s": float(np.quantile(np.abs(errors), 0.9)) if len(errors) else None,
        "onset_bias_s": float(np.median(errors)) if len(errors) else None,
        "found_by_level": {name: (sum(found), len(found)) for name, found in by_level.items()},
        "missed": [scream for onset, scream in zip(onsets, screams) if onset is None],
        "alarms": false_alarms,
    }


def scan(path, options):
    """Run main.py on a file: (record, seconds, peak resident memory in MB)."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        process = subprocess.Popen([sys.executable, os.path.join(REPOSITORY, "main.py"), "--file", path, "--json", *options],
                                   stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ArtifactError(f"main.py ended with status {process.returncode}")  # it has said why
        output.seek(0)
        record = record_in(output)
    return record, seconds, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def record_in(file):
    """The record in the lines of a --json output."""
    records = [json.loads(line) for line in file if line.strip()]
    records = [record for record in records if "events" in record or "error" in record]
    if not records:
        raise ArtifactError("the output of main.py --json holds no record")
    return records[-1]


def first_minute(path, folder):
    minute = os.path.join(folder, "minute.wav")
    with soundfile.SoundFile(path) as scene:
        soundfile.write(minute, scene.read(60 * scene.samplerate, dtype="int16"), scene.samplerate, subtype="PCM_16")
    return minute


def poisson_interval(number):
    """95 % interval of the expected number where `number` independent events were counted (Garwood 1936): (low, high)."""
    low = chi2.ppf(0.025, 2 * number) / 2 if number else 0.0
    return low, chi2.ppf(0.975, 2 * number + 2) / 2


def markdown(result, truth, measured=None):
    """The table, as text. measured: dict of what scan() gave for the scene and for its first minute, or None."""
    def seconds(value):
        return "-" if value is None else f"{value:.2f} s"

    levels = ", ".join(f"{found} of {n} at {name}" for name, (found, n) in result["found_by_level"].items())
    within = seconds(result["onset_error_p90_s"])
    low, high = (number / truth["duration_s"] * 3600 for number in poisson_interval(result["false_alarms"]))
    rows = [("recording", f"{truth['duration_s'] / 3600:.2f} h, seed {truth['seed']}"),
            ("screams found", f"{result['found']} of {result['screams']} ({levels})"),
            ("onset error, median", f"{seconds(result['onset_error_median_s'])} (90 % within {within})"),
            ("false alarms per hour", f"{result['false_alarms_per_hour']:.2f} ({result['false_alarms']} in all; by chance "
             f"{low:.1f} to {high:.1f})")]
    if measured:
        rows += [("scan", f"{measured['seconds']:.0f} s, {truth['duration_s'] / measured['seconds']:.0f} times real time"),
                 ("peak memory", f"{measured['memory_mb']:.0f} MB; {measured['minute_mb']:.0f} MB for its first minute")]
    return "| what | figure |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def score(args):
    try:
        with open(args.truth or truth_path(args.scene)) as file:
            truth = json.load(file)
        if args.events:
            with open(args.events) as file:
                record, measured = record_in(file), None
        else:
            record, took, memory = scan(args.scene, args.options)
            with tempfile.TemporaryDirectory() as folder:
                _, _, minute_memory = scan(first_minute(args.scene, folder), args.options)
            measured = {"seconds": took, "memory_mb": memory, "minute_mb": minute_memory}
    except (OSError, json.JSONDecodeError) as error:
        raise ArtifactError(f"cannot be read: {error}") from None
    if "error" in record or abs(record["duration_s"] - truth["duration_s"]) > 0.1:
        raise ArtifactError(record.get("error") or f"{record['file']} lasts {record['duration_s']} s, the scene of this truth "
                            f"{truth['duration_s']} s: they do not belong together")
    result = compare(record["events"], truth)
    table = markdown(result, truth, measured)
    print(table, end="")
    for scream in result["missed"]:
        print(f"missed: {scream['start_s']:.1f} s, {scream['snr_db']:.1f} dB, {scream['file']}", file=sys.stderr)
    for event in result["alarms"]:
        under = [entry["file"] for entry in truth["ambience"] if entry["start_s"] <= event["start_s"]]
        print(f"false alarm: {event['start_s']:.1f} s, {under[-1] if under else '?'}", file=sys.stderr)
    if args.markdown:
        with open(args.markdown, "w") as file:
            file.write(table)
    return 0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="write a scene and its truth")
    command.add_argument("scene", help="WAV to write; the truth goes beside it, with the ending .json")
    command.add_argument("--ambience", required=True, help="folder of long recordings without screams, or a CSV with their path")
    command.add_argument("--csv", default="audio_features.csv", help="stage 1's table, for the test split (default %(default)s)")
    command.add_argument("--hours", type=float, default=10)
    command.add_argument("--screams", type=int, default=40)
    command.add_argument("--seed", type=int, default=1)
    command = commands.add_parser("score", help="scan a scene and compare with its truth",
                                  epilog="after --: options of main.py")
    command.add_argument("scene")
    command.add_argument("--truth", help="default: beside the scene")
    command.add_argument("--events", help="a finished output of main.py --json, instead of running it")
    command.add_argument("--markdown", help="file for the table")
    argv = list(sys.argv[1:] if argv is None else argv)
    ours = argv[: argv.index("--")] if "--" in argv else argv
    args = parser.parse_args(ours)
    args.options = argv[len(ours) + 1 :]  # after --: those of main.py
    if args.command == "score":
        return score(args)
    if args.options:
        parser.error("only score hands options after -- to main.py")
    if args.hours <= 0 or args.screams < 1:
        parser.error("--hours and --screams must be positive")
    truth = build(args.scene, find_ambience(args.ambience), find_held_out_screams(args.csv), args.hours, args.screams, args.seed)
    print(f"wrote {args.scene} ({args.hours:g} h, {len(truth['screams'])} screams) and {truth_path(args.scene)}\n"
          f"next: python benchmarks/long_scene.py score {args.scene}")
    return 0


if __name__ == "__main__":
    run_stage(main)
