import torch
from torch import nn

from pipeline.networks.catalogue.dsn3d import DSN3D


def test_three_supervised_outputs_have_the_resolution_of_the_image():
    network = DSN3D(1, 3)
    outputs = network(torch.randn(2, 1, 8, 12, 16))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 12, 16)] * 3
    assert [output.weight for output in network.form.outputs] == [1.0, 0.4, 0.3]


def test_the_heads_are_deconvolutions_on_lower_and_middle_layers():
    network = DSN3D(1, 3)
    doublings = [sum(isinstance(layer, nn.ConvTranspose3d) for layer in head) for head in network.heads]
    assert doublings == [0, 1, 2]


def test_it_has_the_eleven_layers_of_the_paper():
    """Six convolutions, two poolings, two deconvolutions, and the scores."""
    network = DSN3D(1, 3)
    kernels = [
        layer.kernel_size for block in network.blocks for layer in block if isinstance(layer, nn.Conv3d)
    ]
    assert kernels == [(7, 9, 9)] * 2 + [(5, 7, 7)] * 2 + [(3, 5, 5), (1, 1, 1)]
    poolings = len(network.blocks) - 1
    last = [layer for layer in network.heads[-1] if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)]
    assert len(kernels) + poolings + len(last) == 11
    resolutions = []
    network.blocks[-1].register_forward_hook(
        lambda _block, given, _made: resolutions.append(given[0].shape[2:])
    )
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, 8, 12, 16))
    assert resolutions == [(2, 3, 4)]


def test_an_auxiliary_head_brings_more_gradient_to_the_first_layer():
    torch.manual_seed(0)
    network, image = DSN3D(1, 2), torch.randn(2, 1, 8, 8, 8)
    norms = []
    for outputs in (1, 3):
        network.zero_grad()
        sum(output.square().mean() for output in network(image)[:outputs]).backward()
        norms.append(network.blocks[0][0].weight.grad.norm())
    assert norms[1] > norms[0]
