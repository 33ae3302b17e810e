"""The data set: find clips in the layouts their owners ship, group them, split them, read the artifacts back."""

import argparse
import csv
import hashlib
import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, replace

import numpy as np

from utils.artifacts import ArtifactError, read_json, sha256_of
from utils.features import FEATURE_NAMES, SIGNAL_SETTINGS
from utils.tables import first_row

AUDIO_EXTENSIONS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au",
                    ".m4a", ".aac", ".mp4", ".webm", ".mkv", ".mov", ".wma", ".3gp")  # this line through ffmpeg
SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.70, 0.15, 0.15)
NEIGHBOURS_PER_GROUP = 25  # file numbers this close may be cuts of one recording
NEAR_COPY = 0.75  # standard deviations between the features of two windows; from 1 on, rain resembles other rain
NEAR_COPY_PAIRS = 2 ** 19  # compared at once: 4 MB for each array of them, however many windows there are
SHOWN_PAIRS = 3  # of recordings with both labels, in the note about them
EXTRACT = "python extract_features.py"
HOW_TO_GROUP = (f"names with numbers of one block of {NEIGHBOURS_PER_GROUP} count as cuts of one recording, which stays on one "
                "side of the split, unless a clips.csv with a column group says what belongs together; so do clips that hold the "
                "same sound, or sound nearly the same")
FEATURES_CSV, AUGMENTED_CSV, NOISE_CSV = "audio_features.csv", "augmented_features.csv", "noise_features.csv"
STFT_NPY, MEL_NPY, LABELS_NPY = "cnn_spectrograms.npy", "cnn_mel_spectrograms.npy", "cnn_labels.npy"
MANIFEST = "manifest.json"
SYNTHESISED = "synthesised"  # source of the signals that stage 1 makes itself: always for training


@dataclass
class Clip:
    """One labelled audio file."""

    path: str
    label: str  # "scream" or "non_scream"
    source: str  # collection
    group: str  # clips that may share a recording, a contributor or a sound
    sound_class: str


def audio_files(folder, on_error=None):
    """All audio files below `folder`, sorted; symbolic links to folders are not followed.

    Names that begin with a dot are left out, as they are elsewhere: macOS writes some beside the real ones on other file systems.
    on_error: called with an OSError for each folder that cannot be read, `folder` itself or one below it.
    """
    found = []
    for base, folders, names in os.walk(folder, onerror=on_error):
        folders.sort()
        found += [os.path.join(base, name) for name in sorted(names)
                  if name.lower().endswith(AUDIO_EXTENSIONS) and not name.startswith(".")]
    return found


def group_from_name(name):
    """Group of a clip nobody described: its name without the number, plus the block of 25 file numbers it lies in."""
    stem = os.path.splitext(os.path.basename(name))[0]
    numbers = re.findall(r"\d+", stem)
    block = int(numbers[-1]) // NEIGHBOURS_PER_GROUP if numbers and len(numbers[-1]) < 10 else 0
    return f"{re.sub(r'[0-9]+', '', stem).strip(' _-.()').lower()}-{block}"


