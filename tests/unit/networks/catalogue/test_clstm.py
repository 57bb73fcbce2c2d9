import torch

from pipeline.networks.catalogue.clstm import CLSTM


def built():
    torch.manual_seed(0)
    return CLSTM(1, 2, width=0.125).eval()


def test_the_order_of_the_slices_matters():
    network, image = built(), torch.randn(1, 1, 5, 8, 8)
    with torch.no_grad():
        there, back = network(image), network(image.flip(2)).flip(2)
        assert not torch.allclose(there, back, atol=1e-4)
        # To the 2D network it does not.
        torch.testing.assert_close(network.slices(image), network.slices(image.flip(2)).flip(2))


def test_a_slice_knows_those_before_it_and_none_behind():
    network, image = built(), torch.randn(1, 1, 5, 8, 8)
    changed = image.clone()
    changed[:, :, 2] += 3
    with torch.no_grad():
        moved = (network(image) - network(changed)).abs().amax((0, 1, 3, 4))
    assert moved[:2].max() == 0
    assert moved[2:].min() > 1e-6
