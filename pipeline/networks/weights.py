"""The weights of a network: how they begin, what of them is kept on disk, and how it gets back."""

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


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


@torch.no_grad()
def draw_normal(network: nn.Module) -> None:
    """Draw every kernel from a normal distribution of variance 2 / (inputs of an output), biases 0.

    However deep the network, activations and gradients keep their size from layer to layer (He et al.,
    ICCV 2015, as in DeepMedic, Kamnitsas et al. 2017).
    """
    for module in network.modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        inputs = float(module.weight[0].numel())
        if isinstance(module, _ConvTransposeNd):
            # Its kernels lie the other way round, and of a kernel only every stride-th number meets a voxel.
            reach = module.weight[0, 0].numel() / math.prod(module.stride)
            inputs = module.in_channels // module.groups * max(1.0, reach)
        module.weight.normal_(0, math.sqrt(2 / inputs))
        if module.bias is not None:
            module.bias.zero_()
