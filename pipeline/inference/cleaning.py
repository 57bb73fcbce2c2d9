"""Label maps tidied up: the largest piece of a label kept, small pieces dropped, holes filled.

What is done to a label is what helped it on cases that the network has not learned from (`adopt`), as
nnU-Net does (Isensee et al., Nature Methods 18, 2021), but by what every case says, not a mean alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.bootstrap import Indices, interval
from pipeline.metrics.overlap import overlap
from pipeline.volumes.boxes import foreground_box
from pipeline.volumes.geometry import Triple

Classes = NDArray[np.uint8]
CONFIDENCE = 0.95
"""That what is done does no harm."""
DIGITS = 6
"""Of a gain."""
COUNTED = 2**24
"""Voxels that are counted at once."""
LEAST_GAIN = 1e-4
"""Mean Dice that a step must bring; a label map is not touched for less."""


@dataclass(frozen=True)
class Cleaning:
    """What is done to one label."""

    largest: bool = False
    """Only its largest piece is kept."""
    minimum_ml: float = 0.0
    """Pieces smaller than this are dropped, but for the largest."""
    fill_holes: bool = False
    """Background that it surrounds becomes part of it."""

    @property
    def sentence(self) -> str:
        """For people."""
        said = []
        if self.largest:
            said.append("only the largest piece is kept")
        elif self.minimum_ml:
            said.append(f"pieces below {self.minimum_ml:g} ml are dropped")
        if self.fill_holes:
            said.append("holes are filled")
        return ", ".join(said) or "nothing is done"

    def of(self, mask: NDArray[np.bool_], spacing: Triple) -> NDArray[np.bool_]:
        """The mask (Z, Y, X) after it; pieces touch by a face (spacing in millimetres)."""
        from scipy import ndimage

        box = foreground_box(mask)
        if box is None:
            return mask
        inner = mask[box]
        if self.largest or self.minimum_ml:
            pieces, count = ndimage.label(inner)
            if count > 1:
                sizes = _sizes(pieces, count)
                sizes[0] = 0
                kept = sizes * float(np.prod(spacing)) / 1000 >= self.minimum_ml
                if self.largest:
                    kept[:] = False
                kept[sizes.argmax()], kept[0] = True, False
                inner = kept[pieces]
        if self.fill_holes:
            inner = ndimage.binary_fill_holes(inner)
        result = np.zeros_like(mask)
        result[box] = inner
        return result


def _sizes(pieces: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Voxels of each of `count` pieces; some planes at a time, because counting takes 8 bytes a voxel."""
    sizes = np.zeros(count + 1, np.int64)
    planes = max(1, COUNTED // pieces[0].size)
    for first in range(0, len(pieces), planes):
        sizes += np.bincount(pieces[first : first + planes].ravel(), minlength=count + 1)
    return sizes


def clean(
    classes: Classes, how: Mapping[str, Mapping[str, Any]], labels: Sequence[str], spacing: Triple
) -> None:
    """Tidy a map of class indices (Z, Y, X) up, in place.

    Args:
        classes: 0 is the background, then `labels` in their order.
        how: what is done to a label, by its name: the fields of `Cleaning`, and what spoke for them.
        labels: names.
        spacing: (z, y, x) millimetres.
    """
    steps = Cleaning.__dataclass_fields__
    for value, name in enumerate(labels, start=1):
        if name in how:
            step = Cleaning(**{key: how[name][key] for key in steps})
            before = classes == value
            after = step.of(before, spacing)
            classes[before & ~after] = 0
            # A hole that another label fills is none.
            classes[after & (classes == 0)] = value


def candidates(smallest_ml: float) -> list[Cleaning]:
    """What may be done to a label, nothing first.

    Args:
        smallest_ml: the smallest volume of the label in any case that was learned from; 0: not known.
    """
    pieces = [Cleaning(), Cleaning(minimum_ml=round(smallest_ml / 10, 4)), Cleaning(largest=True)]
    found = [Cleaning(one.largest, one.minimum_ml, holes) for holes, one in product((False, True), pieces)]
    return list(dict.fromkeys(found))


def tried(
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    steps: Sequence[Cleaning],
    spacing: Triple,
    unknown: NDArray[np.bool_] | None = None,
) -> list[float]:
    """Dice of one label in one case after each of `steps`; NaN where it is in neither mask.

    Args:
        truth: (Z, Y, X).
        predicted: (Z, Y, X).
        steps: what to try.
        spacing: (z, y, x) millimetres.
        unknown: where nobody knows the truth; it does not count.
    """
    found = []
    for step in steps:
        after = step.of(predicted, spacing)
        found.append(overlap(truth, after if unknown is None else after & ~unknown).dice)
    return found


def adopt(
    steps: Sequence[Cleaning], dice: NDArray[np.float64], patient: Indices | None = None
) -> dict[str, Any] | None:
    """What of `steps` is done to a label; None if nothing helps.

    A step is taken if the mean Dice gains and, with a confidence of 95 %, does not fall; of several the
    one that gains most.

    Args:
        steps: nothing first.
        dice: (cases, steps), of cases that the network has not learned from; NaN where undefined.
        patient: the number of each case's; a patient with many cases speaks for one. None: each has its own.

    Returns:
        The fields of `Cleaning`, the mean gain and the number of cases.
    """
    # A label rightly emptied has no Dice any more: that is as good as it can be.
    defined = ~np.isnan(dice).all(axis=1)
    known, whose = dice[defined], None if patient is None else patient[defined]
    known = np.where(np.isnan(known), 1.0, known)
    best, taken = 0.0, None
    for number in range(1, len(steps)):
        gains = known[:, number] - known[:, 0]
        ends = interval(gains, 1 - 2 * (1 - CONFIDENCE), patient=whose)
        # Rounded, so that of two that do the same the first is taken, whatever the order of the sum.
        gain = round(float(gains.mean()), DIGITS) if len(gains) else 0.0
        if ends is not None and ends[0] >= 0 and gain >= LEAST_GAIN and gain > best:
            best, taken = gain, asdict(steps[number]) | {"gain": gain, "cases": len(gains)}
    return taken
