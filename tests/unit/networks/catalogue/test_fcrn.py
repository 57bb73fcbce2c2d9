import pytest
import torch
from torch import nn

from pipeline.networks.catalogue.fcrn import FCRN, Bottleneck


def test_it_has_50_weighted_layers():
    """As residual networks are counted: without projections, and with one layer that classifies."""
    network = FCRN(3, 2, width=0.1)
    inside = [block.layers for block in network.modules() if isinstance(block, Bottleneck)]
    count = sum(isinstance(layer, nn.Conv2d) for layers in [network.first, *inside] for layer in layers)
    assert count + 1 == 50


@pytest.mark.parametrize("dims", [2, 3])
def test_scores_of_three_resolutions_are_fused(dims):
    network = FCRN(1, 2, dims=dims, width=0.1)
    sizes = []
    for score in network.scores:
        score.register_forward_hook(lambda _score, _given, made: sizes.append(made.shape[-1]))
    image = torch.randn(2, 1, 32 if dims == 3 else 2, 32, 64)
    assert network(image).shape == (2, 2, *image.shape[2:])
    assert sizes == [8, 4, 2]


def test_every_resolution_has_a_say():
    torch.manual_seed(0)
    network, image = FCRN(1, 2, width=0.1), torch.randn(2, 1, 1, 64, 64)
    before = network(image)
    for score in network.scores:
        kept = score.bias.detach().clone()
        with torch.no_grad():
            score.bias.add_(torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(network(image)[:, 1] - before[:, 1], torch.ones(2, 1, 64, 64))
        with torch.no_grad():
            score.bias.copy_(kept)
