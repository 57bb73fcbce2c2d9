import pytest
import torch
from torch import nn

from pipeline.networks.catalogue.unet import UNet


def weights(network):
    return sum(weight.numel() for weight in network.parameters())


def test_in_2d_it_has_31_million_weights():
    """The paper states none; this is the sum over its layers, with one channel in and two classes out."""
    maps = [64, 128, 256, 512, 1024]
    inputs = [1, *maps[:-1]]
    down = [9 * (one * two + two * two) + 2 * two for one, two in zip(inputs, maps, strict=True)]
    up = [4 * 2 * fine * fine + fine + 9 * 3 * fine * fine + 2 * fine for fine in maps[:-1]]
    assert weights(UNet(1, 2, dims=2)) == sum(down) + sum(up) + 2 * 64 + 2 == 31_030_658


def test_in_3d_it_has_the_weights_that_the_paper_states():
    """It counts convolutions: the scale and shift of the 14 normalisations are 4,672 more."""
    network = UNet(3, 3, dims=3)
    norms = sum(weights(module) for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    assert weights(network) - norms == 19_069_955
    assert norms == 4_672


def test_in_2d_572_voxels_give_388():
    network = UNet(1, 2, dims=2, padding="valid", width=1 / 16).eval()
    assert network.form.fit((1, 388, 388)) == (1, 388, 388)
    assert network.form.input_size((1, 388, 388)) == (1, 572, 572)
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 1, 572, 572)).shape == (1, 2, 1, 388, 388)


def test_in_3d_the_paper_s_patch_gives_its_output():
    """132 x 132 x 116 voxels give 44 x 44 x 28."""
    network = UNet(3, 3, dims=3, padding="valid", width=1 / 8).eval()
    assert network.form.input_size((28, 44, 44)) == (116, 132, 132)
    assert network.form.fit((28, 44, 44)) == (28, 44, 44)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 116, 132, 132)).shape == (1, 3, 28, 44, 44)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "options", [{"downsample": "stride"}, {"norm": "instance"}, {"deep_supervision": True}]
)
def test_every_option_gives_what_its_form_says(dims, padding, options):
    network = UNet(2, 3, dims=dims, padding=padding, width=1 / 16, levels=3, **options)
    output = network.form.fit((5, 9, 17))
    results = network(torch.randn(2, 2, *network.form.input_size(output)))
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(network.form.outputs)
    assert {result.shape for result in results} == {(2, 3, *output)}


def test_slices_are_independent_in_2d_and_not_in_3d():
    for dims, independent in ((2, True), (3, False)):
        torch.manual_seed(0)
        network = UNet(1, 2, dims=dims, width=1 / 16, levels=2).eval()
        image = 1000 * torch.randn(1, 1, 4, 8, 8)
        changed = image.clone()
        changed[:, :, 0] = 0
        with torch.no_grad():
            assert (
                torch.allclose(network(image)[:, :, 1], network(changed)[:, :, 1], atol=1e-6) is independent
            )


@pytest.mark.parametrize(("norm", "layer"), [("batch", nn.BatchNorm3d), ("instance", nn.InstanceNorm3d)])
def test_the_normalisation_is_the_one_that_was_asked_for(norm, layer):
    assert sum(isinstance(module, layer) for module in UNet(1, 2, norm=norm, width=0.1).modules()) == 14


def test_a_strided_convolution_takes_the_place_of_pooling():
    strided = UNet(1, 2, downsample="stride", width=1 / 8)
    assert [module.stride for module in strided.stride] == [(2, 2, 2)] * 3


@pytest.mark.parametrize(
    "wrong", [{"dims": 4}, {"padding": "full"}, {"norm": "layer"}, {"downsample": "max"}]
)
def test_a_wrong_option_is_refused(wrong):
    with pytest.raises(ValueError, match="not one of"):
        UNet(1, 2, **wrong)
