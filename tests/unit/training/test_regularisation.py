import pytest
import torch
from torch import nn

from pipeline.errors import ParamsError
from pipeline.networks import build_network
from pipeline.training.regularisation import ACTIVATIONS, drop_outputs, drop_weights, kernels

OPTIONS = {"channels": (8, 12), "strides": [(1, 1, 1), (2, 2, 2)]}
IMAGE = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield build_network("residual_unet", 1, 3, OPTIONS)


def zeros(network):
    """The share of zeros among the outputs of each activation."""
    found = []
    layers = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, output: found.append((output == 0).float().mean()))
        for layer in layers
    ]
    network(IMAGE)
    for hook in hooks:
        hook.remove()
    return torch.stack(found)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_outputs_are_dropped_at_the_rate_that_was_asked_for(network, rate):
    # A leaky activation gives no zero of its own.
    assert not zeros(network).any()
    drop_outputs(network, rate)
    assert zeros(network) == pytest.approx(rate, abs=0.03)


def test_a_network_that_is_used_drops_nothing(network):
    before = network.eval()(IMAGE)
    drop_outputs(network, 0.5)
    assert torch.equal(network(IMAGE), before)
    assert not torch.equal(network.train()(IMAGE), before)


def test_what_is_kept_is_larger_so_that_the_mean_stays():
    layers = nn.Sequential(nn.ReLU())
    drop_outputs(layers, 0.25)
    output = layers(torch.ones(10_000))
    assert output[output > 0].tolist() == pytest.approx([1 / 0.75] * int((output > 0).sum()))
    assert output.mean() == pytest.approx(1, abs=0.05)


def test_without_an_activation_there_is_nothing_to_drop():
    with pytest.raises(ParamsError, match="drop_connect works for every network"):
        drop_outputs(nn.Conv3d(1, 2, 1), 0.5)
    drop_outputs(nn.Conv3d(1, 2, 1), 0)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_weights_are_dropped_at_the_rate_and_come_back(network, rate):
    weights = kernels(network)
    before = [weight.detach().clone() for weight in weights]
    with drop_weights(weights, rate):
        dropped = sum(int((weight == 0).sum()) for weight in weights)
        for weight, own in zip(weights, before, strict=True):
            kept = weight != 0
            assert torch.allclose(weight[kept], own[kept] / (1 - rate))
    assert dropped / sum(weight.numel() for weight in weights) == pytest.approx(rate, abs=0.02)
    assert all(torch.equal(weight, own) for weight, own in zip(weights, before, strict=True))


def test_the_gradient_is_that_of_the_loss_with_weights_dropped():
    layer = nn.Linear(40, 30, bias=False)
    given = torch.randn(5, 40)
    with drop_weights(kernels(layer), 0.5):
        share = (layer.weight.detach() != 0) * 2.0
        layer(given).square().sum().backward()
    own = layer.weight.detach().clone().requires_grad_()
    (given @ (own * share).T).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, own.grad)
    assert (layer.weight.grad[share == 0] == 0).all()


def test_biases_and_factors_of_normalisation_stay(network):
    names = {weight: name for name, weight in network.named_parameters()}
    kept = set(names.values()) - {names[weight] for weight in kernels(network)}
    assert kept
    assert not {name for name in kept if name.endswith("weight") and network.get_parameter(name).dim() > 1}


def test_without_a_rate_nothing_is_touched(network):
    weights = kernels(network)
    with drop_weights(weights, 0):
        assert all(weight.abs().sum() > 0 for weight in weights)
    state = torch.get_rng_state()
    with drop_weights(weights, 0):
        pass
    assert torch.equal(torch.get_rng_state(), state)