def read_clip_table(path, columns):
    """Rows [{column: text}] of a CSV file that describes clips, each of `columns` filled in. Raises ArtifactError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # Excel begins with a mark
            rows = list(csv.DictReader(file))
    except UnicodeDecodeError:
        raise ArtifactError(f"{path} is not in UTF-8: save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        raise ArtifactError(f"{path} cannot be read as a table ({error})") from None
    named = f"{', '.join(columns[:-1])} and {columns[-1]}"
    if not rows or not set(columns) <= rows[0].keys():
        raise ArtifactError(f"{path} needs the columns {named}, with commas between them")
    for number, row in enumerate(rows, start=1):
        if not all(row[column] for column in columns):
            raise ArtifactError(f"{path}: row {number} lacks one of {named}")
        if any("\0" in (row[column] or "") for column in columns):
            raise ArtifactError(f"{path}: row {number} holds a zero byte")
    return rows


def find_described_clips(folder):
    """Clips of a folder with a clips.csv (columns path, label; optional source, group, sound_class)."""
    rows = read_clip_table(f"{folder}/clips.csv", ("path", "label"))
    name = os.path.basename(os.path.abspath(folder))
    others = sorted({str(row["label"]) for row in rows} - {"scream", "non_scream"})
    if others:
        print(f"{folder}/clips.csv: rows with labels other than scream and non_scream are left out ({', '.join(others[:4])})",
              file=sys.stderr)
    listed = {os.path.realpath(os.path.join(folder, row["path"])) for row in rows}
    n_left_out = sum(os.path.realpath(path) not in listed for path in audio_files(folder))
    if n_left_out:
        recordings, are = ("recording", "is") if n_left_out == 1 else ("recordings", "are")
        print(f"note: {n_left_out} {recordings} below {folder} {are} not in its clips.csv and {are} left out", file=sys.stderr)
    return [
        Clip(os.path.join(folder, row["path"]), row["label"], row.get("source") or name,
             row.get("group") or f"{name}-{group_from_name(row['path'])}", row.get("sound_class") or row["label"])
        for row in rows if row["label"] in ("scream", "non_scream")
    ]


def find_esc50_clips(folder):
    """Clips of ESC-50 as its owner ships it: every clip non_scream, the Freesound id is the group."""
    rows = read_clip_table(f"{folder}/meta/esc50.csv", ("filename", "src_file", "category"))
    return [Clip(os.path.join(folder, "audio", row["filename"]), "non_scream", "esc50", f"esc-{row['src_file']}", row["category"])
            for row in rows]


def find_labelled_tree(folder):
    """Clips below folders named scream and non_scream, at any depth. The source is the folder above the label."""
    def say_skipped(error):
        print(f"skipped: {error.filename}: this folder cannot be read ({error.strerror})", file=sys.stderr)

    clips = []
    for path in audio_files(folder, say_skipped):
        parts = os.path.relpath(path, folder).split(os.sep)[:-1]
        labels = [part for part in parts if part in ("scream", "non_scream")]
        if not labels:
            continue
        above = parts[: parts.index(labels[0])]
        source = above[-1] if above else os.path.basename(os.path.abspath(folder))
        below = parts[parts.index(labels[0]) + 1 :]
        group = "-".join([source, *below, group_from_name(path)])
        clips.append(Clip(path, labels[0], source, group, below[-1] if below else labels[0]))
    return clips


def find_clips(folder):
    """Clips of one folder in any of the three layouts. Raises ArtifactError when there are none."""
    if not os.path.isdir(folder):
        raise ArtifactError(f"{folder}: no such folder")
    if os.path.isfile(os.path.join(folder, "clips.csv")):
        clips = find_described_clips(folder)
    elif os.path.isfile(os.path.join(folder, "meta", "esc50.csv")):
        clips = find_esc50_clips(folder)
    else:
        clips = find_labelled_tree(folder)
    if not clips:
        raise ArtifactError(f"{folder}: no clips found; put them in folders named scream and non_scream")
    if any(clip.source == SYNTHESISED for clip in clips):
        raise ArtifactError(f"{folder}: a source named {SYNTHESISED} would be mistaken for signals of this project; rename it")
    return clips


def each_file_once(clips):
    """The clips without those that were found again, as where one folder lies in another; says how many these were.

    A file with both labels stays twice: group_identical_clips says so.
    """
    first = {}
    for clip in clips:
        first.setdefault((os.path.realpath(clip.path), clip.label), clip)
    if len(first) < len(clips):
        print(f"note: of {len(clips)} clips {len(clips) - len(first)} are files that were found before, in a folder that "
              "overlaps or in another row of a clips.csv: each file counts once", file=sys.stderr)
    return list(first.values())


class JoinedGroups:
    """Groups that turned out to belong together (union-find over names), under the name that sorts first."""

    def __init__(self):
        self.parent = {}

    def root(self, group):
        root = group
        while root in self.parent:
            root = self.parent[root]
        while group != root:  # long chains become short
            self.parent[group], group = root, self.parent[group]
        return root

    def join(self, one, other):
        first, second = sorted((self.root(one), self.root(other)))
        if first != second:
            self.parent[second] = first


def hash_or_nothing(path):
    try:
        return sha256_of(path)
    except OSError:
        return None  # reading it later reports the file


def group_identical_clips(clips, jobs=1):
    """Give clips with identical bytes one common group, so that no copy lands on another side of a split.

    Says which of them have both labels. jobs: threads that read and hash the files of which another one has the same size.
    """
    from joblib import Parallel, delayed

    by_size = {}
    for clip in clips:
        if os.path.isfile(clip.path):
            by_size.setdefault(os.path.getsize(clip.path), []).append(clip)
    joined, group_of, labelled = JoinedGroups(), {}, {}
    alike = [clip for same_size in by_size.values() if len(same_size) > 1 for clip in same_size]
    # single files would keep the threads waiting for the next one: hashing takes a tenth of a millisecond
    digests = Parallel(jobs, backend="threading", batch_size=32)(delayed(hash_or_nothing)(clip.path) for clip in alike)
    for clip, digest in zip(alike, digests):
        if digest:
            joined.join(group_of.setdefault(digest, clip.group), clip.group)
            labelled.setdefault(digest, {}).setdefault(clip.label, clip.path)
    both = [f"{paths['scream']} and {paths['non_scream']}" for paths in labelled.values() if len(paths) == 2]
    if both:
        more = f", and {len(both) - SHOWN_PAIRS} more" if len(both) > SHOWN_PAIRS else ""
        print(f"note: the same recording is labelled scream and non_scream: {'; '.join(both[:SHOWN_PAIRS])}{more}; remove the "
              "wrong one", file=sys.stderr)
    return [replace(clip, group=joined.root(clip.group)) for clip in clips]


def near_copies(features, radius=NEAR_COPY):
    """Find windows whose features are nearly equal: cuts of one recording, or one file encoded twice.

    features: [n_windows, 34]. radius: distance in standard deviations over all 34 features below which two windows count as
    copies; two unrelated clips are about 8 apart. Yields arrays [n_pairs, 2] of row numbers, the smaller one first.
    """
    features = np.asarray(features, float)  # of differences of squares float32 would keep little
    scaled = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-12)
    # along the axis of the largest spread most pairs are further apart than the radius already
    along = scaled @ np.linalg.eigh(scaled.T @ scaled)[1][:, -1]
    order = np.argsort(along)
    scaled, along = scaled[order], along[order]
    squares = (scaled ** 2).sum(axis=1)
    n_block = max(1, NEAR_COPY_PAIRS // len(scaled))
    for first in range(0, len(scaled), n_block):
        block = slice(first, first + n_block)
        others = slice(first, int(np.searchsorted(along, along[block][-1] + radius, side="right")))
        squared_distance = squares[block, None] + squares[others] - 2 * scaled[block] @ scaled[others].T
        row, other = np.nonzero(np.triu(squared_distance < radius ** 2, k=1))  # each pair once
        yield np.sort(order[first + np.stack([row, other], axis=1)], axis=1)


def join_copies(groups, features, copies=()):
    """Which groups hold copies of each other: {group: name of the group that it belongs to}.

    groups: names [n_windows]. features: [n_windows, 34], by which near copies are found. copies: other pairs of groups.
    """
    names, number = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    joined = JoinedGroups()
    for pair in copies:
        joined.join(*pair)
    for pairs in near_copies(features):
        one, other = number[pairs].T
        for pair in np.unique((one * len(names) + other)[one != other]):  # many pairs of windows, few of groups
            joined.join(*(str(names[i]) for i in divmod(pair, len(names))))
    return {str(name): joined.root(str(name)) for name in names}


def group_near_copies(windows):
    """Groups for a table that brings none: names as in `group_from_name`, joined where features are nearly equal.

    Returns names [n_windows].
    """
    esc50 = [re.match(r"\d-(\d+)-[A-Z]-\d+\.", os.path.basename(name)) for name in windows.file]
    groups = [f"esc-{match[1]}" if match else group_from_name(name) for match, name in zip(esc50, windows.file)]
    joined = join_copies(groups, windows.features)
    return np.array([joined[group] for group in groups], dtype=object)


def spread_groups(labels, sources, groups, shares, seed):
    """Distribute whole groups so that every (label, source) comes near `shares` of its clips in each part.

    labels, sources, groups: [n] sequences, one entry per clip. Returns the part of each clip, int [n].
    Deterministic for a seed. Groups are dealt largest first within their stratum, each to the part that lacks most.
    """
    rng = np.random.default_rng(seed)
    shares = np.asarray(shares, float)
    members = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    strata = {}
    for group in sorted(members):
        label = "scream" if any(labels[i] == "scream" for i in members[group]) else "non_scream"
        strata.setdefault((label, sources[members[group][0]]), []).append(group)
    part = np.zeros(len(groups), int)
    total_dealt = {"scream": np.zeros(len(shares)), "non_scream": np.zeros(len(shares))}
    for (label, _), names in sorted(strata.items()):
        names = [names[i] for i in rng.permutation(len(names))]
        names.sort(key=lambda group: -len(members[group]))  # stable: random order among equals
        dealt = np.zeros(len(shares))
        wanted = shares * sum(len(members[group]) for group in names)
        for group in names:
            size = len(members[group])
            lacks = wanted - dealt
            # equal lacks within a small stratum: prefer the part that lacks most of this label so far
            overall = total_dealt[label] / shares
            chosen = int(np.lexsort((overall, -np.round(lacks / size, 6)))[0])
            part[members[group]] = chosen
            dealt[chosen] += size
            total_dealt[label][chosen] += size
    return part


def split_clips(clips, seed):
    """Group-safe, stratified train / validation / test: a list of split names, one per clip."""
    part = spread_groups([c.label for c in clips], [c.source for c in clips], [c.group for c in clips], SPLIT_SHARES, seed)
    return [SPLITS[i] for i in part]


def fingerprint(clips, settings):
    """SHA-256 over settings and the clips: path, content, label, source, group, sound class; not the times."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for clip in clips:
        identity = (clip.path, hash_or_nothing(clip.path), clip.label, clip.source, clip.group, clip.sound_class)
        digest.update(repr(identity).encode())
    return digest.hexdigest()


