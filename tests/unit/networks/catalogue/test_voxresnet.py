import torch
from torch import nn

from pipeline.networks.catalogue.voxresnet import VoxRes, VoxResNet

WEIGHTED = (nn.Conv3d, nn.ConvTranspose3d)


def test_it_has_25_layers():
    """Two at the resolution of the image, three that stride, six modules of two, four classifiers of two."""
    network = VoxResNet(1, 4)
    layers = [module for module in network.modules() if isinstance(module, WEIGHTED)]
    assert len(layers) == 2 + 3 + 6 * 2 + 4 * 2 == 25


def test_three_strides_reduce_the_resolution_eight_times():
    network = VoxResNet(1, 4, width=0.25)
    strided = [
        module for module in network.modules() if isinstance(module, nn.Conv3d) and module.stride[0] > 1
    ]
    assert len(strided) == 3
    sizes = []
    network.deeper[-1].register_forward_hook(lambda _block, _given, made: sizes.append(made.shape[2:]))
    network(torch.zeros(2, 1, 16, 24, 32))
    assert sizes == [(2, 3, 4)]


def test_its_feature_maps_are_those_of_the_paper():
    network = VoxResNet(1, 4)
    maps = [classifier[0].num_features for classifier in network.classifiers]
    assert maps == [32, 64, 64, 64]


def test_normalisation_and_activation_come_before_each_convolution():
    kinds = [type(layer) for layer in VoxRes(4).layers]
    assert kinds == [nn.BatchNorm3d, nn.ReLU, nn.Conv3d] * 2


def test_the_output_is_the_sum_of_four_classifiers_that_are_judged_too():
    fused, *each = VoxResNet(1, 2, width=0.25)(torch.randn(2, 1, 16, 16, 16))
    assert len(each) == 4
    torch.testing.assert_close(fused, sum(each))
