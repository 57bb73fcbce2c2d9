"""CT and MR images in DICOM: the slices of one series, or the frames of one enhanced object.

Voxels are (column, row, slice); slices are ordered along their normal, whatever the files' order.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pipeline.errors import DataError
from pipeline.volumes.case_files import named
from pipeline.volumes.geometry import Floats, Geometry
from pipeline.volumes.readers.dicom_files import COLOUR, IMAGE, kind_of, open_dataset, reading
from pipeline.volumes.readers.dicom_grid import Grid, arrange
from pipeline.volumes.readers.dicom_person import TAGS, identifying_words, names_person
from pipeline.volumes.readers.dicom_pixels import Stored, check_grey, is_grey, scaled, stored_values
from pipeline.volumes.readers.dicom_planes import Plane, planes_of
from pipeline.volumes.readers.scan import Origin, Scan, check_finite, check_memory, checked_geometry

LONGEST = 64
"""Letters of a manufacturer's or a model's name that are kept."""


@dataclass(frozen=True)
class _File:
    """What the header of one file says."""

    name: str
    """For messages; not the file's own where that names a person."""
    planes: list[Plane]
    modality: str
    scanner: str
    series: tuple[str, str]
    """UIDs of the series and of the frame of reference; they go nowhere from here."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Series:
    name: str
    files: list[_File]
    grid: Grid
    geometry: Geometry


def read(*paths: Path) -> Scan:
    """Read one series.

    Args:
        paths: of all its files, in any order.

    Raises:
        DataError: a file is unreadable or no CT or MR image, or the slices are no regular volume.
    """
    series = _series(paths)
    array, padding, notes = _filled(series)
    check_finite(series.name, array)
    first = series.files[0]
    said = dict.fromkeys(note for file in series.files for note in file.notes)
    return Scan(
        array,
        series.geometry,
        Origin(first.modality, padding, first.scanner, (*said, *series.grid.notes, *notes)),
    )


def geometry(*paths: Path) -> Geometry:
    """Shape and affine of a series, from its headers.

    Raises:
        DataError: as `read`, as far as headers can tell.
    """
    return _series(paths).geometry


def planes(*paths: Path) -> list[Plane]:
    """The slices of a series, in the order of the last axis of its array.

    Raises:
        DataError: as `geometry`.
    """
    return list(_series(paths).grid.planes)


def _series(paths: Sequence[Path]) -> _Series:
    try:
        files = [_look(path) for path in paths]
    except DataError as error:
        raise DataError(_without_person(error.reason, paths), error.remedy) from None
    kept_names = files[0].name == paths[0].name
    name = named(paths) if kept_names else f"a DICOM series of {len(paths)} files"
    for index, what in enumerate(("series", "frames of reference")):
        count = len({file.series[index] for file in files})
        if count > 1:
            raise DataError(f"{name}: its files belong to {count} {what}", "give the files of one series")
    planes = [plane for file in files for plane in file.planes]
    columns, rows = planes[0].size
    check_memory(f"{name}: its header claims", (columns, rows, len(planes)))
    names = {path: file.name for path, file in zip(paths, files, strict=True)}

    # Neighbours among the slices of an enhanced object are in one file, which is decoded once.
    @lru_cache(maxsize=1)
    def stored(path: Path) -> Stored:
        return stored_values(path, names[path])

    grid = arrange(name, planes, lambda plane: scaled(plane, stored(plane.path)))
    shape = (columns, rows, len(grid.planes))
    return _Series(name, files, grid, checked_geometry(name, shape, grid.affine))


def _look(path: Path) -> _File:
    """Read a file's header.

    Raises:
        DataError: it is no DICOM image of CT or MR, or a slice has no usable place.
    """
    with reading(path.name):
        dataset = open_dataset(path)
        name = "a DICOM file" if names_person(path.name, identifying_words(dataset)) else path.name
    with reading(name):
        kind = kind_of(dataset)
        series = str(dataset.get("SeriesInstanceUID", "")), str(dataset.get("FrameOfReferenceUID", ""))
        words = (str(dataset.get(key) or "").strip() for key in ("Manufacturer", "ManufacturerModelName"))
        scanner = " ".join(word[:LONGEST] for word in words if word)
        modality = str(dataset.get("Modality") or "")[:16]
    if kind not in (IMAGE, COLOUR):
        raise DataError(f"{name}: its kind is {kind}, not a CT or MR image", "leave it out")
    check_grey(name, dataset)
    return _File(name, planes_of(path, name, dataset), modality, scanner, series, _notes(dataset))


def _without_person(reason: str, paths: Sequence[Path]) -> str:
    """A refusal that does not name a damaged file, where another one tells that its name is a person's."""
    words: frozenset[str] = frozenset()
    for path in paths:
        with suppress(DataError), reading(path.name):
            words = identifying_words(open_dataset(path, tags=TAGS))
            break
    for path in paths:
        if reason.startswith(path.name) and names_person(path.name, words):
            return f"a DICOM file{reason.removeprefix(path.name)}"
    return reason


