"""The facts of a case: what is measured of its image and label map before they are resampled.

They are what `validate` judges a case by, what the plan is made of, and what later data are compared
with. A fact that needs no single voxel is measured on every few of them, so that a large CT costs a
fraction of a second; a volume below a million voxels is measured whole. What cannot be measured is
None.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volumes.body import Body, find_body, steps_for
from pipeline.volumes.boxes import Box, class_boxes, foreground_box
from pipeline.volumes.geometry import Floats, Triple

Row = dict[str, Any]
LabelMap = NDArray[np.uint8]

SAMPLE = 1_000_000
"""Voxels that percentiles and the histogram are taken of, at most."""
ORGAN_SAMPLE = 300_000
"""The same in the box of one organ."""
ENOUGH = 500
"""Voxels of an organ in its sample; of fewer, all are taken."""
CELLS = 150_000
"""Cells that the box of an organ is divided into to find its pieces, at most."""
HISTOGRAM = {"CT": (-1024.0, 1500.0), "MR": (-5.0, 5.0)}
"""The lower end of the first and the upper end of the last bin: HU, z-scores."""
BINS = 64
TOUCHING = np.ones((3, 3, 3), bool)
"""Voxels that share a face, an edge or a corner are one piece."""

IMAGE_FACTS = (
    *(f"{name}_{axis}" for name in ("shape", "spacing") for axis in "zyx"),
    "image_hash",
    *(f"intensity_{name}" for name in ("min", "p01", "p50", "p99", "max")),
    *("fg_mean", "fg_square", "fg_low", "fg_high", "air_hu", "body_share", "histogram"),
)


def columns(labels: Iterable[str]) -> list[str]:
    """The names of all facts, in an order that depends on the labels alone."""
    return [*IMAGE_FACTS, *(name for label in labels for name in columns_of(label))]


def columns_of(label: str) -> list[str]:
    """The names of the facts of one label."""
    facts = [f"{fact}_{label}" for fact in ("voxels", "ml", "hu", "components", "largest")]
    facts += [f"centre_{label}_{axis}" for axis in "zyx"]
    return [*facts, f"inside_{label}", f"touches_{label}"]


def measure(
    image: Floats,
    label: LabelMap,
    spacing: Triple,
    classes: Mapping[str, int],
    annotated: Collection[str] | None = None,
    modality: str = "CT",
) -> Row:
    """The facts of one case.

    Args:
        image: (Z, Y, X), canonical axes, HU or z-scores; of several channels the first.
        label: (Z, Y, X), class indices.
        spacing: millimetres, (z, y, x).
        classes: names and class indices.
        annotated: the labels that somebody looked for, None for all: the volume of another is
            unknown, not zero.
        modality: CT or MR; in an MR neither body nor air is looked for.
    """
    body = find_body(image, spacing) if modality == "CT" else None
    row: Row = {f"shape_{axis}": int(edge) for axis, edge in zip("zyx", image.shape, strict=True)}
    row |= {f"spacing_{axis}": float(mm) for axis, mm in zip("zyx", spacing, strict=True)}
    row |= {"image_hash": image_hash(image), **_intensities(image, spacing)}
    row |= _foreground(image, label, foreground_box(label))
    row |= {"air_hu": body and body.air_hu, "body_share": body and body.share}
    row["histogram"] = _histogram(image, spacing, body, HISTOGRAM[modality])
    row |= _organs(image, label, spacing, classes, body)
    unknown = [name for name in classes if annotated is not None and name not in annotated]
    return row | {f"ml_{name}": None for name in unknown if not row[f"voxels_{name}"]}


def image_hash(image: Floats) -> str:
    """SHA-256 of a thinned image, rounded, by which one image is found again under another name.

    Whatever its header says of the spacing, and however its values were stored.
    """
    step = max(1, int(np.ceil((image.size / SAMPLE) ** (1 / 3))))
    # Adding zero makes -0 and 0 the same bytes.
    rounded = np.round(image[::step, ::step, ::step], 2).astype("<f4") + np.float32(0)
    content = hashlib.sha256(str(image.shape).encode())
    content.update(rounded.tobytes())
    return content.hexdigest()


def _intensities(image: Floats, spacing: Triple) -> Row:
    low, middle, high = np.percentile(_thinned(image, spacing), (1, 50, 99))
    row = {"min": image.min(), "p01": low, "p50": middle, "p99": high, "max": image.max()}
    return {f"intensity_{name}": float(value) for name, value in row.items()}


def _thinned(image: Floats, spacing: Triple) -> Floats:
    return image[tuple(slice(None, None, step) for step in steps_for(image.shape, spacing, SAMPLE))]


def _histogram(image: Floats, spacing: Triple, body: Body | None, ends: tuple[float, float]) -> str:
    """Shares of the voxels of the body, or of the image where there is none, in `BINS` bins, as JSON.

    What lies beyond the ends counts to the bins there.
    """
    inside = body is not None and body.mask.any()
    values = body.values[body.mask] if body and inside else _thinned(image, spacing)
    counts, _ = np.histogram(np.clip(values, *ends), BINS, ends)
    return json.dumps([round(float(share), 6) for share in counts / max(values.size, 1)])


def _foreground(image: Floats, label: LabelMap, box: Box | None) -> Row:
    """What normalisation needs to know of the labelled voxels; None where there are none."""
    if box is None:
        return dict.fromkeys(("fg_mean", "fg_square", "fg_low", "fg_high"))
    values = _sampled(image[box], label[box], None, SAMPLE)
    low, high = np.percentile(values, (0.5, 99.5))
    wide = values.astype(np.float64)
    row = {"fg_mean": wide.mean(), "fg_square": (wide**2).mean(), "fg_low": low, "fg_high": high}
    return {name: float(value) for name, value in row.items()}


def _sampled(image: Floats, label: LabelMap, value: int | None, limit: int) -> Floats:
    """Intensities where the label is `value` (None: any), of every few voxels if that leaves enough."""
    thin = steps_for(image.shape, (1.0, 1.0, 1.0), limit)
    for steps in dict.fromkeys([thin, (1, 1, 1)]):
        every = tuple(slice(None, None, step) for step in steps)
        chosen = label[every] > 0 if value is None else label[every] == value
        if np.count_nonzero(chosen) >= ENOUGH:
            break
    values: Floats = image[every][chosen]
    return values


def _organs(
    image: Floats,
    label: LabelMap,
    spacing: Triple,
    classes: Mapping[str, int],
    body: Body | None,
) -> Row:
    """The facts of every label."""
    boxes = class_boxes(label)
    border = _at_border(label, max(classes.values(), default=0))
    row: Row = {}
    for name, index in classes.items():
        row |= dict.fromkeys(columns_of(name)) | {f"voxels_{name}": 0, f"ml_{name}": 0.0}
        box = boxes.get(index)
        if box is None:
            continue
        mask = label[box] == index
        voxels = int(np.count_nonzero(mask))
        row |= {f"voxels_{name}": voxels, f"ml_{name}": voxels * float(np.prod(spacing)) / 1000}
        row[f"hu_{name}"] = float(np.median(_sampled(image[box], label[box], index, ORGAN_SAMPLE)))
        row[f"touches_{name}"] = float(border[index]) / voxels
        row |= _place(name, mask, box, spacing, image.shape, body)
    return row


def _at_border(label: LabelMap, highest: int) -> NDArray[np.intp]:
    """How many voxels of each class are at a border of the image."""
    faces = [label[0], label[-1], label[1:-1, 0], label[1:-1, -1]]
    faces += [label[1:-1, 1:-1, 0], label[1:-1, 1:-1, -1]]
    counts: NDArray[np.intp] = np.bincount(
        np.concatenate([face.ravel() for face in faces]), None, highest + 1
    )
    return counts


def _place(
    name: str,
    mask: NDArray[np.bool_],
    box: Box,
    spacing: Triple,
    shape: tuple[int, ...],
    body: Body | None,
) -> Row:
    """In how many pieces an organ is, and where.

    Args:
        name: of the label.
        mask: (z, y, x), the organ in its box.
        box: where that is in the image.
        spacing: millimetres, (z, y, x).
        shape: of the image, (Z, Y, X).
        body: where the body is, if that is known.
    """
    steps = steps_for(mask.shape, spacing, CELLS)
    cells = _gathered(mask, steps)
    pieces, count = ndimage.label(cells, TOUCHING)
    full = cells > 0
    voxels = cells[full].astype(float)
    sizes = np.bincount(pieces[full], voxels)
    start = [edge.start for edge in box]
    places = np.argwhere(full) * steps + (np.array(steps) - 1) / 2 + start
    first, last = body.box if body else (np.zeros(3), np.array(shape, float) - 1)
    centre = (np.average(places, axis=0, weights=voxels) - first) / np.maximum(last - first, 1)
    row: Row = {f"components_{name}": count, f"largest_{name}": float(sizes.max() / voxels.sum())}
    row |= {f"centre_{name}_{axis}": float(part) for axis, part in zip("zyx", centre, strict=True)}
    inside = float(np.average(body.holds(places), weights=voxels)) if body and body.mask.any() else None
    return row | {f"inside_{name}": inside}


def _gathered(mask: NDArray[np.bool_], steps: tuple[int, ...]) -> NDArray[np.uint16]:
    """How many voxels of `mask` are in each cell of `steps` voxels; nothing thin is lost."""
    cells = mask.view(np.uint8).astype(np.uint16) if max(steps) > 1 else mask.astype(np.uint16)
    for axis, step in enumerate(steps):
        if step > 1:
            cells = np.add.reduceat(cells, np.arange(0, cells.shape[axis], step), axis=axis, dtype=np.uint16)
    return cells
