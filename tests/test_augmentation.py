"""Scenes made on spectrograms: each step with known answers, the whole of them finite, of one shape and repeatable."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchaudio")

from utils import augmentation as aug  # noqa: E402
from utils.signal_settings import HOP, SAMPLE_RATE  # noqa: E402

KINDS = ("stft", "mel")


@pytest.fixture(autouse=True)
def seeded():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def drawn_as(monkeypatch):
    """Let every random number between limits be the one that a function of them gives."""
    def let(choose):
        monkeypatch.setattr(aug, "uniform", lambda n, low, high, like: torch.full((n, 1, 1), float(choose(low, high))))
    return let


def noise_db(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 128, 128, generator=generator) * 8 - 30


def decibels(ratio):
    return 10 * torch.log10(ratio)


def test_decibels_and_power_are_inverse():
    db = torch.tensor([-90.0, -40, 0, 20])
    assert torch.allclose(aug.to_decibels(aug.to_power(db)), db, atol=1e-3)
    assert torch.allclose(aug.to_power(torch.tensor([10.0, -30.0])), torch.tensor([10.0, 1e-3]))
    assert torch.isfinite(aug.to_decibels(torch.zeros(3))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_band_positions_are_the_inverse_of_band_centres(kind):
    centres = aug.band_centres(kind)
    assert centres.shape == (128,) and (centres.diff() > 0).all() and 0 < centres[0] and centres[-1] < SAMPLE_RATE / 2
    assert torch.allclose(aug.band_positions(centres, kind), torch.arange(128.0), atol=0.01)


def test_interpolation():
    matrix = aug.interpolation(torch.tensor([[0.0, 1.5, 2.0, 9.0]]), 4)
    signal = torch.tensor([10.0, 20, 40, 80])
    assert (matrix @ signal)[0].tolist() == [10, 30, 40, 0]  # beyond the end there is silence


@pytest.mark.parametrize("kind", KINDS)
def test_speed_of_one_changes_nothing(kind, drawn_as):
    drawn_as(lambda low, high: 0.0)  # octaves
    power = aug.to_power(noise_db() / 8)  # neighbours differ by 1 dB or so
    assert torch.allclose(aug.change_speed(power, kind), power, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_faster_is_higher_and_shorter(kind, drawn_as):
    octaves = 0.25
    drawn_as(lambda low, high: octaves)
    band, frame = 60, 80
    power = torch.full((1, 128, 128), 1e-9)
    power[0, band, frame] = 1.0
    changed = aug.change_speed(power, kind)[0]
    new_band, new_frame = divmod(int(changed.argmax()), 128)
    centres = aug.band_centres(kind)
    expected_hz = float(centres[band]) * 2**octaves
    assert abs(float(aug.band_positions(torch.tensor([expected_hz]), kind)) - new_band) <= 1
    assert abs(frame / 2**octaves - new_frame) <= 1


def test_shift_keeps_the_content():
    power = torch.zeros(6, 128, 128)
    power[:, :, 7] = torch.arange(128.0) + 1  # one frame with a sound
    shifted = aug.shift_in_time(power)
    assert torch.equal(shifted.sum(dim=2), power.sum(dim=2))
    where = (shifted.sum(dim=1) > 0).nonzero()[:, 1]
    assert len(where) == 6 and len(set(where.tolist())) > 1  # each window by its own shift
    assert torch.equal(shifted[0, :, where[0]], power[0, :, 7])


def test_reverberation_is_causal_and_decays():
    power = torch.zeros(3, 128, 128)
    power[:, :, 40] = 1.0
    after = aug.reverberate(power)
    assert torch.equal(after[:, :, :40], power[:, :, :40])
    assert torch.equal(after[:, :, 40], power[:, :, 40])
    tail = after[:, 5, 41:100]
    assert (tail.diff(dim=1) < 0).all() and (tail > 0).all()


@pytest.mark.parametrize("seconds", [0.2, 0.5])
@pytest.mark.parametrize("share", [0.1, 1.5])
def test_reverberation_adds_the_stated_energy_and_falls_60_db_in_the_stated_time(drawn_as, seconds, share):
    drawn_as(lambda low, high: share if high > 1.4 else seconds)  # the energy beside the sound, the time of decay
    power = torch.zeros(1, 128, 128)
    power[:, :, 0] = 2.0
    tail = aug.reverberate(power)[0, 3] - power[0, 3]
    assert float(tail.sum()) == pytest.approx(2.0 * share, rel=0.02)
    frames = 4
    fall = 10 * math.log10(float(tail[1] / tail[1 + frames]))
    assert fall == pytest.approx(60 * frames * HOP / SAMPLE_RATE / seconds, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_equaliser_without_spread_is_the_identity(kind):
    power = aug.to_power(noise_db())
    assert torch.allclose(aug.equalise(power, kind, spread_db=0.0), power)


@pytest.mark.parametrize("kind", KINDS)
def test_equaliser_has_one_smooth_gain_per_band(kind):
    power = aug.to_power(noise_db(200))
    gain = decibels(aug.equalise(power, kind, spread_db=5.0) / power)  # [200, 128, 128]
    assert torch.allclose(gain, gain[:, :, :1].expand_as(gain), atol=1e-3)
    assert 3 < float(gain[:, :, 0].std()) < 6 and abs(float(gain.mean())) < 1
    wide = aug.band_centres(kind) > 800  # where an octave has many bands
    assert float(gain[:, wide, 0].diff(dim=1).abs().max()) < 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cutoff", [4000.0, 8000.0])
def test_band_limit_keeps_low_bands_and_lowers_high_ones_by_60_db(kind, cutoff):
    power = aug.to_power(noise_db())
    change = decibels(aug.limit_band(power, kind, cutoffs=(cutoff,)) / power)
    centres = aug.band_centres(kind)
    assert (change[:, centres < cutoff] == 0).all()
    assert torch.allclose(change[:, centres > cutoff], torch.tensor(-60.0), atol=0.1)


def test_active_power_leaves_pauses_out():
    power = torch.full((1, 128, 128), 1e-9)
    power[:, :, :32] = 2.0  # a quarter of the window
    assert float(aug.active_power(power)) == pytest.approx(2.0 * 128, rel=1e-3)


def test_coloured_noise_has_power_one():
    noise = aug.coloured_noise(torch.zeros(8, 128, 128))
    assert (noise >= 0).all() and torch.allclose(noise.sum(dim=1).mean(dim=1), torch.ones(8), rtol=1e-3)
    assert not torch.equal(noise[0], noise[1])


def test_apply_to_some():
    power = torch.ones(1000, 2, 2)
    assert torch.equal(aug.apply_to_some(power, 0.0, lambda some, _: some * 0), power)
    assert not aug.apply_to_some(power, 1.1, lambda some, _: some * 0).any()
    changed = aug.apply_to_some(power, 0.3, lambda some, index: some * index[:, None, None])
    touched = (changed != 1).any(dim=2).any(dim=1)
    assert 200 < int(touched.sum()) < 400
    index = touched.nonzero()[:, 0]
    assert torch.equal(changed[index, 0, 0], index.float())  # each is given its own place in the batch


def test_part_of_a_window_is_kept_whole_and_the_rest_silenced():
    power = aug.to_power(noise_db(200))
    kept = aug.keep_part(power) == power
    frames = kept.all(dim=1)  # [200, frames]
    assert torch.equal(frames, kept.any(dim=1))  # a frame is kept in all bands or in none
    length, changes = frames.sum(dim=1), frames.int().diff(dim=1).abs().sum(dim=1)
    assert (changes <= 2).all()  # one stretch
    assert length.min() * HOP / SAMPLE_RATE > 0.5 and length.max() > 100 and len(length.unique()) > 20
    assert float((decibels(aug.keep_part(power) / power)).min()) < -60


def test_masks_hide_stripes_no_wider_than_asked():
    db = noise_db(50)
    masked = aug.mask_spectrogram(db, max_bands=20, max_frames=10)
    hidden = masked != db
    bands, frames = hidden.all(dim=2).sum(dim=1), hidden.all(dim=1).sum(dim=1)
    assert bands.max() <= 20 and frames.max() <= 10 and bands.max() > 3 and frames.max() > 2
    rest = hidden & ~hidden.all(dim=2)[:, :, None] & ~hidden.all(dim=1)[:, None, :]
    assert not rest.any()


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_finite_of_the_same_shape_and_repeatable(kind):
    sound, background = noise_db(16), noise_db(16, seed=1)
    sound[0], background[1] = -100.0, -100.0  # stored silence
    before = sound.clone()
    torch.manual_seed(5)
    one = aug.random_scenes(sound, background, kind)
    torch.manual_seed(5)
    same = aug.random_scenes(sound, background, kind)
    other = aug.random_scenes(sound, background, kind)
    assert one.shape == sound.shape and one.dtype == torch.float32 and torch.isfinite(one).all()
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(sound, before)  # the caller's batch is not changed


@pytest.mark.parametrize("kind", KINDS)
def test_mild_scenes_leave_more_silence_around_a_sound(kind):
    sound, background = torch.full((128, 128, 128), -100.0), noise_db(128, seed=1)
    sound[:, 50:60] = -10.0
    silent = []
    for conditions in ("mild", "hard"):
        torch.manual_seed(5)
        scenes = aug.random_scenes(sound, background, kind, conditions)
        silent.append(float((scenes.flatten(1).median(dim=1).values < -60).float().mean()))  # share of windows
    assert 0.05 < silent[1] < 0.35 < silent[0] < 0.7


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0])
def test_background_is_added_at_the_requested_ratio(monkeypatch, drawn_as, snr_db):
    """With every other step left out, what a scene adds to a steady sound lies `snr_db` below it."""
    for step in ("change_speed", "equalise", "limit_band"):
        monkeypatch.setattr(aug, step, lambda power, *rest, **options: power)
    for step in ("reverberate", "shift_in_time", "keep_part", "mask_spectrogram"):
        monkeypatch.setattr(aug, step, lambda power: power, raising=False)
    monkeypatch.setattr(aug, "coloured_noise", torch.zeros_like)
    monkeypatch.setattr(aug, "apply_to_some", lambda power, probability, change: change(power, torch.arange(len(power))))
    drawn_as(lambda low, high: snr_db if low < 0 and high >= 15 else 0.0)  # other levels: above the sound, or 0 at most
    sound, background = torch.full((1, 128, 128), -100.0), torch.full((1, 128, 128), -100.0)
    sound[:, 20:40], background[:, 70:100] = -10.0, -33.0
    power = aug.to_power(aug.random_scenes(sound, background, "stft"))
    measured = decibels(power[0, 20:40].sum() / power[0, 70:100].sum())
    assert float(measured) == pytest.approx(snr_db, abs=0.1)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noisy_copies_hold_the_noise_at_the_requested_ratio_and_keep_their_peak(snr_db):
    sound, background = torch.full((3, 128, 128), -100.0), torch.full((3, 128, 128), -100.0)
    sound[:, 20:40], background[:, 70:100] = -10.0, -33.0
    noisy = aug.noisy_copies(sound, background, snr_db, snr_db)
    power = aug.to_power(noisy)
    assert torch.allclose(decibels(power[:, 20:40].sum(dim=(1, 2)) / power[:, 70:100].sum(dim=(1, 2))),
                          torch.full((3,), snr_db), atol=0.1)
    loudest = [aug.loudest_frame(aug.to_power(db)).flatten() for db in (sound, noisy)]
    assert torch.allclose(*loudest, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scream_is_not_drowned(kind):
    """Even in the hardest scenes the bands of a loud tone stay audible in most windows."""
    sound, background = torch.full((64, 128, 128), -100.0), noise_db(64, seed=2) - 20
    sound[:, 50:60] = -10.0
    scene = aug.random_scenes(sound, background, kind)
    contrast = scene.amax(dim=1).median(dim=1).values - scene.median(dim=1).values.median(dim=1).values
    assert float((contrast > 6).float().mean()) > 0.8