def _notes(dataset: Dataset) -> tuple[str, ...]:
    with reading("a DICOM file"):
        inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
        scaled_frames = "PerFrameFunctionalGroupsSequence" in dataset
        unscaled = dataset.get("RescaleSlope") is None and not scaled_frames
        notes = {
            "viewers show it inverted (MONOCHROME1); its values are taken as they are": inverted,
            "a CT without a rescale slope; its stored values are taken as they are": (
                unscaled and dataset.get("Modality") == "CT"
            ),
        }
    return tuple(note for note, holds in notes.items() if holds)


def _filled(series: _Series) -> tuple[Floats, float | None, tuple[str, ...]]:
    """The voxels (I, J, K), the value of those not measured, and notes on what was done to them."""
    columns, rows, slices = series.geometry.shape
    # Slices are written one by one: the last axis is the slowest.
    array: Floats = np.empty((slices, rows, columns), np.float32).transpose(2, 1, 0)
    padding = _padding(series.grid.planes[0])
    names = {file.planes[0].path: file.name for file in series.files}
    places: dict[Path, list[int]] = {}
    for k, plane in enumerate(series.grid.planes):
        places.setdefault(plane.path, []).append(k)
    coloured = padded = 0
    for path, members in places.items():
        stored = stored_values(path, names[path])
        coloured += _coloured(stored)
        for k in members:
            plane = series.grid.planes[k]
            values = scaled(plane, stored)
            padded += _pad(plane, stored[plane.frame], values, padding)
            with np.errstate(over="ignore"):
                array[:, :, k] = values.T
    return array, padding, _voxel_notes(array.size, coloured, padded, stored.ndim == 4)


def _padding(plane: Plane) -> float | None:
    return None if plane.padding is None else plane.padding[0] * plane.slope + plane.intercept


def _pad(plane: Plane, stored: Stored, values: NDArray[np.float64], padding: float | None) -> int:
    """Give all pixels that were not measured one value, in place; returns how many had another."""
    if plane.padding is None or padding is None or stored.ndim != 2:
        return 0
    low, high = sorted(plane.padding)
    other = (stored >= low) & (stored <= high) & (values != padding)
    values[other] = padding
    return int(other.sum())


def _coloured(stored: Stored) -> int:
    """How many pixels of a file are not grey."""
    if stored.ndim < 4 or is_grey(stored):
        return 0
    return int((stored != stored[..., :1]).any(axis=-1).sum())


def _voxel_notes(size: int, coloured: int, padded: int, colour: bool) -> tuple[str, ...]:
    notes = []
    if coloured:
        notes.append(
            f"a colour picture, read as luminance; {coloured / size:.1%} of its voxels are coloured, and "
            "what is drawn on it (a mask?) is in the values"
        )
    elif colour:
        notes.append("grey stored as colour, all channels equal; one of them is read")
    if padded:
        notes.append(f"{padded} voxels in the range of the padding were set to one value")
    return tuple(notes)
