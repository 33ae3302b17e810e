"""Tables and reports as files: Markdown for people, CSV for programs."""

import csv

from utils.artifacts import atomic_path


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
