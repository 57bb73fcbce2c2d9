"""MetaImage and NRRD by ITK: `.mha`, `.mhd` with its data file, `.nrrd`, `.nhdr` with its data file.

ITK is handed a file only when its text header leads nowhere else and its data were found whole: of
broken data it fills up what is missing, or complains to the terminal.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813

from pipeline.errors import DataError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.itk_data import check_data
from pipeline.volumes.readers.itk_header import Fields, ItkHeader, is_meta, read_header
from pipeline.volumes.readers.scan import Origin, Scan, check_finite, checked_geometry

FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK counts millimetres to the left and to the back; we count to the right and to the front."""
SPACINGS = {"ElementSpacing", "ElementSize", "spacings", "spacedirections"}
"""Fields that say how large a voxel is; without any, ITK takes 1 mm."""
SPACES = {
    *("left-posterior-superior", "lps"),
    *("right-anterior-superior", "ras"),
    *("left-anterior-superior", "las"),
}
"""NRRD's patient spaces that ITK turns; of any other it takes the numbers as they are."""


def read(*paths: Path) -> Scan:
    """Read one MetaImage or NRRD volume, given its header."""
    path = paths[0]
    header, reader = _open(path)
    shape = _geometry(path, header, reader)
    pixel = sitk.Image([1] * 3, reader.GetPixelIDValue()).GetSizeOfPixelComponent()
    check_data(header, math.prod(shape.shape) * pixel)
    try:
        image = reader.Execute()
    except RuntimeError:
        raise DataError(f"{path.name} is damaged (ITK cannot read its voxels)", "fetch it again") from None
    # The view is ITK's memory, which goes with `image`: it is copied, once. Its axes are (K, J, I).
    with np.errstate(over="ignore"):
        array = np.array(sitk.GetArrayViewFromImage(image), dtype=np.float32)
        array = _scaled(path, header.fields, array.reshape(shape.shape[::-1]).T)
    check_finite(path.name, array)
    return Scan(array, shape, Origin(notes=_notes(path, header.fields)))


def geometry(*paths: Path) -> Geometry:
    """Shape and affine, from the header."""
    return _geometry(paths[0], *_open(paths[0]))


def _open(path: Path) -> tuple[ItkHeader, Any]:
    """The header as text, and ITK's reader that has read it too."""
    header = read_header(path)
    sitk.ProcessObject.GlobalWarningDisplayOff()
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO" if is_meta(path) else "NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise DataError(
            f"{path.name} cannot be read (ITK does not understand its header)", "export it again"
        ) from None
    return header, reader


def _geometry(path: Path, header: ItkHeader, reader: Any) -> Geometry:
    _check_meaning(path, header.fields)
    numbers = reader.GetNumberOfComponents()
    if numbers != 1 or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise DataError(
            f"{path.name} holds {numbers} numbers a voxel (colour, vectors or complex)", "export it in grey"
        )
    n = reader.GetDimension()
    affine = np.eye(4)
    if n >= 3:
        direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(n, n)
        with np.errstate(all="ignore"):
            affine[:3, :3] = direction[:3, :3] * reader.GetSpacing()[:3]
        affine[:3, 3] = reader.GetOrigin()[:3]
    return checked_geometry(path.name, reader.GetSize(), FROM_LPS @ affine)


def _check_meaning(path: Path, fields: Fields) -> None:
    """Refuse what ITK would read as if it were millimetres in a patient's space.

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
    space = fields.get("space", "").lower()
    if space and space not in SPACES:
        raise DataError(
            f"{path.name} is in the space '{space[:40]}', which does not say where left is",
            "export it in the space left-posterior-superior",
        )


def _notes(path: Path, fields: Fields) -> tuple[str, ...]:
    said = ("TransformMatrix", "Rotation", "Orientation") if is_meta(path) else ("space",)
    if any(fields.get(name) for name in said):
        return ()
    what = "orientation" if is_meta(path) else "space"
    return (f"the header names no {what}: axes taken as left, posterior, superior",)


def _scaled(path: Path, fields: Fields, array: Any) -> Any:
    """Stored numbers with MetaImage's slope and intercept, which ITK leaves to the caller."""
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
