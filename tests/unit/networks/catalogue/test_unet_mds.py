import torch

from pipeline.networks.catalogue.unet_mds import UNetMDS


def test_three_outputs_have_the_size_of_the_image():
    network = UNetMDS(1, 3, width=0.125)
    resolutions = []
    for head in network.heads:
        head.register_forward_hook(lambda _head, given, _made: resolutions.append(given[0].shape[2:]))
    outputs = network(torch.randn(2, 1, 16, 24, 32))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 16, 24, 32)] * 3
    assert resolutions == [(16, 24, 32), (8, 12, 16), (4, 6, 8)]
    assert len({float(output.detach().sum()) for output in outputs}) == 3
