"""Batches from the patch table: boxes of volumes, keyed by (seed, step), read ahead by threads."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.networks.base import ANY_SIZE, Form
from pipeline.sampling.boxes import Index, patch_start
from pipeline.training.views import Volume
from pipeline.volumes.geometry import Floats
from pipeline.volumes.store import SUFFIX, StoredCase

KEPT_BYTES = 2**30
"""Volumes that together are no larger than this are decompressed once and kept."""


@dataclass(frozen=True)
class ReadCase:
    """A case in memory, of which boxes are taken as of a stored one."""

    array: Floats
    """(C + 1, Z, Y, X)."""

    @property
    def channels(self) -> int:
        """Of the image."""
        return len(self.array) - 1

    @property
    def shape(self) -> Index:
        """(Z, Y, X)."""
        z, y, x = self.array.shape[1:]
        return z, y, x

    def box(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Floats:
        """Image and label of the voxels from `start` to before `stop`."""
        return self.array[(slice(None), *map(slice, start, stop))]

    def image(self) -> Floats:
        """The whole image (C, Z, Y, X)."""
        return self.array[:-1]

    def label(self) -> NDArray[np.uint8]:
        """The whole label map (Z, Y, X)."""
        label: NDArray[np.uint8] = self.array[-1].astype(np.uint8)
        return label


class PatchReader:
    """Reads batches of patches; which ones depends on seed and step alone.

    Every epoch goes through the table in an order of its own, and comes to a row as often as its weight says.
    A step can be asked for without the ones before it, which is how a resumed training reads on.

    Args:
        table: the patch table, all rows to be learned from.
        volumes: the folder of the volumes, or the volumes themselves by case.
        batch_size: patches a step, of all processes together.
        seed: of the order.
        classes: names of the labels in the order of their classes, background left out.
        form: of the network: what it has to be given for a patch of the table, which may be larger.
        threads: that read ahead, a batch each; what is read does not depend on their number.
        pinned: put batches where a GPU can copy them from while the CPU does other things.
        part: positions of the batch that are read, those of one process of several; None: all.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        volumes: Path | Mapping[str, Volume],
        batch_size: int,
        seed: int,
        classes: Sequence[str] = (),
        form: Form = ANY_SIZE,
        threads: int = 1,
        pinned: bool = False,
        part: range | None = None,
    ) -> None:
        self._cases = table["case"].tolist()
        self._centres = list(zip(*(table[axis].tolist() for axis in "zyx"), strict=True))
        self._weights = table["weight"].to_numpy(float)
        first = table.iloc[0]
        self._output = form.fit([int(first[f"size_{axis}"]) for axis in "zyx"])
        self.margin, self.dims = form.margin, form.dims
        self.size: Index = form.input_size(self._output)
        self._opened: dict[str, Volume] = {
            case: StoredCase(volumes / f"{case}{SUFFIX}") if isinstance(volumes, Path) else volumes[case]
            for case in table["case"].unique()
        }
        self._channels = 1 + max(case.channels for case in self._opened.values())
        voxels = sum(int(np.prod(case.shape)) for case in self._opened.values())
        self._keep = voxels * self._channels * np.dtype(np.float32).itemsize <= KEPT_BYTES
        self.batch_size, self.part = batch_size, range(batch_size) if part is None else part
        self._seed, self._threads, self._pinned = seed, threads, pinned
        self._unknown = np.array([unknown_classes(labels, classes) for labels in table["annotated"]])
        self._order = -1, np.empty(0, int)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of what is read of a batch: (B, C + 1, z, y, x)."""
        return len(self.part), self._channels, *self.size

    def batch(self, step: int) -> Floats:
        """The batch of a step: image channels and label, (B, C + 1, z, y, x)."""
        batch: Floats = torch.empty(self.shape, pin_memory=self._pinned).numpy()
        for row, patch in zip(self._rows(step), batch, strict=True):
            opened = self._open(self._cases[row])
            inner = patch_start(self._centres[row], self._output, opened.shape)
            z, y, x = (first - side for first, side in zip(inner, self.margin, strict=True))
            read_patch(opened, (z, y, x), self.size, patch)
        return batch

    def unknown(self, step: int) -> NDArray[np.bool_] | None:
        """Which classes nobody looked for in the patches of a step, (B, classes + 1); None if in none."""
        if not self._unknown.any():
            return None
        return self._unknown[self._rows(step)]

    def cases(self, step: int) -> list[str]:
        """The cases of the patches of a step, in their order."""
        return [self._cases[row] for row in self._rows(step)]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Floats]]:
        """Steps from `start` to before `stop` with their batches, the next ones being read meanwhile."""
        pool = ThreadPoolExecutor(self._threads)
        try:
            soon = range(start, min(start + self._threads, stop))
            ahead = deque(pool.submit(self.batch, step) for step in soon)
            for step in range(start, stop):
                ready = ahead.popleft().result()
                if step + self._threads < stop:
                    ahead.append(pool.submit(self.batch, step + self._threads))
                yield step, ready
        finally:
            pool.shutdown(cancel_futures=True)

    def _rows(self, step: int) -> list[int]:
        """The rows of the table that are read of a step's batch."""
        return [self._row(step * self.batch_size + offset) for offset in self.part]

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._cases))
        known, order = self._order
        if epoch != known:
            order = epoch_rows(self._weights, np.random.default_rng([self._seed, epoch]))
            # Set as one: another thread may be in another epoch.
            self._order = epoch, order
        return int(order[offset])

    def _open(self, case: str) -> Volume:
        opened = self._opened[case]
        if self._keep and not isinstance(opened, ReadCase):
            opened = ReadCase(opened.box((0, 0, 0), opened.shape))
            self._opened[case] = opened
        return opened


