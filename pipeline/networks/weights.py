"""What of a network is kept on disk, and how it gets back."""

import torch
from torch import Tensor, nn


def stored(network: nn.Module) -> dict[str, Tensor]:
    """What a model's file holds: weights, and the running statistics of normalisation."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    kept = network.state_dict().keys()
    return {name: tensor for name, tensor in tensors.items() if name in kept}


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into what `network` stores, which keeps its memory layout.

    Raises:
        ValueError: they are not those of such a network.
    """
    own = stored(network)
    if {name: tensor.shape for name, tensor in own.items()} != {
        name: tensor.shape for name, tensor in weights.items()
    }:
        raise ValueError("the weights are those of another network")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])
