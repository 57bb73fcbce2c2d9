"""The training loop, from top to bottom.

A step is a function of the state before it and of (seed, step): the batch and the augmentation are
drawn from generators keyed by these two, so a training that goes on from a checkpoint ends with the
weights of one that was never stopped, bit for bit on a CPU.

On a GPU the CPU only launches: nothing in a step waits for its result, and losses are looked at some
steps later.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.losses.supervised import supervised_loss
from pipeline.networks.base import Network
from pipeline.networks.weights import load_weights, stored
from pipeline.params import TrainParams
from pipeline.progress import bar, console
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.training.data import PatchReader
from pipeline.training.feed import Batch, feed
from pipeline.training.gpu import Replayed, compiled, prepare
from pipeline.training.regularisation import drop_outputs, drop_weights, kernels
from pipeline.training.setting import Setting

Curve = list[dict[str, Any]]
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")
READ_EVERY = 50
"""Steps between two looks at the losses on a GPU; each waits until the GPU has caught up."""
CHECKPOINT_STEPS, CHECKPOINT_SECONDS = 200, 60.0
"""Between checkpoints, where the parameters leave it open: steps, and on a GPU at least the seconds."""


def train(
    network: Network, reader: PatchReader, watch: Callable[[Network], float], setting: Setting
) -> tuple[dict[str, Tensor], Curve]:
    """Train `network`, going on from the last checkpoint if there is one.

    Args:
        network: with its initial weights, on the device.
        reader: of the patches to learn from.
        watch: gives the Dice of a network on the watched fold.
        setting: everything else.

    Returns:
        The moving average of the weights (and of what normalisation has counted), and the learning
        curve: rows of step, loss (mean since the row before) and dice (of the watched fold).

    Raises:
        DataError: the loss is no number any more.
    """
    params, steps = setting.params, setting.steps
    if setting.on_gpu:
        # Of all algorithms of a convolution the fastest for these shapes.
        torch.backends.cudnn.benchmark = True
        prepare(network)
    drop_outputs(network, params.dropout)
    optimizer = _optimizer(network, setting)
    average = {name: tensor.detach().clone() for name, tensor in stored(network).items()}
    start, curve, losses = _resume(network, optimizer, average, setting.checkpoints)
    learn = _learner(network, optimizer, average, setting)
    looks = max(1, steps // 10) if params.validate_every == "auto" else params.validate_every
    unread: list[Tensor] = []
    saved = time.monotonic()

    with bar() as progress:
        task = progress.add_task("train", total=steps, completed=start)
        for step, batch in feed(reader, setting, start):
            unread.append(learn(batch, step))
            done = step + 1
            look = done % looks == 0 or done == steps
            keep = done == steps or _checkpoint_is_due(done, saved, setting)
            if look or keep or len(unread) >= (READ_EVERY if setting.on_gpu else 1):
                losses += _read(unread, done)
                unread.clear()
            if look:
                dice = _with_weights(network, average, watch)
                curve.append({"step": done, "loss": float(np.mean(losses)), "dice": dice})
                losses.clear()
                progress.console.print(f"step {done}: loss {curve[-1]['loss']:.3f}, Dice {dice:.3f}")
            if keep:
                record = {"curve": curve, "losses": losses}
                save_checkpoint(
                    setting.checkpoints, Checkpoint(done, _tensors(network, optimizer, average), record)
                )
                saved = time.monotonic()
            progress.update(task, completed=done)
    return average, curve


def _optimizer(network: Network, setting: Setting) -> torch.optim.AdamW:
    """AdamW in one kernel; on a GPU its learning rate is a tensor, which a recorded step reads anew."""
    rate = highest(setting.params)
    return torch.optim.AdamW(
        _learning(network).values(),
        lr=torch.tensor(rate, device=setting.device) if setting.on_gpu else rate,
        weight_decay=setting.params.weight_decay,
        fused=True,
        capturable=setting.on_gpu,
    )


def _learning(network: Network) -> dict[str, nn.Parameter]:
    """The weights that are not frozen."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def _learner(
    network: Network, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], setting: Setting
) -> Callable[[Batch, int], Tensor]:
    """A function that learns from the batch of a step and returns its loss, a tensor on the device."""
    params = setting.params
    tensors = stored(network)
    averages, own = [average[name] for name in tensors], list(tensors.values())
    parameters, connections = list(_learning(network).values()), kernels(network)
    weight = torch.zeros((), device=setting.device)

    def loss_of(image: Tensor, label: Tensor, unknown: Tensor | None, boundary: Tensor | None) -> Tensor:
        with torch.autocast(setting.device.type, setting.precision, setting.precision != torch.float32):
            given = network(image)
        return supervised_loss(given, network.form.outputs, label, params.loss, unknown, boundary)

    loss_function = compiled(loss_of) if setting.on_gpu else loss_of

    def update(image: Tensor, label: Tensor, *more: Tensor) -> Tensor:
        # Classes nobody looked for are a matrix of bool, weights a volume of float.
        unknown = next((tensor for tensor in more if tensor.dtype == torch.bool), None)
        boundary = next((tensor for tensor in more if tensor.dtype != torch.bool), None)
        optimizer.zero_grad(set_to_none=True)
        with drop_weights(connections, params.drop_connect):
            loss = loss_function(image, label, unknown, boundary)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, params.gradient_clip)
        optimizer.step()
        _move(averages, own, weight)
        return loss.detach()

    once = Replayed(update) if setting.on_gpu else update

    def learn(batch: Batch, step: int) -> Tensor:
        rate = learning_rate(params, step, setting.steps)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        # The decay grows in at first, so that the start is forgotten soon.
        weight.fill_(1 - min(params.ema_decay, (1 + step) / (10 + step)))
        # What a network draws (dropout) depends on seed and step, too.
        torch.manual_seed(int(np.random.default_rng([params.seed, step]).integers(2**62)))
        return once(*batch.tensors)

    return learn