def epoch_rows(weights: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """The rows of an epoch in the order in which they are learned from, as many as there are weights.

    Each comes as often as its weight says against the mean, rounded up or down at random (systematic
    sampling): once where all weigh the same.

    Args:
        weights: of the rows; not all 0.
        generator: the source of randomness, keyed by the epoch.
    """
    order = generator.permutation(len(weights))
    if (weights == weights[0]).all():
        return order
    ends = weights.cumsum() / weights.sum() * len(weights)
    picked = np.searchsorted(ends, np.arange(len(weights)) + generator.random(), side="right")
    # The last end may lie below their number, by rounding.
    return picked.clip(max=len(weights) - 1)[order]


def unknown_classes(annotated: str, classes: Sequence[str]) -> list[bool]:
    """For the background and each class, whether nobody looked for it.

    Args:
        annotated: names of labels with ';' between them, as the case table holds them; empty: all.
        classes: names of the labels in the order of their classes.
    """
    looked_for = set(annotated.split(";"))
    return [False, *(bool(annotated) and name not in looked_for for name in classes)]


def check_taught(organ: str, learned: pd.DataFrame, labels: Iterable[str]) -> None:
    """Refuse a label that nobody looked for in any of the cases that are learned from.

    Where it is unknown, what is called so may be background (the marginal loss): it would be found anywhere.

    Args:
        organ: its name.
        learned: rows of the patch table.
        labels: their names.

    Raises:
        DataError: naming the label.
    """
    annotated = learned["annotated"].unique()
    for label in labels:
        if all(unknown_classes(one, [label])[1] for one in annotated):
            raise DataError(
                f"{organ}: nobody looked for {label} in any of the {learned['case'].nunique()} cases that a "
                "network would learn from, so it would find it anywhere",
                "outline it in more cases, have other folds left out (fold, ensemble or before.folds of "
                f"organs.{organ}.train), or take it out of ingest.labels",
            )


def read_patch(opened: Volume, start: Index, size: Index, out: Floats | None = None) -> Floats:
    """A box (C + 1, z, y, x) of a case, in `out` if given; outside the volume its edge is repeated."""
    low = tuple(max(0, first) for first in start)
    high = tuple(min(n, first + edge) for n, first, edge in zip(opened.shape, start, size, strict=True))
    box = opened.box(low, high)
    patch: Floats = np.empty((len(box), *size), np.float32) if out is None else out
    inner = [slice(one - first, two - first) for one, two, first in zip(low, high, start, strict=True)]
    patch[(slice(None), *inner)] = box
    # Axis by axis: what lies outside on several axes is written again, at last from voxels that are right.
    for axis, part in enumerate(inner, start=1):
        turned = np.moveaxis(patch, axis, 0)
        turned[: part.start] = turned[part.start]
        turned[part.stop :] = turned[part.stop - 1]
    return patch