@dataclass
class Windows:
    """The table of windows that stage 1 wrote, as arrays [n_windows]."""

    file: np.ndarray
    label: np.ndarray  # int, 1 = scream
    features: np.ndarray  # float64 [n_windows, 34]
    start_s: np.ndarray
    band_level_db: np.ndarray  # see utils.loudness.window_level; 0 where the table does not tell
    source: np.ndarray
    group: np.ndarray
    split: np.ndarray
    sound_class: np.ndarray
    mix_group: np.ndarray  # augmented rows: group and source of the background; else empty strings
    mix_source: np.ndarray

    def __len__(self):
        return len(self.file)

    def rows(self, chosen):
        """The chosen rows (mask or indices) as a new table."""
        return Windows(**{name: values[chosen] for name, values in vars(self).items()})


def read_manifest(data_dir):
    path = os.path.join(data_dir, MANIFEST)
    manifest = read_json(path, EXTRACT)
    if not isinstance(manifest.get("files"), dict) or "fingerprint" not in manifest:
        raise ArtifactError(f"{path} does not describe the artifacts of stage 1: run {EXTRACT} again")
    if manifest.get("settings") != SIGNAL_SETTINGS:
        raise ArtifactError(f"{data_dir} was made with other signal settings: run {EXTRACT} again")
    return manifest