@torch.no_grad()
def _move(averages: list[Tensor], weights: list[Tensor], share: Tensor) -> None:
    """Exponential moving average, in place: each moves by `share` of the way to its weight."""
    if share.is_cuda:
        way = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(way, share)
        torch._foreach_add_(averages, way)
    else:
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, float(share))


def _checkpoint_is_due(done: int, saved: float, setting: Setting) -> bool:
    """Whether to save after `done` steps; on a GPU, 200 steps may take no longer than saving does."""
    every = setting.params.checkpoint_every
    if every != "auto":
        return done % every == 0
    if done % CHECKPOINT_STEPS:
        return False
    return not setting.on_gpu or time.monotonic() - saved > CHECKPOINT_SECONDS


def _read(losses: list[Tensor], done: int) -> list[float]:
    """The losses of the steps up to `done`.

    Raises:
        DataError: one is no number.
    """
    values: list[float] = torch.stack(losses).tolist()
    for step, value in enumerate(values, start=done - len(values) + 1):
        if not math.isfinite(value):
            raise DataError(f"the loss is {value} at step {step}", "lower train.learning_rate")
    return values


def learning_rate(params: TrainParams, step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov & Hutter 2017)."""
    warmup = max(1, round(params.warmup_share * steps))
    if step < warmup:
        return highest(params) * (step + 1) / warmup
    return highest(params) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def highest(params: TrainParams) -> float:
    """The learning rate of `params`, in which the profile's has been filled in."""
    assert params.learning_rate != "auto"
    return params.learning_rate


def _with_weights(network: Network, weights: dict[str, Tensor], watch: Callable[[Network], float]) -> float:
    """What `watch` says of the network with other weights, which are taken back afterwards."""
    own = {name: tensor.detach().clone() for name, tensor in stored(network).items()}
    load_weights(network, weights)
    dice = watch(network.eval())
    load_weights(network.train(), own)
    return dice


def _tensors(
    network: Network, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Everything a training goes on from, by name."""
    tensors = {f"average/{name}": value for name, value in average.items()}
    tensors |= {f"weight/{name}": tensor for name, tensor in stored(network).items()}
    for name, parameter in _learning(network).items():
        for key in ADAM_STATE:
            tensors[f"{key}/{name}"] = optimizer.state[parameter][key]
    return tensors


def _resume(
    network: Network, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], folder: Path
) -> tuple[int, Curve, list[float]]:
    """Bring everything to the state of the last checkpoint; steps done, curve, losses since its last row."""
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return 0, [], []
    tensors = checkpoint.tensors
    load_weights(network, {name: tensors[f"weight/{name}"] for name in average})
    for name, moved in average.items():
        moved.copy_(tensors[f"average/{name}"])
    for name, parameter in _learning(network).items():
        # The layout of the weights matters to the last bit of the update.
        optimizer.state[parameter] = {
            key: tensors[f"{key}/{name}"].to(parameter.device)
            if key == "step"
            else torch.empty_like(parameter).copy_(tensors[f"{key}/{name}"])
            for key in ADAM_STATE
        }
    console.print(f"going on from step {checkpoint.step}")
    return checkpoint.step, checkpoint.record["curve"], checkpoint.record["losses"]
