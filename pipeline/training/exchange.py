"""What the processes of a training tell each other: sums, and what the first one has.

Each learns from its own part of every batch. What a loss adds up over a batch is added up over the
processes (`whole`): each knows the loss of the whole batch, and its gradient is a part of that of the
whole, so that parts are added and not averaged, however unequal they are. N processes thus do what one
does, but for the order of sums.

With one process every function gives back what it got. Nothing is pickled: what is sent is numbers, or
bytes of JSON and of safetensors.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import HounsfieldError, ParamsError
from pipeline.training.distributed import first, rank, several


@contextmanager
def _contact() -> Iterator[None]:
    """Where processes wait for each other.

    Raises:
        HounsfieldError: one was killed, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo puts the place in its source before what happened, and advice behind it.
        what = str(error).split("] ", 1)[-1].split(". ")[0]
        raise HounsfieldError(
            f"contact with another process of this training was lost ({what})",
            "start it again, it goes on from its last checkpoint; torchrun --max-restarts does so by itself",
        ) from error


class _Whole(torch.autograd.Function):
    """The sum over all processes; its slope is that of this process's part."""

    @staticmethod
    def forward(_context: Any, own: Tensor) -> Tensor:
        return _sum(own)

    @staticmethod
    def backward(_context: Any, *slopes: Tensor) -> Tensor:
        return slopes[0]


class _Shared(_Whole):
    """The sum over all processes, each of which computes something else from it: slopes are added up, too."""

    @staticmethod
    def backward(_context: Any, *slopes: Tensor) -> Tensor:
        return _sum(slopes[0])


def whole(own: Tensor) -> Tensor:
    """What a loss added up over a part of a batch, added up over the whole batch.

    Every process then computes the same from it: each takes the slope of its own part.

    Args:
        own: of this process's part; any shape.
    """
    return _Whole.apply(own) if several() else own  # type: ignore[no-untyped-call]


def shared(own: Tensor) -> Tensor:
    """The same for what is added up inside a network, where it changes what others compute as well."""
    return _Shared.apply(own) if several() else own  # type: ignore[no-untyped-call]


def _sum(own: Tensor) -> Tensor:
    total = own.detach().clone(memory_format=torch.contiguous_format)
    with _contact():
        dist.all_reduce(total)
    return total


def add_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in place.

    All at once after the backward pass, and not by DistributedDataParallel as they come: that one would add
    them before `drop_weights` has taken out what this process dropped, gives every weight another name, and
    needs telling of weights that are unused or frozen. A weight that has none here has none anywhere: what
    a network computes depends on its parameters, not on its patches.
    """
    if not several():
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    total = _sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = torch.split(total, [gradient.numel() for gradient in gradients])
    for gradient, added in zip(gradients, parts, strict=True):
        gradient.copy_(added.view_as(gradient))


def added(numbers: Sequence[float]) -> list[float]:
    """Numbers, each 0 in all processes but one, as that one has them."""
    if not several():
        return list(numbers)
    values: list[float] = _sum(torch.tensor(numbers, dtype=torch.float64)).tolist()
    return values


def any_of(so: bool) -> bool:
    """Whether it is so in any process."""
    return added([float(so)])[0] > 0


def wait() -> None:
    """Until all processes have come here."""
    added([0.0])


def bytes_from_first(content: bytes) -> bytes:
    """What the first process gives, for all."""
    if not several():
        return content
    size = torch.tensor([len(content)])
    with _contact():
        dist.broadcast(size, 0)
        held = torch.empty(int(size), dtype=torch.uint8)
        if first():
            held = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(held, 0)
    return held.numpy().tobytes()


def from_first(content: Any) -> Any:
    """What the first process gives, JSON-like, for all."""
    return json.loads(bytes_from_first(json.dumps(content).encode())) if several() else content


def agree(key: str) -> None:
    """See that all processes train the same.

    Args:
        key: of all that a training is made of.

    Raises:
        ParamsError: this process's is another than the first one's.
    """
    if from_first(key) != key:
        raise ParamsError(
            f"process {rank()} would train something else than process 0",
            "every node needs the same commit, data, parameters, and kind of processor or GPU",
        )
