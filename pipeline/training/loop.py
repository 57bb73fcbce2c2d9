"""The training loop, from top to bottom.

A step is a function of the state before it and of (seed, step): the batch and the augmentation are
drawn from generators keyed by these two, so a training that goes on from a checkpoint ends with the
weights of one that was never stopped, bit for bit on a CPU.

On a GPU the CPU only launches: nothing in a step waits for its result, and losses are looked at some
steps later.

Several processes go through the same steps, each with its part of every batch; all end up with the same
weights, and the first one saves them (`distributed`).
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.losses.supervised import supervised_loss
from pipeline.networks.base import Network
from pipeline.networks.channels_last import prepare
from pipeline.networks.weights import load_weights, stored
from pipeline.progress import bar, console
from pipeline.training.batch_statistics import share_statistics
from pipeline.training.checkpoint import Checkpoint, save_checkpoint
from pipeline.training.data import PatchReader
from pipeline.training.distributed import first, rank, several
from pipeline.training.exchange import add_gradients, wait
from pipeline.training.feed import Batch, feed
from pipeline.training.gpu import Replayed, compiled
from pipeline.training.interruption import end_requests
from pipeline.training.micro_batches import MicroBatches, gradient
from pipeline.training.regularisation import drop_outputs, drop_weights, kernels
from pipeline.training.schedule import Schedule, highest
from pipeline.training.setting import Setting
from pipeline.training.state import Curve, learning, resume, tensors_of
from pipeline.training.trouble import Watchman, check_collapse

READ_EVERY = 50
"""Steps between two looks at the losses on a GPU; each waits until the GPU has caught up."""
CHECKPOINT_STEPS, CHECKPOINT_SECONDS, AT_MOST_SECONDS = 200, 60.0, 300.0
"""Between checkpoints that parameters leave open: steps; seconds, on a GPU at least, anywhere at most."""


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
        DataError: the loss is no number any more, or the Dice has collapsed.
        ResourceError: memory does not suffice.
        Unfinished: this process was asked to end, or the disk is full; what it had learned before is saved.
        HounsfieldError: contact with another process was lost.
    """
    params, steps = setting.params, setting.steps
    if setting.on_gpu:
        # Of all algorithms of a convolution the fastest for these shapes.
        torch.backends.cudnn.benchmark = True
    prepare(network)
    drop_outputs(network, params.dropout)
    share_statistics(network)
    optimizer = _optimizer(network, setting)
    average = {name: tensor.detach().clone() for name, tensor in stored(network).items()}
    start, curve, losses = resume(network, optimizer, average, setting.checkpoints)
    schedule = Schedule(params, steps, curve)
    watchman = Watchman(network, reader, setting, schedule)
    learn = _learner(network, optimizer, average, setting, reader.shape[0])
    unread: list[Tensor] = []
    saved = time.monotonic()

    def look_at(done: int) -> None:
        dice = request.look(network, lambda: _with_weights(network, average, watch))
        if dice is None:
            return
        curve.append({"step": done, "loss": float(np.mean(losses)), "dice": dice})
        losses.clear()
        console.print(f"step {done}: loss {curve[-1]['loss']:.3f}, Dice {dice:.3f}")
        check_collapse(curve)
        if schedule.plateau == done:
            console.print(f"the learning rate falls to zero until step {schedule.end}: {schedule.why()}")

    with bar() as progress, end_requests() as request:
        task = progress.add_task("train", total=schedule.end, completed=start)
        if start and schedule.is_look(start) and (not curve or curve[-1]["step"] < start):
            # It was asked to end while it looked.
            look_at(start)
            if request.agreed():
                raise request.told(start)
        for step, batch in feed(reader, setting, start):
            if step == schedule.end:
                break
            unread.append(learn(batch, step, schedule.rate(step)))
            done = step + 1
            ending, look = request.agreed(), schedule.is_look(done)
            keep = done == schedule.end or _checkpoint_is_due(done, saved, setting)
            if look or keep or ending or len(unread) >= (READ_EVERY if setting.on_gpu else 1):
                losses += watchman.losses(unread, done)
                unread.clear()
            if look and not ending:
                look_at(done)
                ending = request.agreed()
            if keep or ending:
                tensors = watchman.finite(tensors_of(network, optimizer, average), done)
                record = {"curve": curve, "losses": losses}
                if first():
                    save_checkpoint(setting.checkpoints, Checkpoint(done, tensors, record))
                saved = time.monotonic()
            if ending:
                # The first to end ends all: not before it is saved.
                wait()
                raise request.told(done)
            progress.update(task, total=schedule.end, completed=done)
    if schedule.end < steps:
        console.print(f"done at step {schedule.end} of {steps}: {schedule.why()}")
    return average, curve


