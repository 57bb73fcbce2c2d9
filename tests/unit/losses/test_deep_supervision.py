import pytest
import torch

from pipeline.losses.segmentation import segmentation_loss
from pipeline.losses.supervised import at_size, supervised_loss
from pipeline.networks import build_network, plan_network
from pipeline.networks.base import Output
from pipeline.networks.depth import depths
from pipeline.params import LossParams

PATCH = (16, 32, 32)
SUPERVISED = [
    ("dsn3d", {}),
    ("unet_mds", {}),
    ("voxresnet", {}),
    ("hed3d", {}),
    ("unet", {"deep_supervision": True}),
    ("residual_unet", {"deep_supervision": True}),
]


@pytest.mark.parametrize(("name", "options"), SUPERVISED)
def test_auxiliary_losses_reach_the_first_layer_more_strongly(name, options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(name, 1, 3, plan_network(name, options, PATCH, (1, 1, 1), small=True))
        output = network.form.fit(PATCH)
        image = torch.randn(2, 1, *network.form.input_size(output))
        label = torch.zeros(2, *output, dtype=torch.int64)
        label[:, 4:12, 8:20, 8:20] = 1
        label[:, 6:10, 20:26, 8:20] = 2
        first = network.get_parameter(next(iter(depths(network, image[:1]))))

        def gradient(judged):
            network.zero_grad()
            loss = supervised_loss(
                network(image)[:judged], network.form.outputs[:judged], label, LossParams()
            )
            loss.backward()
            return first.grad.norm()

        outputs = len(network.form.outputs)
        assert outputs > 1
        assert gradient(outputs) > gradient(1)


def test_a_coarser_output_is_told_the_voxels_nearest_to_the_middle_of_its_own():
    label = torch.arange(2 * 6 * 4 * 8).view(2, 6, 4, 8) % 251
    assert at_size(label, (6, 4, 8)) is label
    coarse = at_size(label, (2, 4, 4))
    assert coarse.dtype == label.dtype
    # Of three voxels the middle one, of two either.
    assert torch.equal(coarse, label[:, 1::3, :, 1::2])


def test_each_output_is_judged_at_its_own_size():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (torch.randn(1, 3, edge, edge, edge, generator=generator) for edge in (8, 4))
    label = torch.randint(3, (1, 8, 8, 8), generator=generator)
    loss = supervised_loss((fine, coarse), (Output(), Output(0.5)), label, LossParams())
    alone = [
        segmentation_loss(logits, at_size(label, logits.shape[2:]), LossParams()) for logits in (fine, coarse)
    ]
    torch.testing.assert_close(loss, alone[0] + 0.5 * alone[1])


def test_each_output_is_told_which_of_the_voxels_of_its_size_are_heavier():
    generator = torch.Generator().manual_seed(0)
    fine, coarse = (torch.randn(1, 3, edge, edge, edge, generator=generator) for edge in (8, 4))
    label = torch.randint(3, (1, 8, 8, 8), generator=generator)
    heavier = torch.rand(1, 8, 8, 8, generator=generator) * 9
    outputs, params = (Output(), Output(0.5)), LossParams()
    loss = supervised_loss((fine, coarse), outputs, label, params, boundary=heavier)
    alone = [
        segmentation_loss(
            logits, at_size(label, logits.shape[2:]), params, boundary=at_size(heavier, logits.shape[2:])
        )
        for logits in (fine, coarse)
    ]
    torch.testing.assert_close(loss, alone[0] + 0.5 * alone[1])


def test_a_coarser_output_is_told_all_classes_of_a_slice_of_which_only_they_are_known():
    """Which classes a slice holds is stored as a chequerboard; every second voxel holds one of them alone."""
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    label = (1 + (rows + columns) % 2).expand(1, 8, 8, 8).clone()
    params = LossParams(presence=0.05)

    def loss(logits):
        return supervised_loss((torch.zeros(1, 3, 8, 8, 8), logits), (Output(0.0), Output()), label, params)

    both = torch.tensor([-9.0, 9.0, 9.0]).view(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4)
    assert float(loss(both)) < 1e-3
