"""What is to be analysed: files, folders and standard input, found in a stable order and opened as blocks of sound."""

import contextlib
import os
import sys

EXAMPLES = "data/examples"  # clips that ship with the project, beside main.py


def each_once(inputs):
    """[(path, error sentence or None)] without the files that an earlier path leads to, whatever the folder or link."""
    first = {}
    for path, error in inputs:
        try:
            file = path if path == "-" else os.path.realpath(path)
        except (OSError, ValueError):  # a name that no file can have
            file = path
        first.setdefault(file, (path, error))
    return list(first.values())


def find_inputs(paths, leave_out=None):
    """Files to analyse, each once and in a stable order: [(path, error sentence or None)].

    Folders give what lies below them, sorted. Of several paths to a file the first one counts.

    leave_out: a folder below them that is not searched, because this program writes recordings there.
    """
    from utils.audio import printable
    from utils.dataset import AUDIO_EXTENSIONS, audio_files

    inputs, left_out = [], os.path.join(os.path.realpath(leave_out), "") if leave_out else None
    for path in paths:
        if path == "-" or not os.path.isdir(path):
            inputs.append((path, None))
        else:
            unreadable = []  # an OSError for each folder
            below = audio_files(path, unreadable.append)
            everything = below
            if left_out:
                below = [found for found in below if not os.path.realpath(found).startswith(left_out)]
            inputs += [(found, None) for found in below]
            for error in unreadable:
                inputs.append((error.filename, f"{printable(error.filename)}: this folder cannot be read ({error.strerror})"))
            if everything and not below:
                inputs.append((path, f"{printable(path)}: all its recordings lie in the folder of --clips, which is not "
                               "searched; choose another one for the clips"))
            elif not below and not unreadable:
                inputs.append((path, f"{printable(path)}: no audio files in this folder ({', '.join(AUDIO_EXTENSIONS)})"))
    return each_once(inputs)


def open_blocks(path, raw_rate, raw_channels, warn):
    """Blocks of a file, or of standard input for "-": float32, mono at 22,050 Hz.

    raw_rate, raw_channels: of --raw-rate, or None. warn: function that takes a sentence about a damaged file.
    """
    if path == "-":
        from utils.pipe import read_stream

        stream = sys.stdin.buffer  # unbuffered: a thread that waits in a buffered read would break Ctrl-C
        return read_stream(getattr(stream, "raw", stream), raw_rate, raw_channels or 1)
    from utils.audio import read_blocks

    return read_blocks(path, warn)


def watch_progress(blocks, path):
    """Hand blocks on; on a terminal, show a bar in seconds of sound once it takes longer than two seconds."""
    from tqdm import tqdm

    from utils.audio import SAMPLE_RATE, AudioError, open_sound_file

    total = None
    if sys.stderr.isatty() and path != "-" and os.path.isfile(path):  # looking into a named pipe would take its first bytes
        with contextlib.suppress(AudioError):  # the blocks will say it
            if (sound := open_sound_file(path)) is not None:
                total = sound.frames / sound.samplerate
                sound.close()
    with tqdm(total=total, unit="s", unit_scale=True, delay=2, disable=None, desc="sound", leave=False) as bar:
        for block in blocks:
            bar.update(len(block) / SAMPLE_RATE)
            yield block
