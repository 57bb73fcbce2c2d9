import torch

from pipeline.networks.catalogue.hed3d import HED3D


def test_there_is_an_output_at_each_scale():
    network = HED3D(1, 3, width=0.125)
    scales = []
    for score in network.scores:
        score.register_forward_hook(lambda _score, _given, made: scales.append(made.shape[2:]))
    outputs = network(torch.randn(2, 1, 16, 16, 24))
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 16, 16, 24)] * 4
    assert scales == [(2, 2, 3), (4, 4, 6), (8, 8, 12), (16, 16, 24)]


def test_mixing_layers_take_from_the_trunk_and_from_below():
    torch.manual_seed(0)
    network = HED3D(1, 2, width=0.125)
    given = []
    for mix in network.mixing:
        mix[0][0].register_forward_hook(lambda _layer, tensors, _made: given.append(tensors[0].shape[1]))
    network(torch.randn(2, 1, 8, 8, 8))
    # Of the resolution itself, and of the coarser one: 512 + 256, 256 + 128, 128 + 32, an eighth as wide.
    assert given == [64 + 32, 32 + 16, 16 + 4]
    assert all(mix[0][0].kernel_size == (1, 1, 1) for mix in network.mixing)
