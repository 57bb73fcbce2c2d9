"""Batches from the patch table: boxes of volumes, keyed by (seed, step), read ahead by one thread."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.sampling.boxes import Index, patch_start
from pipeline.volumes.geometry import Floats
from pipeline.volumes.store import SUFFIX, StoredCase


class PatchReader:
    """Reads batches of patches; which ones depends on seed and step alone.

    Every epoch goes through the table in an order of its own. A step can be asked for without the
    ones before it, which is how a resumed training reads on.

    Args:
        table: the patch table, all rows to be learned from.
        volumes: the folder of the volumes.
        batch_size: patches a step.
        seed: of the order.
        classes: names of the labels in the order of their classes, background left out.
    """

    def __init__(
        self, table: pd.DataFrame, volumes: Path, batch_size: int, seed: int, classes: Sequence[str] = ()
    ) -> None:
        self._cases = table["case"].tolist()
        self._centres = list(zip(*(table[axis].tolist() for axis in "zyx"), strict=True))
        first = table.iloc[0]
        self.size: Index = int(first["size_z"]), int(first["size_y"]), int(first["size_x"])
        self._stored = {case: StoredCase(volumes / f"{case}{SUFFIX}") for case in table["case"].unique()}
        self._batch_size, self._seed = batch_size, seed
        self._unknown = np.array([unknown_classes(labels, classes) for labels in table["annotated"]])
        self._epoch, self._order = -1, np.empty(0, int)

    def batch(self, step: int) -> Floats:
        """The batch of a step: image channels and label, (B, C + 1, z, y, x)."""
        first = step * self._batch_size
        return np.stack([self._patch(self._row(first + offset)) for offset in range(self._batch_size)])

    def unknown(self, step: int) -> NDArray[np.bool_] | None:
        """Which classes nobody looked for in the patches of a step, (B, classes + 1); None if in none."""
        if not self._unknown.any():
            return None
        first = step * self._batch_size
        return self._unknown[[self._row(first + offset) for offset in range(self._batch_size)]]

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Floats]]:
        """Steps from `start` to before `stop` with their batches, the next one being read meanwhile."""
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(self.batch, start) if start < stop else None
            for step in range(start, stop):
                assert ahead is not None
                ready = ahead.result()
                if step + 1 < stop:
                    ahead = thread.submit(self.batch, step + 1)
                yield step, ready

    def _row(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._cases))
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._cases))
            self._epoch = epoch
        return int(self._order[offset])

    def _patch(self, row: int) -> Floats:
        stored = self._stored[self._cases[row]]
        return read_patch(stored, patch_start(self._centres[row], self.size, stored.shape), self.size)


def unknown_classes(annotated: str, classes: Sequence[str]) -> list[bool]:
    """For the background and each class, whether nobody looked for it.

    Args:
        annotated: names of labels with ';' between them, as the case table holds them; empty: all.
        classes: names of the labels in the order of their classes.
    """
    looked_for = set(annotated.split(";"))
    return [False, *(bool(annotated) and name not in looked_for for name in classes)]


def read_patch(stored: StoredCase, start: Index, size: Index) -> Floats:
    """A box (C + 1, z, y, x) of a stored case; outside the volume its edge is repeated."""
    low = tuple(max(0, first) for first in start)
    high = tuple(min(n, first + edge) for n, first, edge in zip(stored.shape, start, size, strict=True))
    box = stored.box(low, high)
    before = [inner - first for inner, first in zip(low, start, strict=True)]
    after = [first + edge - inner for first, edge, inner in zip(start, size, high, strict=True)]
    if not any(before) and not any(after):
        return box
    return np.pad(box, ((0, 0), *zip(before, after, strict=True)), mode="edge")
