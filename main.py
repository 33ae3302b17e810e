"""Is there a human scream in this recording, where, how sure, and which models say so?

    python main.py                                     analyse the clips that ship with the project
    python main.py --file clip.wav night.flac DIR      files and folders, of any length and format
    python main.py --file DIR --json > results.jsonl   one JSON object per file and line
    ffmpeg -v error -i rtsp://camera -f s16le -ac 1 -ar 22050 - | python main.py --file - --raw-rate 22050
    python main.py --live                              the microphone

Six models vote on windows of 2.95 s, one every 1.47 s; windows that the vote calls a scream become events. A recording
with an event is a scream. Needs models/ (they ship with the project, or: python extract_features.py, train_ml.py,
train_cnn.py, train_cnn_mel.py, train_cnn_lstm.py). Exit status: 0 whether or not there is a scream, 1 if a file could
not be analysed, 2 for a wrong option.
"""

from utils.artifacts import run_stage
from utils.command_line import run

MODELS = ("svm", "random_forest", "logistic_regression", "cnn", "cnn_mel", "cnn_lstm")


def main(argv=None):
    return run(__doc__, MODELS, argv)


if __name__ == "__main__":
    run_stage(main)
