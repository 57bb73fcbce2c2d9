import pytest
import torch

from pipeline.networks.catalogue.bdc_lstm import BDCLSTM


def built(**options):
    torch.manual_seed(0)
    return BDCLSTM(1, 2, width=0.125, **options).eval()


@pytest.mark.parametrize("shared", [True, False])
def test_reversing_the_volume_reverses_the_output(shared):
    """With weights of their own, if the directions change places as well."""
    network, image = built(shared=shared), torch.randn(1, 1, 5, 16, 16)
    with torch.no_grad():
        there = network(image)
        if not shared:
            assert not torch.allclose(there, network(image.flip(2)).flip(2), atol=1e-4)
            network.there, network.back = network.back, network.there
            network.head.weight.copy_(network.head.weight.roll(network.head.in_channels // 2, dims=1))
        torch.testing.assert_close(there, network(image.flip(2)).flip(2), atol=1e-5, rtol=1e-4)


def test_a_slice_knows_those_before_it_and_behind_it():
    network, image = built(), torch.randn(1, 1, 5, 16, 16)
    changed = image.clone()
    changed[:, :, 2] += 3
    with torch.no_grad():
        assert (network(image) - network(changed)).abs().amax((0, 1, 3, 4)).min() > 1e-6


def test_the_coarse_submodule_feeds_the_fine_one():
    network, image = built(), torch.randn(1, 1, 2, 16, 16)
    sizes = []
    network.coarse.register_forward_hook(lambda _module, given, _made: sizes.append(given[0].shape[2:]))
    with torch.no_grad():
        before = network(image)
        network.coarse.heads[0].weight.mul_(3)
        assert not torch.allclose(before, network(image), atol=1e-5)
    assert sizes[0] == (2, 8, 8)
