"""Stage 2: train the CNN-LSTM on mel-spectrograms.

    python train_cnn_lstm.py                  about 4 minutes on 2 CPU cores; CUDA is used when there is one
    python train_cnn_lstm.py --epochs 2 --steps 20    a quick look

Reads audio_features.csv and the spectrograms in data/ (python extract_features.py makes them). Writes
models/cnn_lstm_model.pth (a state dict), models/cnn_lstm_model.json (settings, operating point, figures), and the history
as JSON and PNG. An interrupted run continues where it stopped.
"""

import argparse

from utils.artifacts import run_stage

SETTINGS = {"epochs": 12, "scenes": "hard"}


def main(argv=None):
    # imported here, so that where torch is missing run_stage says what to install
    from utils.training import add_training_options, check_training_options, train_network

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_options(parser, **SETTINGS)
    args = parser.parse_args(argv)
    check_training_options(parser, args)
    return train_network("cnn_lstm", args)


if __name__ == "__main__":
    run_stage(main)
