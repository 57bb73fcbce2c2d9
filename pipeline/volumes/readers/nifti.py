"""NIfTI 1 and 2: `.nii`, `.nii.gz`, and the pair of `.hdr` and `.img`."""

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from pipeline.atomic import atomic_path
from pipeline.errors import DataError, ResourceError
from pipeline.volumes.geometry import Floats, Geometry
from pipeline.volumes.readers.scan import Scan, check_finite, checked_geometry, first_line

UNREADABLE: tuple[Any, ...] = (
    ImageFileError,
    HeaderDataError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
    IsalError,
    KeyError,
    OverflowError,
)
"""What nibabel raises for files that are not what they claim to be."""


def read(*paths: Path) -> Scan:
    """Read one NIfTI volume; of a pair, either file or both may be given."""
    path = paths[0]
    image = _open(path)
    found = _geometry(path, image)
    try:
        array = _voxels(image).reshape(found.shape, order="F")
    except MemoryError:
        raise ResourceError(
            f"{path.name}: {found.shape} voxels do not fit into memory", "use a machine with more"
        ) from None
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged ({first_line(path, error)})", "fetch it again") from None
    check_finite(path.name, array)
    return Scan(array, found)


def geometry(*paths: Path) -> Geometry:
    """Shape and affine, from the header."""
    return _geometry(paths[0], _open(paths[0]))


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
        raise DataError(
            f"{path.name} cannot be read as NIfTI ({first_line(path, error)})", "fetch it again"
        ) from None
    # The pair is the mother class of the single file; Analyze, whose axes mean nothing, is not.
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"{path.name} is {type(image).__name__}, not a NIfTI volume", "convert it")
    return image


def _geometry(path: Path, image: SpatialImage) -> Geometry:
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(
            f"{path.name} holds {image.get_data_dtype()} (colour or complex)", "export it in grey"
        )
    return checked_geometry(path.name, image.shape, np.asarray(image.affine, dtype=np.float64))


def _voxels(image: SpatialImage) -> Floats:
    """All voxels in the order of the file, scaled as the header says.

    Read in one pass to the end of the file, where gzip compares its check sum: nibabel stops before
    it, and decompresses more slowly.
    """
    proxy = image.dataobj
    count = math.prod(proxy.shape)
    path = Path(image.file_map["image"].filename)
    stored = np.frombuffer(_bytes(path, int(proxy.offset), count * proxy.dtype.itemsize), proxy.dtype)
    # What float32 cannot hold becomes infinite, and is refused by the caller.
    with np.errstate(over="ignore", invalid="ignore"):
        if proxy.slope == 1 and proxy.inter == 0:
            return stored.astype(np.float32)
        return (stored * np.float64(proxy.slope) + np.float64(proxy.inter)).astype(np.float32)


def _bytes(path: Path, offset: int, length: int) -> bytearray:
    """`length` bytes from `offset` on, of a file that may be compressed.

    Raises:
        EOFError: there are fewer.
    """
    whole = bytearray(length)
    compressed = path.name.lower().endswith(".gz")
    with igzip.open(path) if compressed else open(path, "rb") as stream:
        stream.seek(offset)
        view, done = memoryview(whole), 0
        while done < length and (got := stream.readinto(view[done:])):
            done += got
        while compressed and stream.read(1 << 20):
            pass
    if done < length:
        raise EOFError(f"it ends after {done} of {length} bytes of voxels")
    return whole
