"""Clips are found in every layout, groups stay on one side of every split, and unfit artifacts are refused."""

import collections
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import LAYOUTS
from hypothesis import given, settings
from hypothesis import strategies as st
from window_table import window_table

from utils import dataset
from utils.artifacts import ArtifactError
from utils.audio import WINDOW_S
from utils.comparison import StoredClip
from utils.dataset import (
    AUGMENTED_CSV,
    LABELS_NPY,
    MANIFEST,
    MEL_NPY,
    SPLITS,
    STFT_NPY,
    Clip,
    choose_split,
    copies_of,
    each_file_once,
    find_clips,
    fingerprint,
    group_from_name,
    group_identical_clips,
    join_copies,
    near_copies,
    next_command,
    read_manifest,
    read_spectrograms,
    read_windows,
    split_clips,
    spread_groups,
)
from utils.features import FEATURE_NAMES
from utils.loudness import window_level


def touch(folder, *paths):
    for path in paths:
        os.makedirs(os.path.dirname(folder / path), exist_ok=True)
        (folder / path).write_bytes(path.encode())


def make_clips(groups_of):
    """Clips from {(label, source): [clips in each group]}; group names are unique."""
    clips = []
    for (label, source), sizes in groups_of.items():
        for number, size in enumerate(sizes):
            group = f"{source}-{label}-{number}"
            clips += [Clip(f"{source}/{label}/{number}-{i}.wav", label, source, group, label) for i in range(size)]
    return clips


def make_windows(clips, splits):
    """A table with two windows per clip, its features all zero."""
    rows = [(clip, split) for clip, split in zip(clips, splits) for _ in range(2)]

    return window_table([c.path for c, _ in rows], [c.label == "scream" for c, _ in rows], split=[s for _, s in rows],
                        **{name: [getattr(c, name) for c, _ in rows] for name in ("source", "group", "sound_class")})


SEVERAL_SOURCES = {("scream", "home"): [3, 1, 4, 1, 5, 9, 2, 6], ("non_scream", "home"): [10] * 10, ("scream", "game"): [1] * 20,
                   ("non_scream", "street"): [7, 7, 8, 2, 2, 1, 1, 1, 3]}


# --- layouts

def test_kaggle_layout(tiny_data_set):
    clips = find_clips(tiny_data_set / "Converted_Separately")
    assert collections.Counter(c.label for c in clips) == {"scream": 12, "non_scream": 12}
    assert {c.source for c in clips} == {"Converted_Separately"}
    assert all(os.path.isfile(c.path) for c in clips)


def test_esc50_layout(tiny_data_set):
    clips = find_clips(tiny_data_set / "ESC-50-master")
    assert [c.label for c in clips] == ["non_scream"] * 16
    assert {c.source for c in clips} == {"esc50"} and {c.sound_class for c in clips} == {"dog", "rain"}
    assert len({c.group for c in clips}) == 8  # two clips of each Freesound recording
    assert all(os.path.isfile(c.path) for c in clips)


def test_described_layout(tiny_data_set):
    clips = find_clips(tiny_data_set / "described")
    assert collections.Counter((c.label, c.source, c.sound_class) for c in clips) == {
        ("scream", "field", "voice"): 10, ("non_scream", "field", "wind"): 10}
    assert {c.group for c in clips} == {f"session-{i}" for i in range(10)}


def test_clips_csv_from_excel_and_labels_that_are_left_out(tmp_path, capsys):
    (tmp_path / "clips.csv").write_text("path,label\na.wav,scream\nb.wav,Scream\n", encoding="utf-8-sig")
    assert [clip.label for clip in find_clips(str(tmp_path))] == ["scream"]
    assert "labels other than scream and non_scream are left out (Scream)" in capsys.readouterr().err


def test_clips_csv_with_only_path_and_label(tmp_path):
    touch(tmp_path, "a/shout12.wav", "b/rain.wav", "b/other.wav")
    (tmp_path / "clips.csv").write_text("path,label\na/shout12.wav,scream\nb/rain.wav,non_scream\nb/other.wav,unsure\n")
    clips = find_clips(tmp_path)
    assert [(c.path, c.label) for c in clips] == [
        (str(tmp_path / "a/shout12.wav"), "scream"), (str(tmp_path / "b/rain.wav"), "non_scream")]
    assert {c.source for c in clips} == {tmp_path.name}
    assert len({c.group for c in clips}) == 2


