import torch
from torch import nn

from pipeline.networks.catalogue.vnet import VNet


def convolutions(network, kernel):
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and module.kernel_size == (kernel,) * 3
    ]


def test_its_stages_are_those_of_the_paper():
    network = VNet(1, 2)
    maps = []
    for stage in network.down:
        stage.register_forward_hook(lambda _stage, _given, made: maps.append(tuple(made.shape[1:])))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, 16, 16, 32))
    assert maps == [(16, 16, 16, 32), (32, 8, 8, 16), (64, 4, 4, 8), (128, 2, 2, 4), (256, 1, 1, 2)]
    assert [stage.layers[-2].out_channels for stage in network.up] == [256, 128, 64, 32]


def test_kernels_are_five_wide_and_strides_take_the_place_of_pooling():
    network = VNet(1, 2)
    assert len(convolutions(network, 5)) == (1 + 2 + 3 + 3 + 3) + (3 + 3 + 2 + 1)
    assert {module.stride for module in convolutions(network, 2)} == {(2, 2, 2)}
    assert len(convolutions(network, 2)) == 4 + 4
    assert not any(isinstance(module, nn.MaxPool3d | nn.AvgPool3d) for module in network.modules())


def test_what_a_stage_is_given_is_added_to_what_it_makes():
    torch.manual_seed(0)
    stage = VNet(1, 2, width=0.25).down[1].eval()
    for layer in stage.layers.modules():
        if isinstance(layer, nn.Conv3d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    features = torch.rand(1, 8, 4, 4, 4)
    torch.testing.assert_close(stage(features), features)


def test_an_output_voxel_sees_as_far_as_the_paper_says():
    """551 voxels: the last line of its table of receptive fields."""
    assert VNet(1, 2, width=0.25).form.receptive_field == (551, 551, 551)
