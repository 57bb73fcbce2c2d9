"""A network over a volume of any size: overlapping windows, blended with Gaussian weights."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.inference.constant_windows import OnceIfConstant
from pipeline.networks.base import Form, Network

OVERLAP = 0.5
"""Of neighbouring windows, where what a network says of a voxel depends on the window it lies in."""


def probabilities(
    network: Network,
    image: Tensor,
    window: Sequence[int],
    classes: int,
    precision: torch.dtype,
    batch_size: int = 4,
    where: Tensor | None = None,
    overlap: float = OVERLAP,
) -> Tensor:
    """Class probabilities of every voxel, (classes, Z, Y, X), float32.

    Args:
        network: in evaluation mode, on the device of the image.
        image: normalised, (C, Z, Y, X).
        window: as of `slabs`, as are those that follow.
        classes: of the network, background included.
        precision: to compute in.
        batch_size: windows at a time.
        where: (Z, Y, X) bool.
        overlap: as of `slabs`.
    """

    def look(windows: Tensor) -> Tensor:
        return softmax(network(windows))

    found = slabs(
        OnceIfConstant(look), network.form, image, window, classes, precision, batch_size, where, overlap
    )
    return joined(found, classes, image)


def joined(parts: Iterable[Tensor], classes: int, image: Tensor) -> Tensor:
    """Slabs as one volume (classes, Z, Y, X), which is all that is held of it.

    Args:
        parts: as `slabs` gives them.
        classes: background included.
        image: that they are of, (C, Z, Y, X), on the device where the volume shall be.
    """
    whole = image.new_empty((classes, *image.shape[1:]), dtype=torch.float32)
    first = 0
    for share in parts:
        whole[:, first : first + share.shape[1]] = share
        first += share.shape[1]
    return whole


@torch.inference_mode()
def slabs(
    look: Callable[[Tensor], Tensor],
    form: Form,
    image: Tensor,
    window: Sequence[int],
    classes: int,
    precision: torch.dtype,
    batch_size: int = 4,
    where: Tensor | None = None,
    overlap: float = OVERLAP,
) -> Iterator[Tensor]:
    """Class probabilities slab by slab from the first plane on, each (classes, planes, Y, X), float32.

    Windows count less towards their edge, where the network has seen less around a voxel (as in
    nnU-Net and MONAI). A volume smaller than a window is padded by repeating its edge. A plane is handed
    on as soon as no window to come reaches it: what is held is as deep as a window, however many planes
    there are.

    Args:
        look: maps windows (B, C, z, y, x) to class probabilities (B, classes, z, y, x).
        form: of the network.
        image: as the network is to see it, (C, Z, Y, X).
        window: (z, y, x) voxels that are labelled at a time; more where the network cannot give so few.
        classes: of the network, background included.
        precision: to compute in.
        batch_size: windows at a time.
        where: (Z, Y, X) bool; elsewhere is background, and windows that lie there are not computed.
        overlap: of neighbouring windows, a share of their edge; none along axes that are complete in the
            form, where it would change nothing.
    """
    window, margin = form.fit(window), form.margin
    shape = image.shape[1:]
    padding = [max(0, edge - n) for edge, n in zip(window, shape, strict=True)]
    before = [pad // 2 for pad in padding]
    sides = [side for pad, first in zip(padding, before, strict=True) for side in (first, pad - first)]
    around = [side + margin[axis // 2] for axis, side in enumerate(sides)]
    # A copy of the volume, which few need.
    padded = functional.pad(image[None], _last_first(around), mode="replicate")[0] if any(around) else image
    weight = _gaussian(window, form.complete).to(image)
    inner = [n + pad for n, pad in zip(shape, padding, strict=True)]
    starts = list(product(*_starts(inner, window, form, overlap)))
    inside = tuple(slice(first, first + n) for first, n in zip(before, shape, strict=True))
    if where is not None:
        wanted = torch.zeros(inner, dtype=torch.bool, device=image.device)
        wanted[inside] = where
        starts = [start for start in starts if wanted[_box(start, window)].any()]
    sums = _Sums(classes, (window[0], *inner[1:]), image)
    for first in range(0, len(starts), batch_size):
        chosen = starts[first : first + batch_size]
        given = [_box(start, form.input_size(window)) for start in chosen]
        batch = torch.stack([padded[(slice(None), *box)] for box in given])
        with torch.autocast(image.device.type, precision, precision != torch.float32):
            shares = look(batch)
        for start, share in zip(chosen, shares, strict=True):
            while sums.first < start[0]:
                yield from _seen(sums.finished(start[0]), inside, where)
            sums.add(start, share, weight)
    while sums.first < inner[0]:
        yield from _seen(sums.finished(inner[0]), inside, where)


def windows(shape: Sequence[int], window: Sequence[int], form: Form, overlap: float = OVERLAP) -> int:
    """How many windows a volume is looked at by.

    Args:
        shape: of the volume, (Z, Y, X).
        window: as of `slabs`, as are those that follow.
        form: of the network.
        overlap: of neighbouring windows, a share of their edge.
    """
    return math.prod(map(len, _starts(shape, form.fit(window), form, overlap)))


def softmax(logits: Tensor) -> Tensor:
    """Class probabilities (B, classes, z, y, x) in float32."""
    return logits.float().softmax(dim=1)


class _Sums:
    """Weighted sums of windows, of as many planes as a window has, and where these are in the volume."""

    def __init__(self, classes: int, planes: tuple[int, ...], like: Tensor) -> None:
        self._shares = like.new_zeros((classes, *planes), dtype=torch.float32)
        self._weights = like.new_zeros(planes, dtype=torch.float32)
        self.first = 0

    def add(self, start: Sequence[int], share: Tensor, weight: Tensor) -> None:
        """Add a window that starts at the first plane held."""
        box = _box((0, *start[1:]), share.shape[1:])
        self._shares[(slice(None), *box)] += share * weight
        self._weights[box] += weight

    def finished(self, stop: int) -> tuple[int, Tensor]:
        """The first plane held, and the shares of all before `stop`, which are held no more."""
        first, count = self.first, min(stop - self.first, len(self._weights))
        done, left = slice(0, count), len(self._weights) - count
        # Where no window was computed the weight is 0.
        least = torch.finfo(self._weights.dtype).tiny
        share = self._shares[:, done] / self._weights[done].clamp_min(least)
        for sums in (self._shares, self._weights[None]):
            sums[:, :left] = sums[:, count:].clone()
            sums[:, left:] = 0
        self.first += count
        return first, share


def _seen(finished: tuple[int, Tensor], inside: tuple[slice, ...], where: Tensor | None) -> Iterator[Tensor]:
    """Of finished planes those of the image, background where nothing is wanted; none of padding alone."""
    first, share = finished
    low, high = max(first, inside[0].start), min(first + share.shape[1], inside[0].stop)
    if low >= high:
        return
    share = share[:, low - first : high - first, inside[1], inside[2]]
    if where is None:
        yield share
        return
    background = functional.one_hot(torch.tensor(0), len(share)).to(share)[:, None, None, None]
    planes = slice(low - inside[0].start, high - inside[0].start)
    yield torch.where(where[planes], share, background)


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + edge) for first, edge in zip(start, size, strict=True))


def _starts(shape: Sequence[int], window: Sequence[int], form: Form, overlap: float) -> Iterator[list[int]]:
    """Where windows begin along each axis."""
    for length, edge, complete in zip(shape, window, form.complete, strict=True):
        yield _along(length, edge, 0 if complete else overlap)


def _along(length: int, edge: int, overlap: float) -> list[int]:
    """Where windows begin along an axis, evenly apart, the last one ending with the volume."""
    if length <= edge:
        return [0]
    count = 1 + -(-(length - edge) // max(1, int(edge * (1 - overlap))))
    return [round(index * (length - edge) / (count - 1)) for index in range(count)]


def _gaussian(window: Sequence[int], complete: Sequence[bool]) -> Tensor:
    """Weights (z, y, x), 1 in the middle, a deviation of an eighth of the edge, never zero.

    They do not fall along complete axes, where no window knows a voxel better than another.
    """
    weight = torch.ones(1)
    for edge, whole in zip(window, complete, strict=True):
        offset = (torch.arange(edge) - (edge - 1) / 2) / (edge / 8)
        along = torch.ones(edge) if whole else (-0.5 * offset**2).exp()
        weight = weight[..., None] * along
    return weight[0].clamp_min(1e-4)


def _last_first(sides: list[int]) -> list[int]:
    """Padding in the order of `torch.nn.functional.pad`: the last axis first."""
    return [side for axis in (2, 1, 0) for side in sides[2 * axis : 2 * axis + 2]]
