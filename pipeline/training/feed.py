"""Augmented batches on the device, step by step; on a GPU one is made while another is learned from."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from pipeline.augmentation.intensity import noise_values
from pipeline.augmentation.policy import Draw, apply, draw
from pipeline.losses.boundary import boundary_weights
from pipeline.training.data import PatchReader
from pipeline.training.gpu import compiled
from pipeline.training.normalisation import normalise
from pipeline.training.setting import Setting

DRAWN_AT_ONCE = 32
"""Steps whose augmentation is drawn together: drawing costs as much for one as for all of them."""
IN_FLIGHT = 3
"""Steps that may wait for a GPU; more would only hold memory."""


@dataclass(frozen=True)
class Batch:
    """What one step learns from, on the device."""

    image: Tensor
    """Normalised and augmented, (B, C, Z, Y, X)."""
    label: Tensor
    """(B, Z, Y, X), class indices, int64."""
    unknown: Tensor | None
    """(B, classes) bool, classes that nobody looked for; None if there are none in any case."""
    boundary: Tensor | None = None
    """(B, Z, Y, X), what voxels between two objects weigh more; None: nothing."""

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are there."""
        there = self.image, self.label, self.unknown, self.boundary
        return [tensor for tensor in there if tensor is not None]


class Draws:
    """The augmentation of each step: that of `DRAWN_AT_ONCE` steps is keyed by the seed and their number."""

    def __init__(self, setting: Setting, reader: PatchReader) -> None:
        self._setting, self._batch_size, self._part = setting, reader.batch_size, reader.part
        # Of the whole batch: what is drawn for a patch does not depend on how many processes share it.
        self._shape = (reader.batch_size * DRAWN_AT_ONCE, *reader.shape[1:])
        self._number, self._drawn = -1, cast(Draw, None)

    def of(self, step: int) -> Draw:
        """That of a step, on the device."""
        number, offset = divmod(step, DRAWN_AT_ONCE)
        if number != self._number:
            self._number, self._drawn = number, self._draw(number)
        return self._drawn.elements(offset * self._batch_size + self._part.start, len(self._part))

    def _draw(self, number: int) -> Draw:
        setting = self._setting
        seed = int(np.random.default_rng([setting.params.seed, number]).integers(2**62))
        drawn = draw(setting.augment, self._shape, setting.spacing, torch.Generator().manual_seed(seed))
        if not setting.on_gpu:
            return drawn
        return drawn.each(lambda tensor: tensor.pin_memory().to(setting.device, non_blocking=True))


def feed(reader: PatchReader, setting: Setting, start: int) -> Iterator[tuple[int, Batch]]:
    """The steps from `start` on with their batches."""
    draws = Draws(setting, reader)
    noise = noise_values(setting.device)

    def augmented(both: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
        image = normalise(both[:, :-1], setting.normalisation)
        image, label = apply(image, both[:, -1].long(), drawn, noise, whole=setting.on_gpu)
        return image, inside(label, reader.margin)

    augment = compiled(augmented) if setting.on_gpu else augmented

    def make(step: int, both: Tensor) -> Batch:
        image, label = augment(both.to(setting.device, non_blocking=True), draws.of(step))
        unknown = reader.unknown(step)
        known = None if unknown is None else torch.from_numpy(unknown).to(setting.device)
        return Batch(image, label, known, _between(label, setting, reader.dims))

    read = ((step, torch.from_numpy(batch)) for step, batch in reader.batches(start, setting.steps))
    if setting.on_gpu:
        yield from _overlapped(read, make)
    else:
        for step, both in read:
            yield step, make(step, both)


def _between(label: Tensor, setting: Setting, dims: Literal[2, 3]) -> Tensor | None:
    """What voxels between objects weigh more, of labels as they lie after augmentation.

    Distances are a matter for the CPU: on a GPU the labels come back for them, which costs, and is done only
    where such weights are asked for.
    """
    params = setting.params.loss.boundary_weights
    if not params.w0:
        return None
    patches = label.cpu().numpy()
    weights = np.stack([boundary_weights(patch, setting.spacing, params, dims) for patch in patches])
    return torch.from_numpy(weights).to(setting.device)


def inside(volume: Tensor, margin: Sequence[int]) -> Tensor:
    """A volume (..., Z, Y, X) without `margin` voxels at each side of each axis."""
    z, y, x = (slice(side, edge - side) for side, edge in zip(margin, volume.shape[-3:], strict=True))
    return volume[..., z, y, x]


def _overlapped(
    read: Iterator[tuple[int, Tensor]], make: Callable[[int, Tensor], Batch]
) -> Iterator[tuple[int, Batch]]:
    """Batches made on a stream of their own, one ahead of the step that is asked for."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    made: deque[tuple[int, Tensor, Batch, torch.cuda.Event]] = deque()
    used: deque[tuple[Tensor, torch.cuda.Event]] = deque()
    for following in _and_none(read):
        if following is not None:
            with torch.cuda.stream(side):
                made.append((*following, make(*following), side.record_event()))
            if len(made) == 1:
                continue
        if not made:
            return
        step, both, batch, ready = made.popleft()
        stream = torch.cuda.current_stream()
        stream.wait_event(ready)
        for tensor in batch.tensors:
            tensor.record_stream(stream)
        yield step, batch
        # What was read must stay until it has been copied, and the CPU must not run far ahead.
        used.append((both, stream.record_event()))
        if len(used) > IN_FLIGHT:
            used.popleft()[1].synchronize()


def _and_none(read: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor] | None]:
    yield from read
    yield None
