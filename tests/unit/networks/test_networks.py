import math

import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.losses.dice_cross_entropy import dice_cross_entropy
from pipeline.networks import NETWORKS, build_network, plan_strides
from pipeline.params import LossParams, NetworkParams

CHANNELS = (4, 6, 8)


def built(patch, spacing=(1.0, 1.0, 1.0), name="residual_unet", classes=3, in_channels=1):
    torch.manual_seed(0)
    return build_network(name, in_channels, classes, CHANNELS, plan_strides(patch, spacing, len(CHANNELS)))


def coarsest(patch, strides):
    return [edge // math.prod(axis) for edge, axis in zip(patch, zip(*strides, strict=True), strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("patch", "spacing"),
    [((16, 16, 16), (1, 1, 1)), ((8, 24, 16), (4, 1, 1)), ((8, 8, 8), (1, 1, 1)), ((5, 7, 9), (1, 1, 1))],
)
def test_logits_have_the_size_of_the_patch(name, patch, spacing):
    network = built(patch, spacing, name, classes=5, in_channels=2)
    assert network(torch.randn(2, 2, *patch)).shape == (2, 5, *patch)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_learns(name):
    network = built((8, 8, 8), name=name)
    network(torch.randn(2, 1, 8, 8, 8)).square().mean().backward()
    for weight in network.parameters():
        assert torch.isfinite(weight.grad).all()
        assert weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_a_small_batch_can_be_learned_by_heart(name):
    generator = torch.Generator().manual_seed(0)
    network = built((8, 8, 8), name=name)
    image = torch.randn((2, 1, 8, 8, 8), generator=generator)
    label = (image[:, 0] > 0.5).long() + (image[:, 0] > 1.2).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.03)
    for _ in range(80):
        loss = dice_cross_entropy(network(image), label, LossParams())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_seed_decides_the_weights(name):
    one, same = built((8, 8, 8), name=name), built((8, 8, 8), name=name)
    for (key, weight), other in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key


def test_the_default_of_the_parameters_is_a_network():
    assert NetworkParams().name in NETWORKS


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ParamsError, match=r"'unet3d'.*residual_unet"):
        built((8, 8, 8), name="unet3d")


def test_isotropic_patches_are_halved_alike():
    assert plan_strides((32, 32, 32), (1, 1, 1), 4) == [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_thick_slices_wait_until_the_plane_has_come_near_them():
    strides = plan_strides((16, 128, 128), (5.0, 1.0, 1.0), 5)
    assert strides == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_no_axis_falls_below_four_voxels():
    patch = (8, 16, 64)
    strides = plan_strides(patch, (1, 1, 1), 6)
    assert coarsest(patch, strides) == [4, 4, 4]


def test_odd_edges_are_not_halved():
    assert plan_strides((9, 12, 10), (1, 1, 1), 3) == [(1, 1, 1), (1, 2, 2), (1, 1, 1)]


def test_an_axis_that_cannot_be_halved_does_not_hold_back_the_others():
    patch = (4, 64, 64)
    assert coarsest(patch, plan_strides(patch, (1, 1, 1), 5)) == [4, 4, 4]


def test_one_level_has_no_stride_but_its_own():
    assert plan_strides((8, 8, 8), (1, 1, 1), 1) == [(1, 1, 1)]


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.7, 0.7), (0.5, 3, 1), (2.5, 1.5, 1.5)])
@pytest.mark.parametrize("patch", [(40, 56, 40), (8, 8, 8), (24, 96, 48), (7, 16, 32)])
def test_strides_divide_the_patch(patch, spacing):
    strides = plan_strides(patch, spacing, 5)
    for edge, axis in zip(patch, zip(*strides, strict=True), strict=True):
        assert edge % math.prod(axis) == 0
        assert edge // math.prod(axis) >= min(edge, 4)
