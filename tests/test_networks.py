"""The three networks: shapes, size, one logit that depends on its own window only, an LSTM that runs along time."""

import io

import pytest
import torch

from utils.ensemble import NETWORK_INPUTS
from utils.networks import NETWORKS, InputNormalisation, ResidualBlock, build_network

pytestmark = pytest.mark.usefixtures("one_thread")
MAX_PARAMETERS, MAX_BYTES = 1_000_000, 4_000_000


def network_of(name, seed=0):
    torch.manual_seed(seed)
    network = build_network(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    network(random_spectrograms(8, seed=1))  # takes on the statistics of a batch, as after training
    return network.eval()


def random_spectrograms(n, seed=0):
    """Noise with a random level in each of 8 bands and at each of 8 times: windows that differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(n, 8, 8, generator=generator).repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    return torch.randn(n, 128, 128, generator=generator) * 5 + level * 20 - 40


@pytest.mark.parametrize("name", NETWORKS)
def test_one_logit_per_window(name):
    network = network_of(name)
    for n in (1, 2, 5):
        with torch.no_grad():
            logits = network(random_spectrograms(n))
        assert logits.shape == (n,) and torch.isfinite(logits).all()
    with torch.no_grad():
        assert network.embed(random_spectrograms(2)).shape == (2, network.embedding_size)


def test_residual_block_adds_to_what_came_in():
    torch.manual_seed(0)
    block, maps = ResidualBlock(4).eval(), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        added = block.second(block.first(maps))
        assert added.abs().max() > 0.1
        assert torch.equal(block(maps), (maps + added).clamp(min=0))
        block.second[1].weight.zero_()  # nothing is added
        assert torch.equal(block(maps), maps.clamp(min=0))


def test_only_the_network_on_mel_has_residual_blocks():
    blocks = {name: sum(isinstance(module, ResidualBlock) for module in build_network(name).modules()) for name in NETWORKS}
    assert blocks == {"cnn": 0, "cnn_mel": 4, "cnn_lstm": 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_small_enough(name):
    network, buffer = build_network(name), io.BytesIO()
    assert 10_000 < sum(p.numel() for p in network.parameters()) < MAX_PARAMETERS
    torch.save(network.state_dict(), buffer)
    assert buffer.tell() < MAX_BYTES


@pytest.mark.parametrize("name", NETWORKS)
def test_a_logit_does_not_depend_on_the_other_windows(name):
    network, windows = network_of(name), random_spectrograms(6)
    with torch.no_grad():
        together = network(windows)
        alone = torch.cat([network(window[None]) for window in windows])
        beside_extremes = network(torch.cat([windows[:1], torch.full((5, 128, 128), 50.0)]))[0]
    assert together.std() > 1e-2  # they do tell windows apart
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together[0], beside_extremes, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_and_batch_statistics_rest_in_evaluation(name):
    network, windows = network_of(name), random_spectrograms(3)
    with torch.no_grad():
        assert torch.equal(network(windows), network(windows))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns(name):
    network = network_of(name).train()
    network(random_spectrograms(4)).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_loads_as_plain_weights(name, tmp_path):
    network, windows = network_of(name), random_spectrograms(2)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    other = build_network(name)
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(windows), network(windows))


@pytest.mark.parametrize("name", NETWORKS)
def test_normalisation_is_part_of_the_network(name):
    """The network takes decibels as stage 1 stores them; what lies outside -100 to 50 dB counts as the limit."""
    network = network_of(name)
    assert any(isinstance(module, InputNormalisation) for module in network.modules())
    with torch.no_grad():
        logits = network(torch.stack([torch.full((128, 128), db) for db in (-100.0, -1000.0, 50.0, 1000.0)]))
    assert logits[0] == logits[1] and logits[2] == logits[3] and logits[0] != logits[2]


def test_normalised_input():
    image = InputNormalisation()(torch.linspace(-100, 50, 128)[None, None, :].expand(1, 128, 128))
    assert image.shape == (1, 2, 128, 128)
    assert image.abs().max() < 5 and image[0, 0].min() < -1 < 1 < image[0, 0].max()
    position = image[0, 1]  # known per band, the same in every frame
    assert (position[:, 0].diff() > 0).all() and (position == position[:, :1]).all()


def test_lstm_runs_along_time():
    """A sound in a late frame changes late steps of what the LSTM reads, a sound in a high band does not."""
    network, seen = network_of("cnn_lstm"), []
    network.lstm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    quiet = torch.full((1, 128, 128), -60.0)
    late, high = quiet.clone(), quiet.clone()
    late[:, :, 120:] = 0  # the last 8 of 128 frames
    high[:, 120:, :] = 0  # the highest 8 of 128 bands
    with torch.no_grad():
        for spectrogram in (quiet, late, high):
            network(spectrogram)
    base, late, high = seen
    n_steps = base.shape[1]
    assert base.shape[0] == 1 and 16 <= n_steps <= 128
    changed_by_late = ((late - base).abs().amax(dim=2)[0] > 1e-6).nonzero()[:, 0]
    changed_by_high = ((high - base).abs().amax(dim=2)[0] > 1e-6).nonzero()[:, 0]
    assert changed_by_late.min() >= 0.8 * n_steps and changed_by_late.max() == n_steps - 1
    assert len(changed_by_high) == n_steps


def test_lstm_knows_the_order_of_time():
    """Reading its steps in another order changes what it says: it is more than an average over time."""
    network = network_of("cnn_lstm")
    with torch.no_grad():
        steps = torch.randn(1, 32, network.lstm.input_size)
        forward, backward = network.lstm(steps)[0], network.lstm(steps.flip(1))[0].flip(1)
    assert not torch.allclose(forward, backward, atol=1e-3)


def test_each_network_reads_its_spectrogram():
    assert NETWORK_INPUTS["cnn"] == "stft" and NETWORK_INPUTS["cnn_mel"] == "mel"
    assert NETWORK_INPUTS.keys() == NETWORKS.keys() and set(NETWORK_INPUTS.values()) <= {"stft", "mel"}
