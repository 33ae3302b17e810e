"""Fetch a public collection of recordings: resumable, checked, unpacked whole or not at all."""

import csv
import http.client
import os
import re
import shutil
import ssl
import stat
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib

from tqdm import tqdm

from utils.artifacts import ArtifactError, atomic_path, sha256_of

GITHUB = "https://github.com"
# collection: (archive below the base address, folder it becomes here)
DOWNLOADS = {
    "esc50": ("karolpiczak/ESC-50/archive/master.zip", "ESC-50-master"),
    "noise-of-life": ("amsehili/noise-of-life/archive/9a68c4d8192542d9c1c6a1d9232bc8e6b34b6675.zip", "noise-of-life"),
}
KAGGLE_INSTRUCTION = """\
The Kaggle scream set (public, no login needed):
    pip install kagglehub
    python -c "import kagglehub; print(kagglehub.dataset_download('aananehsansiam/audio-dataset-of-scream-and-non-scream'))"
Move the folder Converted_Separately, which lies in the folder it prints, beside this script, and run
    python extract_features.py"""
SCREAM_CLASSES = ("FemaleScream", "MaleScream")  # of noise-of-life
NOISE_OF_LIFE_BLOCK = 10  # noise-of-life cuts several clips with neighbouring numbers from one recording
ATTEMPTS = 3  # transfers that break off are resumed this often before the user is asked
TIMEOUT_S = 30  # without a byte from the server
CHUNK = 1 << 16  # bytes


def download(name, base_url=GITHUB, parent="."):
    """Make the collection `name` of DOWNLOADS available as a folder below `parent`; returns the folder's path.

    A folder that is there already is used as it is. The archive's SHA-256 is printed and stored beside the folder as
    FOLDER.zip.sha256. An interrupted transfer leaves FOLDER.zip.part, which the next call continues.
    Raises ArtifactError.
    """
    archive_path, folder_name = DOWNLOADS[name]
    folder = os.path.join(parent, folder_name)
    if os.path.isdir(folder):
        print(f"{folder} is there already and is used as it is; delete it to fetch it again", file=sys.stderr)
        return folder
    archive = folder + ".zip"
    try:
        os.makedirs(parent, exist_ok=True)
        fetch(f"{base_url}/{archive_path}", archive + ".part")
        store_checksum(archive)
        unpack(archive + ".part", folder, describe_noise_of_life if name == "noise-of-life" else None)
    except OSError as error:  # network errors have become ArtifactError before
        reason = error.strerror or error
        raise ArtifactError(f"cannot store {folder} ({reason}): free some space or choose another folder") from None
    os.remove(archive + ".part")
    return folder


def fetch(url, part):
    """Download `url` to the file `part`, continuing what is there. Raises ArtifactError."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            transfer(url, part)
            return
        except urllib.error.HTTPError as error:
            raise ArtifactError(f"{url} cannot be downloaded: the server answers {error.code} {error.reason}") from None
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            if attempt == ATTEMPTS:
                reason = getattr(error, "reason", None) or error
                raise ArtifactError(f"{url} cannot be downloaded ({reason}): check the network and run the same command again; "
                                    "it continues where it stopped") from None


def transfer(url, part):
    """One attempt: ask for the bytes that `part` lacks and append them; start over if the server sends everything."""
    have = os.path.getsize(part) if os.path.exists(part) else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # nothing is missing: the last run stopped between transfer and unpacking
        have = 0  # the archive on the server has become shorter
        response = urllib.request.urlopen(url, timeout=TIMEOUT_S)
    with response:
        resumed = have and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file, \
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=os.path.basename(part)[:-5], disable=None) as bar:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                have += len(chunk)
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def store_checksum(archive):
    """Print the SHA-256 of the downloaded archive and store it; say so if an earlier download had another one."""
    digest = sha256_of(archive + ".part")
    print(f"{os.path.basename(archive)}: SHA-256 {digest}", file=sys.stderr)
    stored = archive + ".sha256"
    line = f"{digest}  {os.path.basename(archive)}\n"  # as sha256sum writes and checks it
    if os.path.exists(stored):
        with open(stored) as file:
            if file.read() != line:
                print(f"note: {stored} held another checksum: the collection has changed since", file=sys.stderr)
    with atomic_path(stored) as temporary, open(temporary, "w") as file:
        file.write(line)


def check_member(member):
    """Refuse archive entries that would land outside the target folder, or that are links."""
    parts = re.split(r"[/\\]", member.filename)
    if parts[0] == "" or ".." in parts or ":" in parts[0] or stat.S_ISLNK(member.external_attr >> 16):
        raise ArtifactError(f"the archive holds an unsafe path ({member.filename!r}); nothing was unpacked")


def unpack(archive, folder, describe=None):
    """Unpack a zip archive with one top folder as `folder`, which appears complete or not at all.

    `describe` may add files to the unpacked folder before it appears. zipfile checks each member's CRC on the way.
    """
    parent, name = os.path.split(folder)
    staging = tempfile.mkdtemp(prefix=f".{name}.tmp", dir=parent)
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            for member in members:
                check_member(member)
            for member in tqdm(members, unit="file", desc="unpacking", disable=None):
                content.extract(member, staging)
        tops = os.listdir(staging)
        if len(tops) != 1 or not os.path.isdir(os.path.join(staging, tops[0])):
            raise ArtifactError("the archive is not a GitHub archive (one folder at the top); nothing was unpacked")
        if describe:
            describe(os.path.join(staging, tops[0]))
        os.rename(os.path.join(staging, tops[0]), folder)
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        os.remove(archive)  # continuing it could never mend it
        raise ArtifactError(f"the downloaded archive is damaged ({error}) and was deleted: run the same command again") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def describe_noise_of_life(folder):
    """Write clips.csv for noise-of-life, whose folders are sound classes: FemaleScream and MaleScream are screams."""
    rows = []
    for sound_class in sorted(os.listdir(folder)):
        class_folder = os.path.join(folder, sound_class)
        for name in sorted(os.listdir(class_folder)) if os.path.isdir(class_folder) else ():
            if name.lower().endswith(".wav"):
                label = "scream" if sound_class in SCREAM_CLASSES else "non_scream"
                number = int((re.findall(r"\d+", name) or ["0"])[-1])
                group = f"nol-{sound_class}-{number // NOISE_OF_LIFE_BLOCK}"
                rows.append([f"{sound_class}/{name}", label, "noise-of-life", group, sound_class])
    if not rows:
        raise ArtifactError("the archive of noise-of-life holds no .wav files below sound classes; nothing was unpacked")
    with open(os.path.join(folder, "clips.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "source", "group", "sound_class"])
        writer.writerows(rows)
