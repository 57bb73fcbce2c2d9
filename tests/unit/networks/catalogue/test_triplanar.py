import pytest
import torch

from pipeline.networks.catalogue.triplanar import PATCH, Triplanar


@pytest.mark.parametrize("channels", [1, 2])
def test_it_is_the_sum_of_its_three_branches(channels):
    torch.manual_seed(0)
    network = Triplanar(channels, 3, width=0.125).eval()
    image = torch.randn(2, channels, *network.form.input_size((2, 3, 4)))
    with torch.no_grad():
        branches = network.branches(image)
        assert len(branches) == 3
        torch.testing.assert_close(network(image), branches[0] + branches[1] + branches[2])
        # Each has weights of its own and sees another plane.
        assert not torch.allclose(branches[0], branches[1], atol=1e-3)


@pytest.mark.parametrize("fusion", ["branches", "channels"])
def test_run_over_a_volume_it_labels_as_patch_by_patch(fusion):
    torch.manual_seed(0)
    network = Triplanar(1, 2, width=0.125, fusion=fusion).eval()
    output = (2, 3, 2)
    image = torch.randn(1, 1, *network.form.input_size(output))
    with torch.no_grad():
        dense = network(image)
        for place in torch.cartesian_prod(*map(torch.arange, output)).tolist():
            cube = image[(slice(None), slice(None), *[slice(first, first + PATCH) for first in place])]
            one = network.patchwise(cube)[0, :, 0, 0, 0]
            torch.testing.assert_close(dense[(0, slice(None), *place)], one, atol=1e-5, rtol=1e-4)


def test_the_planes_are_the_channels_of_one_network():
    network = Triplanar(2, 3, width=0.125, fusion="channels")
    assert len(network.networks) == 1
    assert network.networks[0].convolutions[0].in_channels == 6


def test_a_step_labels_fewer_voxels_and_gives_all():
    network = Triplanar(1, 2, width=0.125, fusion="channels", step=3).eval()
    output = network.form.fit((6, 6, 6))
    with torch.no_grad():
        assert network(torch.randn(1, 1, *network.form.input_size(output))).shape[2:] == output


@pytest.mark.parametrize("options", [{"fusion": "sum"}, {"step": 3}, {"fusion": "channels", "step": 2}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=r"fusion is|step is"):
        Triplanar(1, 2, **options)
