import pytest
import torch
from torch import nn

from pipeline.networks.weights import draw_normal

DEPTH = 20


def chain(width=64):
    layers = []
    for number in range(DEPTH):
        layers += [nn.Conv3d(width if number else 1, width, 3, padding=1, padding_mode="circular"), nn.ReLU()]
    return nn.Sequential(*layers)


def power(network, image):
    """Mean square after the first and after the last layer, which of a normal variable is its variance."""
    with torch.no_grad():
        return network[:2](image).square().mean(), network(image).square().mean()


def test_activations_keep_their_variance_through_twenty_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image, network = torch.randn(1, 1, 6, 6, 6), chain()
        first, last = power(network, image)
        # As PyTorch draws kernels, what goes in does not come out.
        assert last < 0.01 * first
        draw_normal(network)
        first, last = power(network, image)
    assert 0.1 < last / first < 10


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(12, 200, 3),
        nn.Conv2d(12, 200, 3, groups=4),
        nn.ConvTranspose3d(12, 200, 2, stride=2),
        nn.ConvTranspose2d(12, 200, 4, stride=2, groups=4),
        nn.ConvTranspose3d(12, 200, 3, stride=3),
        nn.Linear(300, 200),
    ],
    ids=str,
)
def test_an_output_has_twice_the_power_of_an_input_which_the_activation_halves(layer):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        draw_normal(layer)
        edges = {4: (24, 24), 5: (12, 12, 12)}.get(layer.weight.dim())
        image = torch.randn(4, 12, *edges) if edges else torch.randn(500, 300)
        output = layer(image)
    inner = output[(slice(None), slice(None), *[slice(3, -3)] * (output.dim() - 2))]
    assert inner.square().mean() == pytest.approx(2, rel=0.15)
    assert not layer.bias.any()


def test_depth_alone_counts_and_what_normalises_stays():
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4))
    draw_normal(network)
    assert (network[1].weight == 1).all()