def check_size(path, manifest):
    """Compare a file with the size that the manifest promises, so a truncated or swapped file is noticed."""
    try:
        size = os.path.getsize(path)
    except OSError:
        raise ArtifactError(f"{path} is missing: run {EXTRACT} first") from None
    expected = manifest["files"].get(os.path.basename(path))
    if expected is None:
        raise ArtifactError(f"{path} is not among the files that {EXTRACT} wrote: {', '.join(manifest['files'])}")
    if size != expected:
        raise ArtifactError(f"{path} is not the file that {EXTRACT} wrote ({size} bytes, not {expected}): run it again")


def check_table_replaceable(path):
    """Raise ArtifactError unless a feature table may replace what is at `path`: nothing, or such a table."""
    there = first_row(path)
    if there and there[:3] != ["file", "label", FEATURE_NAMES[0]]:
        raise ArtifactError(f"{path}: holds something else than a feature table; name another file")


def read_windows(csv_path, manifest=None):
    """Read a feature table (audio_features.csv, the augmented one, or a bare file,label,+34). Raises ArtifactError."""
    import pandas as pd  # only training stages need it

    if manifest is not None:
        check_size(csv_path, manifest)
    try:
        table = pd.read_csv(csv_path, dtype={"file": str, "group": str, "source": str, "sound_class": str}, keep_default_na=False,
                            encoding_errors="surrogateescape")
    except FileNotFoundError:
        raise ArtifactError(f"{csv_path} is missing: run {EXTRACT} first") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{csv_path} is not a feature table ({error})") from None
    missing = [name for name in ["file", "label", *FEATURE_NAMES] if name not in table]
    if missing:
        names = ", ".join(missing[:4]) + (" ..." if len(missing) > 4 else "")
        raise ArtifactError(f"{csv_path} lacks the columns {names}: run {EXTRACT}, or give another table")
    if manifest is not None and "mix_group" not in table and "band_level_db" not in table:  # written before there was one
        raise ArtifactError(f"{csv_path} does not tell how loud its windows are: run {EXTRACT} again")
    try:
        features = table[FEATURE_NAMES].to_numpy(float)
    except ValueError:
        raise ArtifactError(f"{csv_path} has features that are not numbers: run {EXTRACT} again") from None
    if not np.isfinite(features).all():
        raise ArtifactError(f"{csv_path} has features that are not finite: run {EXTRACT} again")
    no_rows = not len(table) and "mix_group" not in table  # there may be no copies of clips
    if no_rows or not set(table["label"]) <= {"scream", "non_scream"}:
        raise ArtifactError(f"{csv_path} must have rows, each labelled scream or non_scream")

    def column(name, default):
        return table[name].to_numpy() if name in table else np.full(len(table), default)

    file = table["file"].to_numpy()
    if "start_s" not in table and "mix_group" not in table:  # one row per clip; names may repeat between folders
        file = np.array([f"{label}/{row}/{name}" for row, (label, name) in enumerate(zip(table["label"], file))], dtype=object)
    return Windows(
        file=file, label=(table["label"] == "scream").to_numpy(int), features=features,
        start_s=column("start_s", 0.0), band_level_db=column("band_level_db", 0.0), source=column("source", ""),
        group=column("group", ""), split=column("split", ""), sound_class=column("sound_class", ""),
        mix_group=column("mix_group", ""), mix_source=column("mix_source", ""),
    )


