import pytest
import torch
from torch import nn

from pipeline.networks.catalogue.deepmedic import DeepMedic


def seen(network, path):
    """How far, along z, a voxel in the middle of the output looks by one of the paths."""
    network = network.eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_().add_(1e-2)
        for weight in getattr(network, path).parameters():
            weight.zero_()
    image = torch.ones(1, 1, 57, 57, 57, requires_grad=True)
    network(image)[0, :, 4, 4, 4].logsumexp(0).backward()
    places = image.grad[0, 0].abs().sum((1, 2)).nonzero()[:, 0]
    return int(places.max() - places.min() + 1)


def test_25_voxels_give_9():
    path = DeepMedic(1, 2).normal
    assert path(torch.randn(2, 1, 25, 25, 25)).shape == (2, 50, 9, 9, 9)
    assert DeepMedic(1, 2).form.input_size((9, 9, 9)) == (57, 57, 57)


def test_one_path_sees_17_voxels_and_the_other_51():
    assert seen(DeepMedic(1, 2, width=0.1), "wide") == 17
    assert seen(DeepMedic(1, 2, width=0.1), "normal") == 51


def test_each_path_has_eight_convolutions_and_two_hidden_layers_follow():
    network = DeepMedic(1, 2)
    for path in (network.normal, network.wide):
        assert [each.out_channels for each in path.convolutions] == [30, 30, 40, 40, 40, 40, 50, 50]
        assert {each.kernel_size for each in path.convolutions} == {(3, 3, 3)}
    hidden = [each for each in network.head if isinstance(each, nn.Conv3d)]
    assert [each.out_channels for each in hidden] == [150, 150, 2]
    assert {each.kernel_size for each in hidden} == {(1, 1, 1)}


def test_dense_output_is_that_of_its_parts():
    """A larger output is made of the smaller ones beside each other."""
    torch.manual_seed(0)
    network = DeepMedic(1, 2, width=0.1).eval()
    image = torch.randn(1, 1, 57 + 9, 57, 57)
    with torch.no_grad():
        parts = [network(image[:, :, start : start + 57]) for start in (0, 9)]
        torch.testing.assert_close(network(image), torch.cat(parts, dim=2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_the_residual_connections_are_an_option(residual):
    """With convolutions that give nothing, what was given goes on if it is added."""
    path = DeepMedic(1, 2, width=0.1, residual=residual).normal.eval()
    for number in (3, 5, 7):
        nn.init.zeros_(path.convolutions[number].weight)
    assert bool((path(torch.randn(1, 1, 17, 17, 17)) != 0).any()) is residual
