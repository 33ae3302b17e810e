"""Training scenes from spectrograms: whole batches, in the power domain, as tensor operations on the training device.

Everything works on power [n, 128 bands, 128 frames] and is random per window. Sounds are independent, so their
powers add; a room, an equaliser and a band limit multiply the power of each band.
"""

import math

import torch
import torchaudio.functional

from utils.features import AMIN, N_BANDS, hz_to_mel, mel_edges
from utils.signal_settings import HOP, SAMPLE_RATE

# In what share of the windows each change is made, and by how many dB the other sound and the noise lie below. Networks that
# learned from hard scenes hear better in noise, from mild ones better without.
CONDITIONS = {
    "hard": {"speed": 0.75, "reverberation": 0.3, "equaliser": 0.6, "equaliser_db": 5.0, "part": 0.6, "background": 0.85,
             "background_db": (-8.0, 15.0), "noise": 0.4, "noise_db": (0.0, 40.0), "band_limit": 0.3, "low_level": 0.2},
    "mild": {"speed": 0.6, "reverberation": 0.15, "equaliser": 0.5, "equaliser_db": 4.0, "part": 0.3, "background": 0.5,
             "background_db": (5.0, 30.0), "noise": 0.2, "noise_db": (10.0, 40.0), "band_limit": 0.2, "low_level": 0.1},
}
NODES_HZ = torch.tensor([0.0, 100, 200, 400, 800, 1600, 3200, 6400, SAMPLE_RATE / 2])  # of the random equaliser


def band_centres(kind):
    """Centre frequency in Hz of each band of the "stft" or "mel" spectrogram: [128]."""
    if kind == "mel":
        return torch.tensor(mel_edges()[1:-1], dtype=torch.float32)
    return (torch.arange(N_BANDS) + 0.5) * (SAMPLE_RATE / 2 / N_BANDS)


def band_positions(hz, kind):
    """Fractional band index of frequencies in Hz: the inverse of band_centres."""
    if kind == "mel":
        top = float(hz_to_mel(SAMPLE_RATE / 2))
        mel = torch.where(hz < 1000, hz * 3 / 200, 15 + torch.log(hz.clamp(min=1e-3) / 1000) * 27 / torch.log(torch.tensor(6.4)))
        return mel / top * (N_BANDS + 1) - 1
    return hz / (SAMPLE_RATE / 2 / N_BANDS) - 0.5


def to_power(decibels):
    return torch.exp(decibels * (math.log(10) / 10))


def to_decibels(power):
    return torch.log(power.clamp(min=AMIN)) * (10 / math.log(10))


def uniform(n, low, high, like):
    """Random numbers [n, 1, 1]."""
    return torch.rand(n, 1, 1, device=like.device) * (high - low) + low


def apply_to_some(power, probability, change):
    """Replace a random share of the windows by change(windows, indices)."""
    chosen = torch.nonzero(torch.rand(len(power), device=power.device) < probability)[:, 0]
    return power.index_copy(0, chosen, change(power[chosen], chosen)) if len(chosen) else power


def active_power(power):
    """Mean power of the frames within 30 dB of the loudest: [n, 128, 128] -> [n, 1, 1]."""
    frames = power.sum(dim=1, keepdim=True)  # [n, 1, frames]
    active = frames >= frames.amax(dim=2, keepdim=True) / 1000
    return (frames * active).sum(dim=2, keepdim=True) / active.sum(dim=2, keepdim=True)


def interpolation(positions, size):
    """Matrices [n, len(positions), size] that read a signal at fractional positions [n, ...]; outside is silence."""
    grid = torch.arange(size, device=positions.device)
    return (1 - (positions[:, :, None] - grid).abs()).clamp_(min=0)


def change_speed(power, kind):
    """Play faster and higher or slower and deeper, by up to 0.7 octaves."""
    ratio = 2 ** uniform(len(power), -0.7, 0.7, power)[:, :, 0]  # [n, 1]
    bands = band_positions(band_centres(kind).to(power.device) / ratio, kind).clamp(min=0)
    frames = torch.arange(power.shape[2], device=power.device) * ratio
    faster = torch.bmm(power, interpolation(frames, power.shape[2]).transpose(1, 2))
    return torch.bmm(interpolation(bands, power.shape[1]), faster)


def shift_in_time(power):
    """Roll each window by a random number of frames."""
    n, _, n_frames = power.shape
    shift = torch.randint(0, n_frames, (n, 1), device=power.device)
    frames = (torch.arange(n_frames, device=power.device) + shift) % n_frames
    return power.gather(2, frames[:, None, :].expand_as(power))


def reverberate(power):
    """A tail that decays exponentially by 60 dB in 0.2 to 1.2 s, with 0.1 to 1.5 times the energy of the sound."""
    n, _, n_frames = power.shape
    fall = -6 * math.log(10) * HOP / SAMPLE_RATE / uniform(n, 0.2, 1.2, power)  # log of the power kept per frame
    frame = torch.arange(n_frames, device=power.device)
    age = frame[None, :] - frame[:, None]  # [from, to]
    tail = torch.exp(fall * age.clamp(min=0)) * (age > 0) * torch.expm1(-fall)  # [n, from, to], sums to 1 over later frames
    return power + uniform(n, 0.1, 1.5, power) * torch.bmm(power, tail)


