"""Tables and reports as files: Markdown for people, CSV for programs."""

import csv
import os

from utils.artifacts import ArtifactError, atomic_path, is_special

MAX_HEADER = 65_536  # characters


def first_row(path):
    """The first row of a CSV file [cells], None if nothing is there or in it. Raises ArtifactError."""
    if is_special(path) or not os.path.exists(path):  # a pipe or a device holds nothing
        return None
    try:
        with open(path, newline="", encoding="utf-8", errors="backslashreplace") as file:
            line = file.readline(MAX_HEADER)  # of another file, the first line may be anything
        return next(csv.reader([line])) if line else None
    except (OSError, csv.Error) as error:
        raise ArtifactError(f"{path}: cannot be read as a table ({error})") from None


def markdown_table(header, rows):
    """A table of any cells as Markdown lines, the last one ended."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def write_csv(path, header, rows):
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([header, *rows])


def write_text(path, text):
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
