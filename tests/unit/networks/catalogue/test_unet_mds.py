import torch
from torch import nn

from pipeline.networks.catalogue.unet import UNet
from pipeline.networks.catalogue.unet_mds import UNetMDS


def test_three_outputs_have_the_size_of_the_image():
    network = UNetMDS(1, 3, width=0.125)
    resolutions = []
    for head in network.heads:
        head.register_forward_hook(lambda _head, given, _made: resolutions.append(given[0].shape[2:]))
    outputs = network(torch.randn(2, 1, 16, 24, 32))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 16, 24, 32)] * 3
    assert resolutions == [(16, 24, 32), (8, 12, 16), (4, 6, 8)]
    assert [output.weight for output in network.form.outputs] == [1, 0.5, 0.25]


def test_deconvolutions_bring_the_branches_to_the_size_of_the_image():
    network = UNetMDS(1, 3, width=0.125)
    sizes = []
    for head in network.heads:
        head.register_forward_hook(lambda _head, _given, made: sizes.append(made.shape[2:]))
    network(torch.randn(2, 1, 16, 24, 32))
    assert sizes == [(16, 24, 32)] * 3
    doublings = [sum(isinstance(layer, nn.ConvTranspose3d) for layer in head) for head in network.heads]
    assert doublings == [0, 1, 2]


def test_a_branch_teaches_what_lies_below_it():
    """Up to its own level of the expanding path, and nothing beyond."""
    network = UNetMDS(1, 2, width=0.125)
    taught = []
    for branch in range(3):
        network.zero_grad()
        network(torch.randn(2, 1, 8, 8, 8))[branch].square().mean().backward()
        weights = [block[0].weight for block in reversed(network.decoder)]
        taught.append([weight.grad is not None and bool(weight.grad.any()) for weight in weights])
    assert taught == [[True, True, True], [False, True, True], [False, False, True]]


def test_beside_its_branches_it_is_the_3d_u_net():
    plain, judged = (
        sum(weight.numel() for weight in network.parameters()) for network in (UNet(3, 3), UNetMDS(3, 3))
    )
    scores = (128 + 1) * 3 + (256 + 1) * 3
    deconvolutions = 3 * (3 * 3 * 2**3 + 3)
    assert judged - plain == scores + deconvolutions
