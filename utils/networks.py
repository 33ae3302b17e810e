"""The three networks. Each takes spectrograms in dB [n, 128 bands, 128 frames] and returns one logit per window [n].

The input normalisation is part of the network, so training, prediction and export cannot disagree about it.
"""

import torch
from torch import nn


def convolution(n_in, n_out, stride=1, kernel=3):
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to what came in (He et al. 2016): [n, channels, h, w] -> the same."""

    def __init__(self, channels):
        super().__init__()
        self.first = convolution(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, maps):
        return torch.relu(maps + self.second(self.first(maps)))


class InputNormalisation(nn.Module):
    """dB [n, 128, 128] -> about [-2, 2], as an image with a second channel that says where on the frequency axis it is.

    A convolution cannot tell 300 Hz from 3 kHz; pitch matters for a scream, so the position is given.
    """

    CENTRE_DB, SCALE_DB = -40.0, 25.0

    def forward(self, spectrogram):
        image = (spectrogram.clamp(-100, 50) - self.CENTRE_DB) / self.SCALE_DB  # [n, 128, 128]
        position = torch.linspace(-1, 1, image.shape[1], device=image.device, dtype=image.dtype)
        position = position[None, :, None].expand_as(image)
        return torch.stack([image, position], dim=1).contiguous(memory_format=torch.channels_last)  # [n, 2, 128, 128]


class TimePooling(nn.Module):
    """[n, channels, bands, steps] -> [n, 2 * channels]: mean over bands, then mean and maximum over time."""

    def forward(self, maps):
        over_time = maps.mean(dim=2)  # [n, channels, steps]
        return torch.cat([over_time.mean(dim=2), over_time.amax(dim=2)], dim=1)


class CNN(nn.Module):
    """Plain convolutional network; used on the STFT spectrogram."""

    def __init__(self, channels=(24, 48, 64, 96, 128), dropout=0.3, block=nn.Identity):
        """block: the module that follows each convolution but the first, made from the number of channels."""
        super().__init__()
        a, b, c, d, e = channels
        self.normalise = InputNormalisation()
        self.convolutions = nn.Sequential(
            convolution(2, a, stride=2, kernel=5),  # [n, 24, 64, 64]
            convolution(a, b, stride=2), block(b),  # [n, 48, 32, 32]
            convolution(b, c, stride=2), block(c),  # [n, 64, 16, 16]
            convolution(c, d), block(d),  # [n, 96, 16, 16]
            convolution(d, e, stride=2), block(e),  # [n, 128, 8, 8]
        )
        self.pool = TimePooling()  # [n, 256]
        self.dropout = nn.Dropout(dropout)
        self.embedding_size = 2 * e
        self.output = nn.Linear(self.embedding_size, 1)

    def embed(self, spectrogram):
        """[n, 128, 128] dB -> [n, embedding_size]."""
        return self.pool(self.convolutions(self.normalise(spectrogram)))

    def forward(self, spectrogram):
        return self.output(self.dropout(self.embed(spectrogram)))[:, 0]


class ResidualCNN(CNN):
    """The CNN with a residual block after each convolution but the first; used on the mel-spectrogram."""

    def __init__(self):
        super().__init__(block=ResidualBlock)


class CNNLSTM(nn.Module):
    """Convolutions keep 32 steps of 93 ms; a bidirectional LSTM reads them along time."""

    def __init__(self, channels=(24, 48, 64, 96), hidden=64, dropout=0.3):
        super().__init__()
        a, b, c, d = channels
        self.normalise = InputNormalisation()
        self.convolutions = nn.Sequential(
            convolution(2, a, stride=2, kernel=5),  # [n, 24, 64 bands, 64 steps]
            convolution(a, b, stride=2),  # [n, 48, 32, 32]
            convolution(b, c, stride=(2, 1)),  # [n, 64, 16, 32]
            convolution(c, d, stride=(2, 1)),  # [n, 96, 8, 32]
        )
        self.lstm = nn.LSTM(2 * d, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.embedding_size = 4 * hidden
        self.output = nn.Linear(self.embedding_size, 1)

    def embed(self, spectrogram):
        """[n, 128, 128] dB -> [n, embedding_size]."""
        maps = self.convolutions(self.normalise(spectrogram))  # [n, 96, 8, 32]
        steps = torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1).transpose(1, 2)  # [n, 32 steps, 192]
        hidden, _ = self.lstm(steps)  # [n, 32, 128]
        return torch.cat([hidden.mean(dim=1), hidden.amax(dim=1)], dim=1)

    def forward(self, spectrogram):
        return self.output(self.dropout(self.embed(spectrogram)))[:, 0]


NETWORKS = {"cnn": CNN, "cnn_mel": ResidualCNN, "cnn_lstm": CNNLSTM}  # which spectrogram each reads: ensemble.NETWORK_INPUTS


def build_network(name):
    return NETWORKS[name]()
