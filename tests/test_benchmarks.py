"""What the benchmarks write down: the command that was run, without paths of one machine, and one section for each."""

import numpy as np
import pytest

from benchmarks import machine, stress


@pytest.mark.parametrize(("words", "written"), [
    (["--runs", "7"], "--runs 7"), (["--models=/home/me/models/", "/tmp/a b.wav"], "--models=models 'a b.wav'"),
    (["--flag", "--", "--models", "checkpoints/evaluated"], "--flag -- --models evaluated"), (["/data/a=b/c.wav"], "c.wav"),
])
def test_command_names_options_and_no_folder(words, written):
    assert machine.command_given("/home/me/benchmarks/scan.py", words) == f"`python benchmarks/scan.py {written}`"


def test_a_section_takes_the_place_of_the_older_one(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results.md")
    for title, text in (("Scan", "old"), ("Start", "1.3 s"), ("Scan", "new")):
        machine.write_section(title, text)
    written = machine.RESULTS.read_text()
    assert written.startswith("# Measured\n") and "old" not in written
    assert written.index("\n## Start\n\n1.3 s\n") < written.index("\n## Scan\n\nnew\n")


def test_a_row_of_the_stress_curves_counts_screams_and_others():
    heard = [(True, 0.9), (False, 0.2), (True, 0.6), (False, 0.1), (False, 0.1), (False, 0.1)]
    row = stress.row_of("noise", "5 dB", np.array([1, 1, 0, 0, 0, 0]), heard)
    assert row == ("noise", "5 dB", 0.5, 0.25, pytest.approx(5 / 6))
