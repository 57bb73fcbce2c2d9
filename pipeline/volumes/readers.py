"""Reading scans and label maps from disk, trusting nothing that a header says."""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import psutil
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from pipeline.atomic import atomic_path
from pipeline.errors import DataError
from pipeline.volumes.geometry import Floats, Geometry

UNREADABLE = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    KeyError,
    OverflowError,
)
"""What nibabel raises for files that are not what they claim to be."""


@dataclass(frozen=True)
class Scan:
    """A file's voxels (I, J, K), as stored but with the header's scaling applied."""

    array: Floats
    geometry: Geometry


def read_scan(path: Path) -> Scan:
    """Read one NIfTI volume.

    Raises:
        DataError: it is unreadable, not one three-dimensional volume of real numbers, would not fit
            into memory, holds NaN or infinity, or its affine gives no spacing. The message begins
            with the file's name.
    """
    image = _open(path)
    geometry = _geometry(path, image)
    _check_size(path, geometry)
    try:
        array = np.asarray(image.dataobj, dtype=np.float32).reshape(geometry.shape)
    except MemoryError:
        raise DataError(
            f"{path.name}: {geometry.shape} voxels do not fit into memory", "use a machine with more"
        ) from None
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged ({_short(error)})", "fetch it again") from None
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise DataError(f"{path.name}: {count} voxels are NaN or infinite", "export it again")
    return Scan(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """Shape and affine of a NIfTI file, from its header alone.

    Raises:
        DataError: as `read_scan`, as far as a header can tell.
    """
    geometry = _geometry(path, _open(path))
    _check_size(path, geometry)
    return geometry


def write_labels(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a label map (I, J, K) as NIfTI in the given geometry, whole or not at all."""
    image = nibabel.Nifti1Image(labels, geometry.affine)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _open(path: Path) -> SpatialImage:
    try:
        image = nibabel.load(path)
    except UNREADABLE as error:
        raise DataError(f"{path.name} cannot be read as NIfTI ({_short(error)})", "fetch it again") from None
    if not isinstance(image, nibabel.Nifti1Image | nibabel.Nifti2Image | nibabel.Nifti1Pair):
        raise DataError(f"{path.name} is {type(image).__name__}, not a NIfTI volume", "convert it")
    return image


def _geometry(path: Path, image: SpatialImage) -> Geometry:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{path.name} has shape {shape}", "give one three-dimensional volume")
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(
            f"{path.name} holds {image.get_data_dtype()} (colour or complex)", "export it in grey"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() < 1e-3 or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(
            f"{path.name}: its affine gives no usable spacing ({spacing.tolist()} mm)", "export it again"
        )
    return Geometry((shape[0], shape[1], shape[2]), affine)


def _check_size(path: Path, geometry: Geometry) -> None:
    """Refuse before anything is allocated what could not be worked on: three copies in float32."""
    needed = 3 * 4 * math.prod(geometry.shape)
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"{path.name}: its header claims {geometry.shape} voxels, which need {needed / 2**30:.1f} GiB "
            f"of {available / 2**30:.1f} GiB free",
            "crop it, or use a machine with more memory",
        )


def _short(error: BaseException) -> str:
    """The first line of an exception, without folders (they may name a person)."""
    return (
        f"{type(error).__name__}: {str(error).splitlines()[0][:120]}" if str(error) else type(error).__name__
    )