def test_recordings_that_clips_csv_does_not_list_are_counted(tmp_path, capsys):
    touch(tmp_path, "scream/1.wav", "other/2.wav", "other/3.flac", "other/notes.txt", "unsure/4.wav")
    rows = "path,label\nscream/../scream/1.wav,scream\nunsure/4.wav,unsure\n"
    (tmp_path / "clips.csv").write_text(rows)
    assert len(find_clips(tmp_path)) == 1
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"note: 2 recordings below {tmp_path} are not in its clips.csv and are left out"]
    (tmp_path / "clips.csv").write_text(rows + "other/2.wav,non_scream\n")
    find_clips(tmp_path)
    assert f"note: 1 recording below {tmp_path} is not in its clips.csv and is left out\n" in capsys.readouterr().err
    (tmp_path / "clips.csv").write_text(rows + "other/2.wav,non_scream\nother/3.flac,non_scream\n")
    os.symlink(tmp_path, tmp_path / "link")
    for folder in (tmp_path, tmp_path / "link"):
        assert len(find_clips(folder)) == 3
    assert "note:" not in capsys.readouterr().err


def test_labelled_tree_at_any_depth(tmp_path):
    touch(tmp_path, "home/scream/1.wav", "home/non_scream/door/1.flac", "street/2026/non_scream/1.MP3", "scream/9.ogg",
          "home/scream/notes.txt", "unlabelled/1.wav")
    found = {os.path.relpath(c.path, tmp_path): (c.label, c.source, c.sound_class) for c in find_clips(tmp_path)}
    assert found == {
        "home/scream/1.wav": ("scream", "home", "scream"),
        "home/non_scream/door/1.flac": ("non_scream", "home", "door"),
        "street/2026/non_scream/1.MP3": ("non_scream", "2026", "non_scream"),
        "scream/9.ogg": ("scream", tmp_path.name, "scream"),
    }


def test_order_does_not_depend_on_the_file_system(tmp_path):
    touch(tmp_path, *(f"{source}/{label}/{i}.wav" for source in "zcbkafxe" for label in ("scream", "non_scream") for i in (3, 1)))
    clips = find_clips(tmp_path)
    assert [c.path for c in clips] == sorted(c.path for c in clips)