def read_spectrograms(data_dir, name, n_windows, manifest):
    """Memory-mapped spectrograms [n_windows, 128, 128] in dB. Raises ArtifactError."""
    path = os.path.join(data_dir, name)
    check_size(path, manifest)
    try:
        spectrograms = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): run {EXTRACT} again") from None
    if spectrograms.shape != (n_windows, 128, 128):
        raise ArtifactError(f"{path} does not fit {FEATURES_CSV} ({spectrograms.shape[0]} and {n_windows} windows): "
                            f"run {EXTRACT} again")
    return spectrograms


def choose_split(windows, sources=None, folds=None, fold=None, all_data=False, seed=0):
    """Split names [n_windows] for a training run.

    By default the split column of stage 1. With `sources`, only these collections take part, the others are "unused".
    With `folds` and `fold`, whole groups are dealt to `folds` parts: part `fold` is the test, the next one validation.
    With `all_data`, every window is for training.
    """
    split = np.asarray(windows.split, dtype=object).copy()
    if all_data:
        split[:] = "train"
    if fold is not None:
        files, first = np.unique(windows.file, return_index=True)
        label = np.where(windows.label[first] == 1, "scream", "non_scream")
        part = spread_groups(label, windows.source[first], windows.group[first], np.full(folds, 1 / folds), seed)
        part = part[np.searchsorted(files, windows.file)]
        split[:] = "train"
        split[part == fold] = "test"
        split[part == (fold + 1) % folds] = "validation"
    if sources:
        unknown = set(sources) - set(windows.source)
        if unknown:
            raise ArtifactError(f"no clips of source {', '.join(sorted(unknown))}; "
                                f"there are: {', '.join(sorted(set(windows.source)))}")
        split[split == "test"] = "train"  # the other sources are the test
        split[~np.isin(windows.source, list(sources))] = "unused"
    split[windows.source == SYNTHESISED] = "train"
    return split


