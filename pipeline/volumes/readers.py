"""Reading scans and label maps from disk, trusting nothing that a header says."""

import gzip
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
from pipeline.volumes.layouts import SUFFIXES

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
THINNEST, THICKEST = 1e-3, 1e3
"""Millimetres; spacings beyond are a broken header."""
FLATTEST = 0.1
"""Volume of a voxel as a share of a box with its edges; below, two axes are nearly one."""


@dataclass(frozen=True)
class Scan:
    """A file's voxels (I, J, K), as stored but with the header's scaling applied."""

    array: Floats
    geometry: Geometry


def read_scan(path: Path) -> Scan:
    """Read one NIfTI volume.

    Raises:
        DataError: it is unreadable or damaged, not one three-dimensional volume of real numbers,
            would not fit into memory, holds NaN or infinity, or its affine gives no spacing. The
            message begins with the file's name.
    """
    image = _open(path)
    geometry = _geometry(path, image)
    try:
        # What float32 cannot hold becomes infinite, and is refused below.
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.asarray(image.dataobj, dtype=np.float32).reshape(geometry.shape)
        _check_sum(path)
    except MemoryError:
        raise DataError(
            f"{path.name}: {geometry.shape} voxels do not fit into memory", "use a machine with more"
        ) from None
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged ({_short(path, error)})", "fetch it again") from None
    if not np.isfinite(array).all():
        count = int(array.size - np.isfinite(array).sum())
        raise DataError(f"{path.name}: {count} voxels are NaN or infinite", "export it again")
    return Scan(array, geometry)


def read_geometry(path: Path) -> Geometry:
    """Shape and affine of a NIfTI file, from its header alone.

    Raises:
        DataError: as `read_scan`, as far as a header can tell.
    """
    return _geometry(path, _open(path))


def check_memory(what: str, shape: tuple[int, int, int]) -> None:
    """Refuse before anything is allocated what could not be worked on: three copies in float32.

    Raises:
        DataError: beginning with `what`, which says who wants `shape` voxels.
    """
    needed = 3 * 4 * math.prod(shape)
    available = psutil.virtual_memory().available
    if needed > available:
        raise DataError(
            f"{what} {shape} voxels, which need {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB free",
            "crop it, or use a machine with more memory",
        )


def write_labels(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a label map (I, J, K) as NIfTI in the given geometry, whole or not at all."""
    image = nibabel.Nifti1Image(labels, geometry.affine)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _open(path: Path) -> SpatialImage:
    if not path.name.lower().endswith(SUFFIXES):
        raise DataError(f"{path.name} is no {' or '.join(SUFFIXES)} file", "convert it to NIfTI")
    try:
        image = nibabel.load(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read as NIfTI ({_short(path, error)})", "fetch it again"
        ) from None
    if not isinstance(image, nibabel.Nifti1Image):
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
    # Written so that NaN fails it.
    usable = spacing.min() >= THINNEST and spacing.max() <= THICKEST
    if not (usable and abs(np.linalg.det(affine[:3, :3] / spacing)) >= FLATTEST):
        raise DataError(
            f"{path.name}: its affine gives no usable spacing ({spacing.tolist()} mm)", "export it again"
        )
    geometry = Geometry((shape[0], shape[1], shape[2]), affine)
    check_memory(f"{path.name}: its header claims", geometry.shape)
    return geometry


def _check_sum(path: Path) -> None:
    """Read a compressed file to its end, where gzip compares the check sum; nibabel stops before it."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as stream:
            while stream.read(1 << 20):
                pass


def _short(path: Path, error: BaseException) -> str:
    """The first line of an exception, without folders (they may name a person)."""
    said = str(error).replace(f"{path.parent}/", "").splitlines()
    return f"{type(error).__name__}: {said[0][:120]}" if said else type(error).__name__
