import pytest
import torch

from pipeline.networks.catalogue.dense_vnet import DenseStack, DenseVNet
from pipeline.networks.catalogue.vnet import VNet
from pipeline.networks.table import measure


def test_it_needs_at_most_half_the_memory_of_a_v_net(monkeypatch):
    monkeypatch.setattr("pipeline.networks.table.PATCH", (32, 32, 32))
    dense, plain = (measure("network", network(1, 3)).activation_mb for network in (DenseVNet, VNet))
    assert dense <= plain / 2


def test_a_layer_of_a_stack_sees_what_all_before_it_found():
    stack = DenseStack(3, 4, 5)
    given = []
    for layer in stack.layers:
        layer.register_forward_hook(lambda _layer, tensors, _made: given.append(tensors[0].shape[1]))
    assert stack(torch.randn(2, 3, 8, 8, 8)).shape == (2, 20, 8, 8, 8)
    assert given == [3, 7, 11, 15, 19]
    assert [layer[0].dilation[0] for layer in stack.layers] == [1, 2, 4, 1, 2]


@pytest.mark.parametrize("prior", [True, False])
def test_the_prior_says_how_likely_a_class_is_in_a_place(prior):
    torch.manual_seed(0)
    network, image = DenseVNet(1, 2, width=0.25, prior=prior).eval(), torch.randn(1, 1, 16, 16, 16)
    if not prior:
        assert network.prior is None
        return
    with torch.no_grad():
        before = network(image)
        network.prior[:, 1, :6] += 5
        moved = network(image) - before
    assert moved[:, 1, :4].min() > 4
    assert moved[:, 1, -4:].abs().max() < 1e-5
    assert moved[:, 0].abs().max() < 1e-5