def equalise(power, kind, spread_db):
    """A smooth random gain curve with nodes about an octave apart."""
    centres = band_centres(kind).to(power.device)
    nodes = NODES_HZ.to(power.device)
    right = torch.searchsorted(nodes, centres).clamp(1, len(nodes) - 1)
    weight = (centres - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    gains = torch.randn(len(power), len(nodes), device=power.device) * spread_db
    return power * to_power(gains[:, right - 1] * (1 - weight) + gains[:, right] * weight)[:, :, None]


def limit_band(power, kind, cutoffs=(4000.0, 5500.0, 8000.0)):
    """Everything above a random cutoff falls by 60 dB, as through a telephone or a 16 kHz recorder."""
    centres = band_centres(kind).to(power.device)[None, :, None]
    cutoff = torch.tensor(cutoffs, device=power.device)[torch.randint(len(cutoffs), (len(power),), device=power.device)]
    return torch.where(centres > cutoff[:, None, None], power * 1e-6, power)


def coloured_noise(power):
    """Stationary noise with a random spectral slope, of active power 1."""
    n, n_bands, _ = power.shape
    slope = uniform(n, -60.0, 10.0, power) * torch.linspace(0, 1, n_bands, device=power.device)[None, :, None]
    noise = to_power(slope) * -torch.log(torch.rand_like(power).clamp_(min=1e-7))
    return noise / noise.sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)


def keep_part(power):
    """Silence all but a random stretch of at least 0.6 s, so that a sound need not fill its window."""
    n, _, n_frames = power.shape
    length = torch.randint(24, n_frames, (n, 1, 1), device=power.device)
    first = (torch.rand(n, 1, 1, device=power.device) * (n_frames - length)).long()
    frame = torch.arange(n_frames, device=power.device)
    return torch.where((frame >= first) & (frame < first + length), power, power * 1e-7)


def mask_spectrogram(decibels, max_bands=20, max_frames=20):
    """SpecAugment (Park et al. 2019): hide a stripe of bands and a stripe of frames."""
    batch = decibels[:, None]  # [n, 1, 128, 128]
    fill = float(decibels.mean())
    batch = torchaudio.functional.mask_along_axis_iid(batch, max_bands, fill, axis=2)
    return torchaudio.functional.mask_along_axis_iid(batch, max_frames, fill, axis=3)[:, 0]


def loudest_frame(power):
    return power.sum(dim=1, keepdim=True).amax(dim=2, keepdim=True).clamp(min=1e-12)


def add_background(power, background, snr_db):
    """Power [n, 128, 128] of sound and background; the active level of the background lies snr_db [n, 1, 1] below."""
    ratio = active_power(power).clamp(min=1e-9) / active_power(background).clamp(min=1e-9)
    return power + background * ratio * to_power(-snr_db)


def noisy_copies(decibels, backgrounds, low_db=0.0, high_db=20.0):
    """Windows [n, 128, 128] in dB with another sound in them, low_db to high_db below, at the peak level they had."""
    power = to_power(decibels)
    noisy = add_background(power, shift_in_time(to_power(backgrounds)), uniform(len(power), low_db, high_db, power))
    return to_decibels(noisy * (loudest_frame(power) / loudest_frame(noisy)))


def random_scenes(decibels, backgrounds, kind, conditions="hard"):
    """Random recording conditions for a batch of windows.

    decibels: [n, 128, 128]; backgrounds: [n, 128, 128] of windows without a scream; kind: "stft" or "mel"; conditions: one
    of CONDITIONS. Returns [n, 128, 128] in dB. A scream stays a scream: its background is at most 8 dB louder.
    """
    n, given = len(decibels), CONDITIONS[conditions]
    power, background = to_power(decibels), shift_in_time(to_power(backgrounds))
    original_peak = loudest_frame(power)
    power = shift_in_time(apply_to_some(power, given["speed"], lambda some, _: change_speed(some, kind)))
    power = apply_to_some(power, given["reverberation"], lambda some, _: reverberate(some))
    power = apply_to_some(power, given["equaliser"], lambda some, _: equalise(some, kind, given["equaliser_db"]))
    power = apply_to_some(power, given["part"], lambda some, _: keep_part(some))
    level, snr_db = active_power(power).clamp(min=1e-9), uniform(n, *given["background_db"], power)
    power = apply_to_some(power, given["background"], lambda some, i: add_background(some, background[i], snr_db[i]))
    power = apply_to_some(power, given["noise"], lambda some, i:
                          some + coloured_noise(some) * level[i] * to_power(-uniform(len(i), *given["noise_db"], some)))
    power = apply_to_some(power, given["band_limit"], lambda some, _: limit_band(some, kind))
    # prediction normalises the peak of each window, so a scene comes back to the level it started from, more or less
    power = power * (original_peak / loudest_frame(power)) * to_power(uniform(n, -6.0, 3.0, power))
    power = apply_to_some(power, given["low_level"], lambda some, i: some * to_power(uniform(len(i), -30.0, 0.0, some)))
    return mask_spectrogram(to_decibels(power))