@pytest.mark.parametrize("content, sentence", [
    (None, "no such folder"), ({}, "no clips found"), ({"scream/readme.txt": ""}, "no clips found"),
    ({"clips.csv": "file,label\na.wav,scream\n"}, "needs the columns path and label"),
    ({"clips.csv": "path,label\n"}, "needs the columns path and label"),
])
def test_folder_without_clips_is_one_sentence(tmp_path, content, sentence):
    folder = tmp_path / "recordings"
    if content is not None:
        folder.mkdir()
        for path, text in content.items():
            os.makedirs(os.path.dirname(folder / path), exist_ok=True)
            (folder / path).write_text(text)
    with pytest.raises(ArtifactError, match=sentence) as caught:
        find_clips(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


# --- groups

@pytest.mark.parametrize("one, other, same", [
    ("scream_101.wav", "scream_124.wav", True), ("scream_124.wav", "scream_125.wav", False), ("7.wav", "8.wav", True),
    ("dog 3.wav", "cat 3.wav", False), ("Dog_3.wav", "dog-4.wav", True), ("take1_0003.wav", "take1_0004.wav", True),
    ("1700000000000.wav", "1800000000000.wav", True),  # a time stamp is no file number
])
def test_group_from_name(one, other, same):
    assert (group_from_name(one) == group_from_name(other)) is same


def test_the_last_number_of_a_name_counts():
    assert group_from_name("session 2 clip 10.wav") == group_from_name("session 2 clip 11.wav")
    assert group_from_name("session 2 clip 10.wav") != group_from_name("session 2 clip 400.wav")


def test_identical_files_share_a_group_through_any_chain(tmp_path):
    for name, content in {"a": b"1111", "b": b"1111", "c": b"222", "d": b"222", "e": b"3333", "f": b"44"}.items():
        (tmp_path / name).write_bytes(content)
    groups = {"a": "p", "b": "q", "c": "r", "d": "q", "e": "s", "f": "t"}  # a=b joins p and q, c=d joins r and q
    clips = [Clip(str(tmp_path / name), "scream", "home", group, "") for name, group in groups.items()]
    made = {os.path.basename(c.path): c.group for c in group_identical_clips(clips)}
    assert made["a"] == made["b"] == made["c"] == made["d"]
    assert len({made["a"], made["e"], made["f"]}) == 3


def test_each_file_counts_once_however_it_was_found(tmp_path, capsys):
    touch(tmp_path, "home/scream/1.wav", "home/non_scream/2.wav")
    os.symlink(tmp_path / "home/scream/1.wav", tmp_path / "home/scream/9.wav")
    once = find_clips(f"{tmp_path}/home")
    again = [*once, *find_clips(f"{tmp_path}/home/"), *find_clips(tmp_path)]
    assert each_file_once(once[:2]) == once[:2] and capsys.readouterr().err == ""
    assert each_file_once(again) == once[:2]
    assert "note: of 9 clips 7 are files that were found before" in capsys.readouterr().err


def test_recordings_with_both_labels_are_named(tmp_path, capsys):
    for number in range(5):
        for label in ("scream", "non_scream"):
            touch(tmp_path, f"{label}/{number}.wav")
            (tmp_path / label / f"{number}.wav").write_text(f"{number} {label if number == 4 else 'copy'}")
    (tmp_path / "scream/copy.wav").write_text("0 copy")  # two copies with the same label are no contradiction
    group_identical_clips(find_clips(tmp_path))
    pairs = [f"{tmp_path}/scream/{number}.wav and {tmp_path}/non_scream/{number}.wav" for number in range(3)]
    assert capsys.readouterr().err == (
        f"note: the same recording is labelled scream and non_scream: {'; '.join(pairs)}, and 1 more; remove the wrong one\n")
    for number in range(4):
        (tmp_path / f"scream/{number}.wav").unlink()
    group_identical_clips(find_clips(tmp_path))
    assert capsys.readouterr().err == f"note: the same recording is labelled scream and non_scream: {tmp_path}/scream/copy.wav " \
        f"and {tmp_path}/non_scream/0.wav; remove the wrong one\n"


def test_file_with_both_labels_is_named(tmp_path, capsys):
    touch(tmp_path, "1.wav")
    (tmp_path / "clips.csv").write_text("path,label\n1.wav,scream\n1.wav,non_scream\n")
    assert len(group_identical_clips(each_file_once(find_clips(tmp_path)))) == 2
    assert f"{tmp_path}/1.wav and {tmp_path}/1.wav; remove" in capsys.readouterr().err


def test_missing_file_does_not_stop_the_grouping(tmp_path):
    assert group_identical_clips([Clip(str(tmp_path / "gone.wav"), "scream", "home", "g", "")])[0].group == "g"


def windows_with_copies(distance, seed=0):
    """Features [600, 34] of unrelated windows; row 300 + i is row i, `distance` standard deviations away."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 1, (300, 34))
    directions = rng.normal(0, 1, (300, 34))
    directions *= distance / np.linalg.norm(directions, axis=1, keepdims=True)
    return np.concatenate([features, features + directions]) * np.geomspace(1e-3, 1e3, 34)  # each feature of another size


@pytest.mark.parametrize("distance, n_found", [(0.0, 300), (0.7, 300), (0.8, 0)])
def test_near_copies_lie_within_the_radius(monkeypatch, distance, n_found):
    monkeypatch.setattr(dataset, "NEAR_COPY_PAIRS", 20_000)  # blocks of 33 rows
    pairs = np.concatenate(list(near_copies(windows_with_copies(distance))))
    assert len(pairs) == n_found
    assert {tuple(pair) for pair in pairs} == {(i, 300 + i) for i in range(n_found)}


def test_near_copies_are_those_of_scikit_learn(monkeypatch):
    from sklearn.neighbors import NearestNeighbors

    monkeypatch.setattr(dataset, "NEAR_COPY_PAIRS", 20_000)
    features = windows_with_copies(2.0)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    neighbours = NearestNeighbors(radius=6).fit(scaled).radius_neighbors(scaled, return_distance=False)
    expected = {(i, j) for i, near in enumerate(neighbours) for j in near if i < j}
    found = [tuple(pair) for pairs in near_copies(features, radius=6) for pair in pairs]
    assert len(expected) > 2000 and len(found) == len(expected) and set(found) == expected


def test_near_copies_of_one_window_and_of_thousands_alike():
    assert sum(map(len, near_copies(np.ones((1, 34))))) == 0
    assert sum(map(len, near_copies(np.ones((2000, 34), np.float32)))) == 2000 * 1999 / 2


def test_groups_with_near_copies_are_joined_through_any_chain():
    features = windows_with_copies(0.3)
    groups = [f"g{i}" for i in range(600)]
    groups[301] = "g2"  # 1 resembles 301, a clip of group g2; 2 resembles 302: g1, g2 and g302 belong together
    joined = join_copies(groups, features)
    assert joined["g1"] == joined["g2"] == joined["g302"] and joined["g0"] == joined["g300"] != joined["g1"]
    assert len(set(joined.values())) == 299 and set(joined) == set(groups)
    assert joined == join_copies(groups[::-1], features[::-1])  # in any order of the clips


# --- what stage 1 was made of

def test_the_fingerprint_is_of_contents_and_what_is_known_of_a_clip(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    clips = [Clip(str(tmp_path / name), "scream", "source", "group", "class") for name in "ab"]
    first = fingerprint(clips, {"seed": 0})
    os.utime(tmp_path / "a", (1, 1))
    assert fingerprint(clips, {"seed": 0}) == first, "of a copy of the data with other times"
    changed = [fingerprint(clips, {"seed": 1}), fingerprint(clips[::-1], {"seed": 0}), fingerprint(clips[:1], {"seed": 0})]
    changed += [fingerprint([replace(clips[0], **{field: "other"}), clips[1]], {"seed": 0})
                for field in ("path", "label", "source", "group", "sound_class")]
    (tmp_path / "a").write_bytes(b"c")
    changed.append(fingerprint(clips, {"seed": 0}))
    (tmp_path / "a").unlink()
    changed.append(fingerprint(clips, {"seed": 0}))
    assert len({first, *changed}) == 11


# --- splits

def parts_of_groups(clips, parts):
    sides = collections.defaultdict(set)
    for clip, part in zip(clips, parts):
        sides[clip.group].add(part)
    return sides


@settings(max_examples=60, deadline=None)
@given(sizes=st.dictionaries(st.tuples(st.sampled_from(["scream", "non_scream"]), st.sampled_from(["home", "game", "street"])),
                             st.lists(st.integers(1, 12), min_size=1, max_size=15), min_size=1), seed=st.integers(0, 5))
def test_no_group_on_two_sides(sizes, seed):
    clips = make_clips(sizes)
    splits = split_clips(clips, seed)
    assert len(splits) == len(clips) and set(splits) <= set(SPLITS)
    assert all(len(side) == 1 for side in parts_of_groups(clips, splits).values())


def test_shares_and_labels_of_a_split():
    clips = make_clips(SEVERAL_SOURCES)
    splits = split_clips(clips, seed=0)
    for label in ("scream", "non_scream"):
        counts = collections.Counter(split for clip, split in zip(clips, splits) if clip.label == label)
        total = sum(counts.values())
        assert 0.60 <= counts["train"] / total <= 0.80
        assert 0.08 <= counts["validation"] / total <= 0.25 and 0.08 <= counts["test"] / total <= 0.25


def test_group_shared_by_both_labels_and_by_sources_stays_together():
    clips = make_clips({("scream", "home"): [1] * 9, ("non_scream", "street"): [1] * 9})
    for clip in clips:
        clip.group = clip.group.rsplit("-", 1)[1]
    assert all(len(side) == 1 for side in parts_of_groups(clips, split_clips(clips, 0)).values())


def test_split_is_the_same_for_a_seed_and_in_any_order():
    clips = make_clips(SEVERAL_SOURCES)
    splits = split_clips(clips, seed=3)
    assert splits == split_clips(clips, seed=3)
    assert splits != split_clips(clips, seed=4)
    order = np.random.default_rng(0).permutation(len(clips))
    assert [splits[i] for i in order] == split_clips([clips[i] for i in order], seed=3)


def test_one_large_group_goes_to_training():
    clips = make_clips({("scream", "home"): [70, 15, 15], ("non_scream", "home"): [70, 15, 15]})
    assert {split for clip, split in zip(clips, split_clips(clips, 0)) if clip.group.endswith("-0")} == {"train"}


def test_equal_folds():
    clips = make_clips(SEVERAL_SOURCES)
    part = spread_groups([c.label for c in clips], [c.source for c in clips], [c.group for c in clips], [0.2] * 5, seed=0)
    screams = np.bincount(part[[c.label == "scream" for c in clips]], minlength=5)
    assert screams.min() >= 6 and screams.max() <= 16  # 51 screams, one group of 9


# --- the split that a training run uses

@pytest.fixture
def windows():
    clips = make_clips(SEVERAL_SOURCES)
    return make_windows(clips, split_clips(clips, seed=0))


def test_default_split_is_the_stored_one(windows):
    before = windows.split.copy()
    assert list(choose_split(windows)) == list(before)
    choose_split(windows, sources=["home"], all_data=True)
    assert list(windows.split) == list(before), "the table itself must not change"


def test_only_chosen_sources_take_part(windows):
    split = choose_split(windows, sources=["home"])
    assert set(split[windows.source != "home"]) == {"unused"}
    assert set(split[windows.source == "home"]) == {"train", "validation"}
    assert list(split == "validation") == list((windows.split == "validation") & (windows.source == "home"))


def test_unknown_source_names_the_known_ones(windows):
    with pytest.raises(ArtifactError, match="no clips of source moon; there are: game, home, street"):
        choose_split(windows, sources=["home", "moon"])


def test_folds_test_every_window_once_and_keep_groups_whole(windows):
    tested = np.zeros(len(windows), int)
    for fold in range(5):
        split = choose_split(windows, folds=5, fold=fold, seed=0)
        assert set(split) == set(SPLITS)
        tested += split == "test"
        for group in set(windows.group):
            assert len(set(split[windows.group == group])) == 1
        next_fold = choose_split(windows, folds=5, fold=(fold + 1) % 5, seed=0)
        assert list(split == "validation") == list(next_fold == "test")
    assert set(tested) == {1}


def test_all_data_is_for_training(windows):
    assert set(choose_split(windows, all_data=True)) == {"train"}


def test_training_copies_have_both_recordings_in_training(windows):
    group_of = {name: windows.group[windows.split == name][0] for name in SPLITS}
    pairs = [(clip, background) for clip in SPLITS for background in SPLITS]
    copies = windows.rows(np.arange(len(pairs)))
    copies.group = np.array([group_of[clip] for clip, _ in pairs], dtype=object)
    copies.mix_group = np.array([group_of[background] for _, background in pairs], dtype=object)
    source_of = dict(zip(windows.group, windows.source))
    copies.source, copies.mix_source = (np.array([source_of[group] for group in groups], dtype=object)
                                        for groups in (copies.group, copies.mix_group))
    kept = copies_of("train", copies, windows, windows.split)
    assert [(g, b) for g, b in zip(kept.group, kept.mix_group)] == [(group_of["train"], group_of["train"])]
    for name in ("source", "mix_source"):  # the same group, but a clip of a collection that is not learned from
        elsewhere = copies.rows(np.arange(len(pairs)))
        setattr(elsewhere, name, np.full(len(pairs), "elsewhere", dtype=object))
        assert len(copies_of("train", elsewhere, windows, windows.split)) == 0


# --- artifacts of stage 1

def test_artifacts_are_aligned_row_by_row(tiny_data_set, tiny_artifacts):
    manifest = read_manifest(tiny_artifacts / "data")
    table = read_windows(tiny_artifacts / "audio_features.csv", manifest)
    labels = np.load(tiny_artifacts / "data" / LABELS_NPY)
    stft = read_spectrograms(tiny_artifacts / "data", STFT_NPY, len(table), manifest)
    mel = read_spectrograms(tiny_artifacts / "data", MEL_NPY, len(table), manifest)
    assert len(table) == 60 and list(table.label) == list(labels) and stft.shape == mel.shape == (60, 128, 128)
    assert {os.path.relpath(path, tiny_data_set).split(os.sep)[0] for path in table.file} == set(LAYOUTS)
    # mfcc1 is the sum over mel bands: computed from row i of one file it must be row i of the other
    floor = np.maximum(mel, mel.max(axis=(1, 2), keepdims=True) - 80).astype(float)
    np.testing.assert_allclose(floor.mean(axis=(1, 2)) * np.sqrt(128), table.features[:, 0], rtol=2e-3, atol=0.5)
    columns = list(pd.read_csv(tiny_artifacts / "audio_features.csv", nrows=1).columns)
    assert columns[:40] == ["file", "label", *FEATURE_NAMES, "start_s", "source", "group", "split"]


def test_the_table_tells_how_loud_each_window_is(tiny_artifacts, tmp_path):
    table = read_windows(tiny_artifacts / "audio_features.csv")
    recorded = np.flatnonzero(table.source != dataset.SYNTHESISED)
    heard = [StoredClip(table.file[row], table.start_s[[row]]).cut(table.start_s[row], table.start_s[row] + WINDOW_S)
             for row in recorded]
    assert table.band_level_db[recorded] == pytest.approx([window_level(window) for window in heard], abs=0.0051)
    assert len(set(table.band_level_db)) > 20
    bare = pd.read_csv(tiny_artifacts / "audio_features.csv").drop(columns="band_level_db")
    bare.to_csv(tmp_path / "bare.csv", index=False)
    assert not read_windows(tmp_path / "bare.csv").band_level_db.any(), "all alike where a table does not tell"


def test_stored_split_is_group_safe(tiny_artifacts):
    table = read_windows(tiny_artifacts / "audio_features.csv")
    assert set(table.split) == set(SPLITS)
    for group in set(table.group):
        assert len(set(table.split[table.group == group])) == 1


def test_augmented_rows_name_their_recordings(tiny_artifacts):
    table = read_windows(tiny_artifacts / "audio_features.csv")
    augmented = read_windows(tiny_artifacts / "data" / AUGMENTED_CSV)
    assert set(augmented.group) <= set(table.group) and set(augmented.mix_group) <= set(table.group)
    screaming = set(table.group[table.label == 1]) - set(table.group[table.label == 0])
    assert not set(augmented.mix_group) & screaming, "a scream must never be a background"
    kept = copies_of("train", augmented, table, table.split)
    assert 0 < len(kept) < len(augmented)


@pytest.fixture
def artifacts(tiny_artifacts, tmp_path):
    """A copy to damage."""
    return shutil.copytree(tiny_artifacts, tmp_path / "copy")


def edit_manifest(artifacts, change):
    path = artifacts / "data" / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def edit_table(artifacts, change):
    path = artifacts / "audio_features.csv"
    table = pd.read_csv(path)
    change(table).to_csv(path, index=False)


def truncate(path):
    os.truncate(path, os.path.getsize(path) // 2)


def read_all(artifacts, check_sizes):
    manifest = read_manifest(artifacts / "data")
    if not check_sizes:
        manifest["files"] = {path.name: path.stat().st_size for path in (artifacts / "audio_features.csv",
                                                                        *(artifacts / "data").iterdir()) if path.exists()}
    table = read_windows(artifacts / "audio_features.csv", manifest)
    read_spectrograms(artifacts / "data", STFT_NPY, len(table), manifest)


DAMAGE = {  # what happens, what the sentence says
    "no manifest": (lambda a: os.remove(a / "data" / MANIFEST), "manifest.json is missing: run python extract_features.py first"),
    "damaged manifest": (lambda a: truncate(a / "data" / MANIFEST), "manifest.json is damaged"),
    "other settings": (lambda a: edit_manifest(a, lambda m: m["settings"].update(hop=256)), "other signal settings"),
    "no table": (lambda a: os.remove(a / "audio_features.csv"), "audio_features.csv is missing"),
    "empty table": (lambda a: (a / "audio_features.csv").write_text(""), "audio_features.csv is not"),
    "table without a feature": (lambda a: edit_table(a, lambda t: t.drop(columns="rms_std")), "lacks the columns rms_std"),
    "table without rows": (lambda a: edit_table(a, lambda t: t.iloc[:0]), "must have rows"),
    "table with another label": (lambda a: edit_table(a, lambda t: t.assign(label="maybe")), "labelled scream or non_scream"),
    "table with gaps": (lambda a: edit_table(a, lambda t: t.assign(rms_std=np.nan)), "features that are not"),
    "table with infinity": (lambda a: edit_table(a, lambda t: t.assign(rms_std=np.inf)), "features that are not finite"),
    "table with words": (lambda a: edit_table(a, lambda t: t.assign(rms_std="loud")), "features that are not numbers"),
    "table with fewer rows": (lambda a: edit_table(a, lambda t: t.iloc[:50]), "cnn_spectrograms.npy does not fit"),
    "no spectrograms": (lambda a: os.remove(a / "data" / STFT_NPY), "cnn_spectrograms.npy is missing"),
    "truncated spectrograms": (lambda a: truncate(a / "data" / STFT_NPY), "cnn_spectrograms.npy is damaged"),
    "something else as spectrograms": (lambda a: (a / "data" / STFT_NPY).write_text("text"), "cnn_spectrograms.npy is damaged"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_unfit_artifact_is_one_sentence(artifacts, what):
    damage, sentence = DAMAGE[what]
    read_all(artifacts, check_sizes=False)
    damage(artifacts)
    with pytest.raises(ArtifactError, match=sentence) as caught:
        read_all(artifacts, check_sizes=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["audio_features.csv", "data/" + STFT_NPY])
def test_file_of_another_size_than_the_manifest_says(artifacts, name):
    read_all(artifacts, check_sizes=True)
    with open(artifacts / name, "ab") as file:
        file.write(b"\n")
    with pytest.raises(ArtifactError, match=f"{os.path.basename(name)} is not the file that python extract_features.py wrote"):
        read_all(artifacts, check_sizes=True)


def test_failed_stage_keeps_the_old_artifacts(artifacts, tmp_path):
    import extract_features

    before = {path: path.read_bytes() for path in artifacts.rglob("*") if path.is_file()}
    touch(tmp_path, "broken/scream/1.wav", "broken/non_scream/1.wav")
    with pytest.raises(ArtifactError, match="not one clip could be read"):
        extract_features.main(["--audio", str(tmp_path / "broken"), "--csv", str(artifacts / "audio_features.csv"),
                               "--data", str(artifacts / "data"), "--jobs", "1"])
    assert before == {path: path.read_bytes() for path in artifacts.rglob("*") if path.is_file()}


def test_synthesised_signals_are_for_training_only_whatever_is_held_out():
    clips = make_clips(SEVERAL_SOURCES | {("non_scream", "synthesised"): [1] * 30})
    windows = make_windows(clips, ["test"] * len(clips))
    signals = windows.source == "synthesised"
    for options in ({}, {"sources": ["home"]}, {"folds": 5, "fold": 2}, {"all_data": True}):
        assert set(choose_split(windows, **options)[signals]) == {"train"}


@pytest.mark.parametrize(("content", "says"), [
    ("path,label\ncaf\xe9.wav,scream\n".encode("latin-1"), r"clips.csv is not in UTF-8: save it as CSV UTF-8"),
    (b"label,path\nscream,a.wav\nnon_scream\n", r"clips.csv: row 2 lacks one of path and label"),
    (b"path,label\n,scream\n", r"clips.csv: row 1 lacks one of path and label"),
    (b"path;label\na.wav;scream\n", r"clips.csv needs the columns path and label, with commas"),
    (b"path,label\n" + b"a" * 200_000 + b",scream\n", r"clips.csv cannot be read as a table"),
    (b"path,label\na\0.wav,scream\n", r"clips.csv"),
])
def test_clips_csv_that_cannot_be_used_is_one_sentence(tmp_path, content, says):
    (tmp_path / "clips.csv").write_bytes(content)
    with pytest.raises(ArtifactError, match=says):
        find_clips(tmp_path)


@pytest.mark.parametrize(("content", "says"), [
    (b"filename,category\na.wav,dog\n", r"esc50.csv needs the columns filename, src_file and category"),
    ("filename,src_file,category\ncaf\xe9.wav,1,dog\n".encode("latin-1"), r"esc50.csv is not in UTF-8"),
    (b"filename,src_file,category\na.wav,1\n", r"esc50.csv: row 1 lacks one of"),
])
def test_an_esc50_table_that_cannot_be_used_is_one_sentence(tmp_path, content, says):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_bytes(content)
    with pytest.raises(ArtifactError, match=says):
        find_clips(tmp_path)


def test_an_esc50_table_that_excel_has_saved_is_read(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/esc50.csv").write_bytes("\ufefffilename,src_file,category\na.wav,17,dog\n".encode())
    [clip] = find_clips(tmp_path)
    assert (clip.path, clip.group, clip.sound_class) == (str(tmp_path / "audio/a.wav"), "esc-17", "dog")


@pytest.mark.parametrize("name", ["clips.csv", "thesis.txt", "data/cnn_labels.npy"])
def test_stage_1_overwrites_nothing_but_its_own_table(tiny_data_set, tmp_path, name):
    import extract_features

    for label in ("scream", "non_scream"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        soundfile.write(tmp_path / f"sounds/{label}/1.wav", np.sin(np.arange(22_050) / 9), 22_050)
    (tmp_path / "data").mkdir()
    (tmp_path / name).write_bytes(b"path,label,group\na.wav,scream,1\n")
    with pytest.raises(ArtifactError, match=r"something else than a feature table|the name of another artifact"):
        extract_features.main(["--audio", str(tmp_path / "sounds"), "--csv", str(tmp_path / name), "--data",
                               str(tmp_path / "data"), "--signals", "0", "--jobs", "1", "--no-augment"])
    assert (tmp_path / name).read_bytes().startswith(b"path,label,group")
    for _ in range(2):  # its own table it replaces
        assert extract_features.main(["--audio", str(tmp_path / "sounds"), "--csv", str(tmp_path / "t.csv"), "--data",
                                      str(tmp_path / "data"), "--signals", "0", "--jobs", "1", "--no-augment"]) == 0


@pytest.mark.parametrize("options", [
    ["--sources", "a", "--folds", "5", "--fold", "1"], ["--all-data", "--sources", "a"], ["--split", "random", "--all-data"],
    ["--split", "random", "--sources", "a"], ["--split", "random", "--folds", "5", "--fold", "1"],
])
def test_splits_that_exclude_each_other(options, capsys):
    import train_ml

    with pytest.raises(SystemExit) as caught:
        train_ml.main(options)
    assert caught.value.code == 2 and "exclude" in capsys.readouterr().err


def test_next_command_repeats_what_differs_from_the_defaults():
    same = {"features": "audio_features.csv", "data": "data", "models": "models", "seed": 0, "sources": None, "folds": None,
            "fold": None, "all_data": False}
    assert next_command("train_cnn.py", **same) == "python train_cnn.py"
    other = {"features": "my table.csv", "data": "d", "models": "m", "seed": 3, "sources": ["a", "b"], "all_data": True}
    assert next_command("train_cnn.py", **same | other) == (
        "python train_cnn.py --features 'my table.csv' --data d --models m --seed 3 --sources a b --all-data")
    assert next_command("train_cnn.py", **same | {"folds": 5, "fold": 0}) == "python train_cnn.py --folds 5 --fold 0"


def test_a_table_that_stage_1_did_not_write_is_refused(artifacts):
    shutil.copy(artifacts / "audio_features.csv", artifacts / "edited.csv")
    with pytest.raises(ArtifactError, match=r"edited\.csv is not among the files that python extract_features.py wrote"):
        read_windows(artifacts / "edited.csv", read_manifest(artifacts / "data"))


def test_the_name_of_synthesised_signals_is_no_source_for_recordings(tmp_path):
    touch(tmp_path, "synthesised/scream/1.wav", "synthesised/non_scream/1.wav")
    with pytest.raises(ArtifactError, match="source named synthesised"):
        find_clips(tmp_path)


def test_there_may_be_no_copies_but_there_must_be_clips(tmp_path):
    for name, last in (("copies.csv", ["source", "group", "sound_class", "mix_source", "mix_group"]), ("clips.csv", ["start_s"])):
        (tmp_path / name).write_text(",".join(["file", "label", *FEATURE_NAMES, *last]) + "\n")
    assert len(read_windows(tmp_path / "copies.csv")) == 0
    with pytest.raises(ArtifactError, match="must have rows"):
        read_windows(tmp_path / "clips.csv")