def add_split_options(parser):
    """The options that all training scripts share: which artifacts, which part of them to learn from, where to write."""
    parser.add_argument("--features", default=FEATURES_CSV, metavar="CSV", help="table of windows (default %(default)s)")
    parser.add_argument("--data", default="data", metavar="DIR", help="folder of stage 1's other artifacts (default %(default)s)")
    parser.add_argument("--models", default="models", metavar="DIR", help="where to write (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", nargs="+", metavar="NAME", help="learn from these collections only; the others stay unseen")
    parser.add_argument("--folds", type=int, help="group-safe cross-validation with this many parts ...")
    parser.add_argument("--fold", type=int, help="... of which this one, counted from 0, is the test")
    parser.add_argument("--all-data", action="store_true",
                        help="learn from everything, for release; keeps the operating point of the evaluated model in --models")


def next_command(script, **options):
    """The command of another stage script, with those options of add_split_options that differ from their defaults.

    Where a stage was told to read and write elsewhere, the next one must be told too: it would learn from other clips.
    """
    parser = argparse.ArgumentParser()
    add_split_options(parser)
    words = ["python", script]
    for name, value in options.items():
        if value != parser.get_default(name):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return shlex.join(words)


def check_seed(parser, seed):
    if not 0 <= seed < 2 ** 32:  # what numpy and scikit-learn take
        parser.error("--seed must lie between 0 and 4294967295")


def check_split_options(parser, args):
    check_seed(parser, args.seed)
    if (args.folds is None) != (args.fold is None) or (args.folds is not None and not 0 <= args.fold < args.folds >= 3):
        parser.error("--folds (3 or more) and --fold (from 0) go together")
    if args.all_data and (args.sources or args.folds):
        parser.error("--all-data excludes --sources and --folds")
    if args.sources and args.folds:
        parser.error("--sources and --folds exclude each other")


def copies_of(part, augmented, windows, split):
    """Augmented rows whose every recording, clip and background alike, is in this part ("train", ...) of the split.

    A group may reach over collections (copies, the same bytes): with --sources its clips in others are not learned from.
    """
    seen = set(zip(windows.source[split == part], windows.group[split == part]))
    return augmented.rows(np.array([clip in seen and background in seen for clip, background in zip(
        zip(augmented.source, augmented.group), zip(augmented.mix_source, augmented.mix_group))], dtype=bool))
