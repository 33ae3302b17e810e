"""One model alone: the convolutional network on the spectrogram. Same inputs, options and output form as main.py.

    python inference_cnn.py                             analyse the clips that ship with the project
    python inference_cnn.py --file clip.wav DIR         files and folders
    python inference_cnn.py --file DIR --json           one JSON object per file and line

There is one vote: 0 or 1.
"""

from utils.artifacts import run_stage
from utils.command_line import run


def main(argv=None):
    return run(__doc__, ("cnn",), argv)


if __name__ == "__main__":
    run_stage(main)
