"""MetaImage and NRRD, ITK's formats: `.mha`, `.mhd` with its data file, `.nrrd`, `.nhdr` with its data file.

Written here, not handed to ITK: it fills up what broken data lack, complains to the terminal, and is half
of the size of the image that reads scans. Tests hold this reader against it.

Sources: the MetaIO documentation (https://itk.org/Wiki/MetaIO/Documentation) and the definition of the NRRD
file format (https://teem.sourceforge.net/nrrd/format.html).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.itk_data import read_voxels
from pipeline.volumes.readers.itk_grid import Grid, grid_of
from pipeline.volumes.readers.itk_header import Fields, is_meta, read_header
from pipeline.volumes.readers.scan import Origin, Scan, check_finite, checked_geometry

SPACINGS = {"ElementSpacing", "ElementSize", "spacings", "spacedirections"}
"""Fields that say how large a voxel is; without any, ITK takes 1 mm."""


def read(*paths: Path) -> Scan:
    """Read one MetaImage or NRRD volume, given its header."""
    path = paths[0]
    header = read_header(path)
    grid = _grid(path, header.fields)
    geometry = checked_geometry(path.name, grid.shape, grid.affine)
    voxels = read_voxels(header, grid.dtype, geometry.shape)
    with np.errstate(over="ignore"):
        array = _scaled(path, header.fields, voxels.astype(np.float32))
    check_finite(path.name, array)
    return Scan(array, geometry, Origin(notes=_notes(path, header.fields)))


def geometry(*paths: Path) -> Geometry:
    """Shape and affine, from the header."""
    path = paths[0]
    grid = _grid(path, read_header(path).fields)
    return checked_geometry(path.name, grid.shape, grid.affine)


def _grid(path: Path, fields: Fields) -> Grid:
    """The grid of a volume of one number a voxel, in millimetres.

    Raises:
        DataError: the header says that it is something else.
    """
    if not SPACINGS & fields.keys():
        raise DataError(f"{path.name}: its header gives no spacing", "export it again")
    said = " ".join(fields.get(name, "") for name in ("DistanceUnits", "spaceunits", "units"))
    units = set(re.findall(r"[^\s\"?]+", said)) - {"mm"}
    if units:
        raise DataError(
            f"{path.name} is measured in {units.pop()[:20]}, not in mm", "export it in millimetres"
        )
    grid = grid_of(path, fields)
    if grid.numbers != 1:
        raise DataError(
            f"{path.name} holds {grid.numbers} numbers a voxel (colour, vectors or complex)",
            "export it in grey",
        )
    return grid


def _notes(path: Path, fields: Fields) -> tuple[str, ...]:
    said = ("TransformMatrix", "Rotation", "Orientation") if is_meta(path) else ("space",)
    if any(fields.get(name) for name in said):
        return ()
    what = "orientation" if is_meta(path) else "space"
    return (f"the header names no {what}: axes taken as left, posterior, superior",)


def _scaled(path: Path, fields: Fields, array: Any) -> Any:
    """Stored numbers with MetaImage's slope and intercept."""
    names = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
    try:
        slope, intercept = (
            float(fields.get(name, neutral)) for name, neutral in zip(names, (1, 0), strict=True)
        )
    except ValueError:
        raise DataError(f"{path.name}: its header's slope is no number", "export it again") from None
    if (slope, intercept) != (1.0, 0.0):
        array *= slope
        array += intercept
    return array
