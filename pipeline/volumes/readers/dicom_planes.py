"""Where the slices of a DICOM file lie and what their numbers mean, as its header says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipeline.errors import DataError
from pipeline.volumes.readers.dicom_files import reading
from pipeline.volumes.readers.scan import THICKEST, THINNEST

Vector = NDArray[np.float64]

SQUARE = 1e-3
"""How far two directions may be from a right angle, and each from length 1; rounding stays below."""


@dataclass(frozen=True)
class Plane:
    """One slice."""

    path: Path
    frame: int
    """Which of the file's frames it is, from 0."""
    position: Vector
    """Centre of its first pixel: (3,) millimetres in DICOM's patient coordinates (LPS)."""
    directions: Vector
    """(2, 3) unit vectors: along a row (columns grow), and along a column (rows grow)."""
    spacing: tuple[float, float]
    """Millimetres between columns, and between rows."""
    size: tuple[int, int]
    """Columns and rows."""
    slope: float
    intercept: float
    has_scale: bool
    """Whether the header gives slope and intercept."""
    padding: tuple[float, float] | None
    """The stored value of pixels that were not measured, and the other end of its range."""


def planes_of(path: Path, name: str, dataset: Dataset) -> list[Plane]:
    """The slices in one file: itself, or the frames of an enhanced object.

    Args:
        path: of the file.
        name: of the file, for messages.
        dataset: its header; no pixels needed.

    Raises:
        DataError: a slice has no usable place, direction, size or scale.
    """
    with reading(name):
        if dataset.get("ModalityLUTSequence"):
            raise DataError(
                f"{name} maps its values by a table (Modality LUT), not by slope and intercept",
                "export it with the values applied",
            )
        size = _size(name, dataset)
        padding = _padding(dataset)
        return [
            _plane(path, name, frame, sources, size, padding)
            for frame, sources in enumerate(_frames(name, dataset))
        ]


def _frames(name: str, dataset: Dataset) -> list[list[Dataset]]:
    """For each frame, where its values may stand: its own groups, the shared ones, the file's header."""
    count = int(dataset.get("NumberOfFrames") or 1)
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    if own is None and count == 1:
        return [[dataset]]
    if own is None:
        raise DataError(
            f"{name} holds {count} frames and no position for each", "export it as single slices, or enhanced"
        )
    if len(own) != count:
        raise DataError(
            f"{name} claims {count} frames and describes {len(own)}: it is damaged", "fetch it again"
        )
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [[frame, *shared, dataset] for frame in own]


def _plane(
    path: Path,
    name: str,
    frame: int,
    sources: Sequence[Dataset],
    size: tuple[int, int],
    padding: tuple[float, float] | None,
) -> Plane:
    position = _numbers(name, sources, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _numbers(name, sources, "PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = _numbers(name, sources, "PixelMeasuresSequence", "PixelSpacing", 2)
    for value, keyword in (
        (position, "position (ImagePositionPatient)"),
        (orientation, "orientation (ImageOrientationPatient)"),
        (spacing, "spacing (PixelSpacing)"),
    ):
        if value is None:
            raise DataError(f"{name} gives no {keyword}", "export it again as the scanner made it")
    slope, intercept, has_scale = _scale(name, sources)
    between_rows, between_columns = _checked_spacing(name, spacing)
    return Plane(
        path=path,
        frame=frame,
        position=np.array(position),
        directions=_checked_directions(name, orientation),
        spacing=(between_columns, between_rows),
        size=size,
        slope=slope,
        intercept=intercept,
        has_scale=has_scale,
        padding=padding,
    )


def _numbers(
    name: str, sources: Sequence[Dataset], group: str, keyword: str, count: int
) -> tuple[float, ...] | None:
    """`count` finite numbers of a frame, from the first source that has them; None if none has."""
    for source in sources:
        holder = source[group][0] if source.get(group) else source
        value = holder.get(keyword)
        if value is None or value == "":
            continue
        values = tuple(float(one) for one in (value if count > 1 else [value]))
        if len(values) != count or not np.isfinite(values).all():
            raise DataError(f"{name}: {keyword} is not {count} finite numbers", "export it again")
        return values
    return None


def _size(name: str, dataset: Dataset) -> tuple[int, int]:
    size = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    if min(size) < 1:
        raise DataError(f"{name} has {size[0]} columns and {size[1]} rows", "leave it out, or fetch it again")
    return size


def _scale(name: str, sources: Sequence[Dataset]) -> tuple[float, float, bool]:
    """Slope, intercept, and whether they are there; 1 and 0 without them, as for most MR."""
    group = "PixelValueTransformationSequence"
    slope = _numbers(name, sources, group, "RescaleSlope", 1)
    intercept = _numbers(name, sources, group, "RescaleIntercept", 1)
    if slope is None and intercept is None:
        return 1.0, 0.0, False
    if slope is None or intercept is None:
        there, missing = ("slope", "intercept") if intercept is None else ("intercept", "slope")
        raise DataError(f"{name} gives a rescale {there} and no {missing}", "export it again")
    if slope[0] == 0:
        raise DataError(f"{name}: its rescale slope is 0, so that all values are one", "export it again")
    return slope[0], intercept[0], True


def _checked_spacing(name: str, spacing: tuple[float, ...] | None) -> tuple[float, float]:
    rows, columns = spacing or (0.0, 0.0)
    if not (min(rows, columns) >= THINNEST and max(rows, columns) <= THICKEST):
        raise DataError(f"{name}: its pixel spacing is {rows:g} by {columns:g} mm", "export it again")
    return rows, columns


def _checked_directions(name: str, orientation: tuple[float, ...] | None) -> Vector:
    directions = np.array(orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(directions, axis=1)
    dot = float(directions[0] @ directions[1])
    if np.abs(lengths - 1).max() > SQUARE or abs(dot) > SQUARE:
        raise DataError(
            f"{name}: the directions of its rows and columns are not at a right angle, or not of length 1 "
            f"(lengths {lengths[0]:.3f} and {lengths[1]:.3f}, product {dot:.3f})",
            "export it again",
        )
    unit: Vector = directions / lengths[:, None]
    return unit


def _padding(dataset: Dataset) -> tuple[float, float] | None:
    """The stored value that means 'not measured', and the other end of its range."""
    value = _stored(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _stored(dataset, "PixelPaddingRangeLimit")
    return value, value if limit is None else limit


def _stored(dataset: Dataset, keyword: str) -> float | None:
    """A stored value of the header, in the numbers the pixels are in.

    The header may give it with the wrong sign, 63536 for -2000: both are the same bits.
    """
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    number = int.from_bytes(value, "little") if isinstance(value, bytes) else int(value)
    span = 1 << int(dataset.get("BitsAllocated") or 16)
    number %= span
    signed = int(dataset.get("PixelRepresentation") or 0)
    return float(number - span if signed and number >= span // 2 else number)
