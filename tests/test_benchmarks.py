"""What the benchmarks write down: the command that was run, without paths of one machine, and one section for each."""

import pytest

from benchmarks import machine


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
