"""The state of a training: what is saved of it, and how it is brought back."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.base import Network
from pipeline.networks.weights import load_weights, stored
from pipeline.progress import console
from pipeline.training.checkpoint import common_checkpoint

Curve = list[dict[str, Any]]
"""The learning curve: rows of step, loss and dice."""
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


def learning(network: Network) -> dict[str, nn.Parameter]:
    """The weights that are not frozen."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def tensors_of(
    network: Network, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Everything a training goes on from, by name."""
    tensors = {f"average/{name}": value for name, value in average.items()}
    tensors |= {f"weight/{name}": tensor for name, tensor in stored(network).items()}
    for name, parameter in learning(network).items():
        # Of a weight that no loss reaches there is none: an output is passed over where slices are judged.
        state = optimizer.state.get(parameter, {})
        tensors |= {f"{key}/{name}": state[key] for key in ADAM_STATE if key in state}
    return tensors


def resume(
    network: Network, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], folder: Path
) -> tuple[int, Curve, list[float]]:
    """Bring everything to the state of the last checkpoint; steps done, curve, losses since its last row."""
    checkpoint = common_checkpoint(folder)
    if checkpoint is None:
        return 0, [], []
    tensors = checkpoint.tensors
    load_weights(network, {name: tensors[f"weight/{name}"] for name in average})
    for name, moved in average.items():
        moved.copy_(tensors[f"average/{name}"])
    for name, parameter in learning(network).items():
        if f"{ADAM_STATE[0]}/{name}" not in tensors:
            continue
        # The layout of the weights matters to the last bit of the update.
        optimizer.state[parameter] = {
            key: tensors[f"{key}/{name}"].to(parameter.device)
            if key == "step"
            else torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"])
            for key in ADAM_STATE
        }
    console.print(f"going on from step {checkpoint.step}")
    return checkpoint.step, checkpoint.record["curve"], checkpoint.record["losses"]
