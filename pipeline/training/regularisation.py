"""What a training drops at random in each step, so that nothing is learned that hangs on a single part."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ParamsError

ACTIVATIONS = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
)


def drop_outputs(network: nn.Module, rate: float) -> None:
    """Have each output of a hidden layer be 0 with probability `rate` while the network trains.

    What is kept is divided by 1 - rate, so that nothing has to change when the network is used. After
    Srivastava et al., JMLR 15, 2014. A layer's outputs are those of its activation.

    Raises:
        ParamsError: no layer of the network ends with an activation (recurrent cells have gates).
    """
    if not rate:
        return
    layers = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    if not layers:
        raise ParamsError(
            "train.dropout has nothing to drop: no layer of this network ends with an activation",
            "set it to 0; train.drop_connect works for every network",
        )

    def drop(layer: nn.Module, _given: Any, output: Tensor) -> Tensor:
        return functional.dropout(output, rate, layer.training)

    for layer in layers:
        layer.register_forward_hook(drop)


def kernels(network: nn.Module) -> list[nn.Parameter]:
    """Every weight that learns but biases and those of normalisation: what connects a layer with the next."""
    return [weight for weight in network.parameters() if weight.dim() > 1 and weight.requires_grad]


@contextmanager
def drop_weights(weights: list[nn.Parameter], rate: float) -> Iterator[None]:
    """Each weight is 0 with probability `rate` for the gradient that is taken inside.

    What is kept is divided by 1 - rate. After Wan et al., ICML 2013; one draw a batch, not one a patch. It
    is the weights themselves that change and come back, not a copy that the network is given: whatever a
    network does with them, computing twice to save memory too, it finds the same.
    """
    if not rate:
        yield
        return
    with torch.no_grad():
        kept = [weight.detach().clone() for weight in weights]
        shares = [functional.dropout(torch.ones_like(weight), rate) for weight in weights]
        for weight, share in zip(weights, shares, strict=True):
            weight.mul_(share)
    try:
        yield
    finally:
        # Also where memory did not suffice: the step is tried again with the weights as they were.
        with torch.no_grad():
            for weight, before, share in zip(weights, kept, shares, strict=True):
                weight.copy_(before)
                if weight.grad is not None:
                    weight.grad.mul_(share)
