"""The training loop, from top to bottom.

A step is a function of the state before it and of (seed, step): the batch and the augmentation are
drawn from generators keyed by these two, so a training that goes on from a checkpoint ends with the
weights of one that was never stopped, bit for bit on a CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augmentation.policy import apply, draw
from pipeline.errors import DataError
from pipeline.losses.dice_cross_entropy import dice_cross_entropy
from pipeline.params import AugmentParams, TrainParams
from pipeline.progress import bar, console
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.data import PatchReader
from pipeline.training.normalisation import normalise
from pipeline.volumes.geometry import Floats

Curve = list[dict[str, Any]]
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Setting:
    """All a training needs apart from its network and its patches."""

    params: TrainParams
    augment: AugmentParams
    steps: int
    spacing: tuple[float, ...]
    normalisation: list[dict[str, Any]]
    device: torch.device
    precision: torch.dtype
    checkpoints: Path
    """Folder of this very training's checkpoints."""


def train(
    network: nn.Module, reader: PatchReader, watch: Callable[[nn.Module], float], setting: Setting
) -> tuple[dict[str, Tensor], Curve]:
    """Train `network`, going on from the last checkpoint if there is one.

    Args:
        network: with its initial weights, on the device.
        reader: of the patches to learn from.
        watch: gives the Dice of a network on the watched fold.
        setting: everything else.

    Returns:
        The moving average of the weights, and the learning curve: rows of step, loss (mean since the
        row before) and dice (of the watched fold).

    Raises:
        DataError: the loss is no number any more.
    """
    params, steps = setting.params, setting.steps
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
    )
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    start, curve, losses = _resume(network, optimizer, average, setting.checkpoints)
    looks = max(1, steps // 10) if params.validate_every == "auto" else params.validate_every

    with bar() as progress:
        task = progress.add_task("train", total=steps, completed=start)
        for step, batch in reader.batches(start, steps):
            losses.append(_learn(network, optimizer, batch, reader.unknown(step), step, setting))
            _update_average(average, network, params.ema_decay, step)
            done = step + 1
            if done % looks == 0 or done == steps:
                dice = _with_weights(network, average, watch)
                curve.append({"step": done, "loss": float(np.mean(losses)), "dice": dice})
                losses.clear()
                progress.console.print(f"step {done}: loss {curve[-1]['loss']:.3f}, Dice {dice:.3f}")
            if done % params.checkpoint_every == 0 or done == steps:
                record = {"curve": curve, "losses": losses}
                save_checkpoint(
                    setting.checkpoints, Checkpoint(done, _tensors(network, optimizer, average), record)
                )
            progress.update(task, completed=done)
    return average, curve


def _learn(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Floats,
    unknown: NDArray[np.bool_] | None,
    step: int,
    setting: Setting,
) -> float:
    """One step: augment, forward, backward, update; returns the loss."""
    params = setting.params
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(params, step, setting.steps)
    image, label = _augmented(batch, step, setting)
    with torch.autocast(setting.device.type, setting.precision, setting.precision != torch.float32):
        logits = network(image)
    ignored = None if unknown is None else torch.from_numpy(unknown)
    loss = dice_cross_entropy(logits, label, params.loss, ignored)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise DataError(f"the loss is {value} at step {step + 1}", "lower train.learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), params.gradient_clip)
    optimizer.step()
    return value


def learning_rate(params: TrainParams, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    warmup = max(1, round(params.warmup_share * steps))
    if step < warmup:
        return params.learning_rate * (step + 1) / warmup
    return params.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _augmented(batch: Floats, step: int, setting: Setting) -> tuple[Tensor, Tensor]:
    """The batch of a step on the device: normalised image (B, C, Z, Y, X) and label (B, Z, Y, X)."""
    both = torch.from_numpy(batch).to(setting.device)
    image = normalise(both[:, :-1], setting.normalisation)
    label = both[:, -1].long()
    b, c, z, y, x = image.shape
    generator = torch.Generator().manual_seed(
        int(np.random.default_rng([setting.params.seed, step]).integers(2**62))
    )
    drawn = draw(setting.augment, (b, c, z, y, x), setting.spacing, generator)
    image, label = apply(image, label, drawn)
    return image, label


def _update_average(average: dict[str, Tensor], network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average; the decay grows in at first, so that the start is forgotten soon."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, current in network.named_parameters():
            average[name].lerp_(current, weight)


def _with_weights(
    network: nn.Module, weights: dict[str, Tensor], watch: Callable[[nn.Module], float]
) -> float:
    """What `watch` says of the network with other weights, which are taken back afterwards."""
    own = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    load_weights(network, weights)
    dice = watch(network.eval())
    load_weights(network.train(), own)
    return dice


def load_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy `weights` into the parameters of `network`, which keep their memory layout."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weights[name])


def _tensors(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Everything a training goes on from, by name."""
    tensors = {f"average/{name}": value for name, value in average.items()}
    for name, parameter in network.named_parameters():
        tensors[f"weight/{name}"] = parameter
        for key in ADAM_STATE:
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key]
    return tensors


def _resume(
    network: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], folder: Path
) -> tuple[int, Curve, list[float]]:
    """Bring everything to the state of the last checkpoint; steps done, curve, losses since its last row."""
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return 0, [], []
    tensors = checkpoint.tensors
    load_weights(network, {name: tensors[f"weight/{name}"] for name in average})
    for name, parameter in network.named_parameters():
        average[name].copy_(tensors[f"average/{name}"])
        # The layout of the weights matters to the last bit of the update.
        optimizer.state[parameter] = {
            key: tensors[f"{key}/{name}"].to(parameter.device)
            if key == "step"
            else torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"])
            for key in ADAM_STATE
        }
    console.print(f"going on from step {checkpoint.step}")
    return checkpoint.step, checkpoint.record["curve"], checkpoint.record["losses"]
