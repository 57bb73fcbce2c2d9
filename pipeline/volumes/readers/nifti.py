"""NIfTI 1 and 2: `.nii`, `.nii.gz`, and the pair of `.hdr` and `.img`."""

import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import ErrorLevel, logger
from nibabel.spatialimages import HeaderDataError, SpatialImage
from numpy.typing import NDArray

from pipeline.atomic import output_path
from pipeline.errors import DataError, ResourceError
from pipeline.volumes.geometry import Geometry
from pipeline.volumes.readers.scan import Origin, Scan, check_finite, checked_geometry, first_line

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
MENDED = 30
"""From this level on nibabel calls something an error; most of it it would mend by a guess, and go on."""
MILLIMETRES = (0, 2)
"""NIfTI's codes of units that are taken as millimetres: none given, and mm."""
APART = 0.1
"""Share by which the spacings of sform and pixdim may differ: numbers are rounded."""
FIRST = 1_000_000
"""Voxels that are looked at first: a few slices of a CT."""
DENSEST = 1100
"""Bytes that one byte of gzip can unpack to, at most."""


def read(*paths: Path) -> Scan:
    """Read one NIfTI volume; of a pair, either file or both may be given."""
    return _read(paths[0], several=False)[0]


def read_label_map(*paths: Path) -> Scan:
    """The same, but whole numbers that are not scaled stay in the type of the file."""
    return _read(paths[0], several=False, as_stored=True)[0]


def read_channels(*paths: Path) -> list[Scan]:
    """The same of each channel: of a file in four dimensions, a volume for each index of the last."""
    return _read(paths[0], several=True)


def channels_in(*paths: Path) -> int:
    """How many channels the header tells of."""
    return _channels(_open(paths[0]))


def _channels(image: SpatialImage) -> int:
    """Of an array (I, J, K, channels), or (I, J, K, 1, channels) as ITK writes vectors; else 1."""
    further = [count for count in image.shape[3:] if count != 1]
    return further[0] if len(further) == 1 and further[0] > 1 else 1


def _read(path: Path, *, several: bool, as_stored: bool = False) -> list[Scan]:
    image = _open(path)
    found = _geometry(path, image, several)
    try:
        # A channel is one piece of the file.
        array = _voxels(image, as_stored).reshape((*found.shape, -1), order="F")
    except MemoryError:
        raise ResourceError(
            f"{path.name}: {found.shape} voxels do not fit into memory", "use a machine with more"
        ) from None
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged ({first_line(path, error)})", "fetch it again") from None
    if not _is_plain(image):
        check_finite(path.name, array)
    origin = Origin(notes=_notes(image))
    return [Scan(array[..., channel], found, origin) for channel in range(array.shape[-1])]


def geometry(*paths: Path) -> Geometry:
    """Shape and affine, from the header."""
    return _geometry(paths[0], _open(paths[0]), several=True)


def starts_negative(*paths: Path) -> bool:
    """Whether there is a negative value among the first voxels."""
    path = paths[0]
    image = _open(path)
    _geometry(path, image, several=True)
    proxy = image.dataobj
    file = Path(image.file_map["image"].filename)
    count = min(math.prod(proxy.shape), FIRST)
    try:
        with _stream(file) as stream:
            stream.seek(int(proxy.offset))
            first = np.frombuffer(stream.read(count * proxy.dtype.itemsize), proxy.dtype)
    except UNREADABLE as error:
        raise DataError(f"{path.name} is damaged ({first_line(path, error)})", "fetch it again") from None
    return bool((first * np.float64(proxy.slope) + np.float64(proxy.inter)).min(initial=0) < 0)


def write_labels(path: Path, labels: NDArray[np.uint8], geometry: Geometry) -> None:
    """Write a label map (I, J, K) as NIfTI in the given geometry, whole or not at all.

    Raises:
        MissingError: it cannot be written there.
    """
    image = nibabel.Nifti1Image(labels, geometry.affine)
    image.set_sform(geometry.affine, code=1)
    image.set_qform(geometry.affine, code=1)
    image.header.set_xyzt_units("mm")
    with output_path(path) as temporary:
        nibabel.save(image, temporary)