def _optimizer(network: Network, setting: Setting) -> torch.optim.AdamW:
    """AdamW in one kernel; on a GPU its learning rate is a tensor, which a recorded step reads anew."""
    rate = highest(setting.params)
    return torch.optim.AdamW(
        learning(network).values(),
        lr=torch.tensor(rate, device=setting.device) if setting.on_gpu else rate,
        weight_decay=setting.params.weight_decay,
        fused=True,
        capturable=setting.on_gpu,
    )


def _learner(
    network: Network,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
    setting: Setting,
    batch_size: int,
) -> Callable[[Batch, int, float], Tensor]:
    """A function that learns from the batch of a step, at a rate.

    It returns the loss and the norm of its gradient, (2,), a tensor on the device. A step whose gradient is
    not finite leaves the weights as they were.
    """
    params, micro = setting.params, MicroBatches(network, batch_size, setting.params)
    tensors = stored(network)
    averages, own = [average[name] for name in tensors], list(tensors.values())
    parameters, connections = list(learning(network).values()), kernels(network)
    weight = torch.zeros((), device=setting.device)
    loss_of = _loss_of(network, setting)
    loss_function = compiled(loss_of) if setting.on_gpu else loss_of
    in_parts = partial(loss_of, outputs=micro.outputs)

    def update(image: Tensor, label: Tensor, *more: Tensor) -> Tensor:
        # Classes nobody looked for are a matrix of bool, weights a volume of float.
        unknown = next((tensor for tensor in more if tensor.dtype == torch.bool), None)
        boundary = next((tensor for tensor in more if tensor.dtype != torch.bool), None)
        optimizer.zero_grad(set_to_none=True)
        with gradient(), drop_weights(connections, params.drop_connect):
            loss = (loss_function if micro.whole else in_parts)(image, label, unknown, boundary)
            loss.backward()  # type: ignore[no-untyped-call]
        add_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, params.gradient_clip)
        # As a GradScaler tells it: the kernel passes such a step over, and nobody waits for the answer.
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        _move(averages, own, weight)
        return torch.stack([loss.detach(), norm])

    # Kernels of a step that does not fit at once take long: launching them one by one costs nothing. And what
    # is replayed is watched by nobody: if another process died, this one would wait for ever.
    recorded = Replayed(update) if setting.on_gpu and not several() else update

    def learn(batch: Batch, step: int, rate: float) -> Tensor:
        _set_rate(optimizer, rate)
        # The decay grows in at first, so that the start is forgotten soon.
        weight.fill_(1 - min(params.ema_decay, (1 + step) / (10 + step)))
        # What a network draws (dropout) depends on seed and step, too, and is another for every process;
        # to NumPy a 0 at the end is none, so that the first one draws what it would draw alone.
        seed = int(np.random.default_rng([params.seed, step, rank()]).integers(2**62))

        def once() -> Tensor:
            torch.manual_seed(seed)
            return (recorded if micro.whole else update)(*batch.tensors)

        return micro.fitting(once)

    return learn


def _loss_of(network: Network, setting: Setting) -> Callable[..., Tensor]:
    """The loss of a batch, by what the network says of it, or by what `outputs` gives in its place."""

    def loss_of(
        image: Tensor,
        label: Tensor,
        unknown: Tensor | None,
        boundary: Tensor | None,
        outputs: Callable[[Tensor], Any] = network,
    ) -> Tensor:
        with torch.autocast(setting.device.type, setting.precision, setting.precision != torch.float32):
            given = outputs(image)
        return supervised_loss(given, network.form.outputs, label, setting.params.loss, unknown, boundary)

    return loss_of


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


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
    """Whether to save after `done` steps, the last time having been at `saved`.

    On a GPU 200 steps may take no longer than saving does; where patches are large for the machine, they take
    so long that a crash would cost too much.
    """
    every, since = setting.params.checkpoint_every, time.monotonic() - saved
    if every != "auto":
        return done % every == 0
    if done % CHECKPOINT_STEPS:
        return since > AT_MOST_SECONDS
    return not setting.on_gpu or since > CHECKPOINT_SECONDS


def _with_weights(network: Network, weights: dict[str, Tensor], watch: Callable[[Network], float]) -> float:
    """What `watch` says of the network with other weights, which are taken back afterwards."""
    own = {name: tensor.detach().clone() for name, tensor in stored(network).items()}
    load_weights(network, weights)
    try:
        return watch(network.eval())
    finally:
        load_weights(network.train(), own)
