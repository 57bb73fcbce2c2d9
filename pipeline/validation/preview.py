"""A look at a case that ingest refused: whatever of it can still be read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.volumes.case_files import CaseFiles
from pipeline.volumes.geometry import Floats, Geometry, Triple, to_canonical
from pipeline.volumes.masks import read_masks
from pipeline.volumes.readers import Scan, read_channels


@dataclass(frozen=True)
class Preview:
    """What can be shown of a case."""

    image: Floats
    """(Z, Y, X), canonical axes, values as stored; zero where only the label map can be read."""
    label: NDArray[np.integer]
    """(Z, Y, X), values of the labels; zero where they cannot be read or lie elsewhere."""
    spacing: Triple
    """Millimetres, (z, y, x)."""


def preview(
    raw: Path, files: CaseFiles, labels: Mapping[str, int], rois: Mapping[str, list[str]] | None = None
) -> Preview | None:
    """Image and labels of a case as far as they can be read; None if neither can.

    Args:
        raw: folder that the paths of `files` begin at.
        files: of the case.
        labels: names and values.
        rois: by label, patterns of the names that mean it besides its own.
    """
    image = _read([raw / path for path in files.images[0]]) if files.images else None
    if image is None:
        return _labels_alone(raw, files, labels)
    label = _label(raw, files, image.geometry, labels, rois or {})
    shown = to_canonical(image.array, image.geometry).astype(np.float32, copy=False)
    return Preview(shown, to_canonical(label, image.geometry), image.geometry.spacing)


def _read(paths: list[Path]) -> Scan | None:
    try:
        return read_channels(*paths)[0]
    except (DataError, MemoryError, OSError):
        return None


def _label(
    raw: Path,
    files: CaseFiles,
    geometry: Geometry,
    labels: Mapping[str, int],
    rois: Mapping[str, list[str]],
) -> NDArray[np.integer]:
    """As ingest reads it; what it refuses, as it is stored, if it has the shape of the image."""
    nothing = np.zeros(geometry.shape, np.uint8)
    if not files.masks:
        return nothing
    try:
        return read_masks(files.case, raw, files.masks, geometry, dict(labels), dict(rois)).array
    except (DataError, MemoryError, OSError):
        stored = _read([raw / path for path in files.masks[0].paths])
    if stored is None or stored.geometry.shape != geometry.shape:
        return nothing
    return _declared(stored.array, labels)


def _labels_alone(raw: Path, files: CaseFiles, labels: Mapping[str, int]) -> Preview | None:
    stored = _read([raw / path for path in files.masks[0].paths]) if files.masks else None
    if stored is None:
        return None
    label = to_canonical(_declared(stored.array, labels), stored.geometry)
    return Preview(np.zeros(label.shape, np.float32), label, stored.geometry.spacing)


def _declared(array: NDArray[np.generic], labels: Mapping[str, int]) -> NDArray[np.integer]:
    """The values that are labels; all others are zero."""
    values = array.astype(np.float32, copy=False)
    return np.where(np.isin(values, list(labels.values())), values, 0).astype(np.uint8)