@contextmanager
def _strictly() -> Iterator[None]:
    """Let nibabel refuse what it would mend, and say nothing about the rest."""
    with ErrorLevel(MENDED), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _open(path: Path) -> SpatialImage:
    try:
        with _strictly():
            image = nibabel.load(path)
    except UNREADABLE as error:
        raise DataError(
            f"{path.name} cannot be read as NIfTI ({first_line(path, error)})", "fetch it again"
        ) from None
    # The pair is the mother class of the single file; Analyze, whose axes mean nothing, is not.
    if not isinstance(image, nibabel.Nifti1Pair):
        raise DataError(f"{path.name} is {type(image).__name__}, not a NIfTI volume", "convert it")
    return image


def _geometry(path: Path, image: SpatialImage, several: bool) -> Geometry:
    if image.get_data_dtype().kind not in "iuf":
        raise DataError(
            f"{path.name} holds {image.get_data_dtype()} (colour or complex)", "export it in grey"
        )
    unit = int(image.header["xyzt_units"]) & 7
    if unit not in MILLIMETRES:
        raise DataError(f"{path.name} is not measured in mm (its unit is {unit})", "export it in millimetres")
    channels = _channels(image) if several else 1
    shape = image.shape if channels == 1 else image.shape[:3]
    found = checked_geometry(path.name, shape, np.asarray(image.affine, dtype=np.float64), channels)
    spacing, pixdim = np.linalg.norm(found.affine[:3, :3], axis=0), np.array(image.header.get_zooms()[:3])
    # Programs differ in which of the two they believe.
    if not (np.abs(spacing - pixdim) <= APART * pixdim).all():
        told, other = (" x ".join(f"{number:g}" for number in numbers) for numbers in (spacing, pixdim))
        raise DataError(
            f"{path.name}: its sform gives a spacing of {told} mm and its pixdim {other} mm",
            "mend the one that is wrong, or export it again",
        )
    return found


def _notes(image: SpatialImage) -> tuple[str, ...]:
    if image.header["sform_code"] > 0 or image.header["qform_code"] > 0:
        return ()
    return ("the header does not say where left is: axes taken as left, front, up",)


def _is_plain(image: SpatialImage) -> bool:
    """Whether the file holds whole numbers that mean what they say."""
    proxy = image.dataobj
    return bool(proxy.dtype.kind in "iu" and proxy.slope == 1 and proxy.inter == 0)


def _voxels(image: SpatialImage, as_stored: bool) -> NDArray[Any]:
    """All voxels in the order of the file, scaled as the header says.

    Read in one pass to the end of the file: nibabel stops before it, and decompresses more slowly.
    """
    proxy = image.dataobj
    count = math.prod(proxy.shape)
    path = Path(image.file_map["image"].filename)
    stored = np.frombuffer(_bytes(path, int(proxy.offset), count * proxy.dtype.itemsize), proxy.dtype)
    if as_stored and _is_plain(image):
        return stored
    # What float32 cannot hold becomes infinite, and is refused by the caller.
    with np.errstate(over="ignore", invalid="ignore"):
        if proxy.slope == 1 and proxy.inter == 0:
            return stored.astype(np.float32)
        return (stored * np.float64(proxy.slope) + np.float64(proxy.inter)).astype(np.float32)


def _bytes(path: Path, offset: int, length: int) -> bytearray:
    """The `length` bytes from `offset` to the end of a file that may be compressed.

    Raises:
        EOFError: there are fewer.
        ValueError: there are more, so that the header tells a part of it at best.
    """
    # Before anything is allocated: no file of this size can hold so much.
    if length > path.stat().st_size * (DENSEST if _compressed(path) else 1):
        raise EOFError(f"it is too short for {length} bytes of voxels")
    whole = bytearray(length)
    with _stream(path) as stream:
        stream.seek(offset)
        view, done = memoryview(whole), 0
        while done < length and (got := stream.readinto(view[done:])):
            done += got
        # At the end of the file gzip compares its check sum.
        more = stream.read(1)
    if done < length:
        raise EOFError(f"it ends after {done} of {length} bytes of voxels")
    if more:
        raise ValueError(f"its header claims {length} bytes of voxels, and there are more")
    return whole


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _stream(path: Path) -> BufferedIOBase:
    """The file, opened, its content unpacked."""
    return cast(BufferedIOBase, igzip.open(path)) if _compressed(path) else open(path, "rb")
