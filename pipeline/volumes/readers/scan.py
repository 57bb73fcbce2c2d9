"""A volume as a reader gives it, and the checks that all formats share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from pipeline.errors import DataError, ResourceError
from pipeline.volumes.geometry import Floats, Geometry

THINNEST, THICKEST = 1e-3, 1e3
"""Millimetres; spacings beyond are a broken header."""
FLATTEST = 0.1
"""Volume of a voxel as a share of a box with its edges; below, two axes are nearly one."""
TILT = 1.0
"""Degrees by which two axes may miss the right angle that volumes and distances are measured with."""


@dataclass(frozen=True)
class Origin:
    """What a file says of its numbers and of the machine they are from."""

    modality: str = ""
    """DICOM's: CT, MR, ...; empty where the format has none."""
    padding: float | None = None
    """The value, scaled like the voxels, of what was not measured; None if the header names none."""
    scanner: str = ""
    """Manufacturer and model; nothing that tells one machine or one hospital from another."""
    notes: tuple[str, ...] = ()
    """What the reader had to do that a person should know."""


@dataclass(frozen=True)
class Scan:
    """A volume's voxels (I, J, K), as stored but with the header's scaling applied."""

    array: NDArray[Any]
    """float32; of a label map perhaps whole numbers."""
    geometry: Geometry
    origin: Origin = Origin()


def checked_geometry(
    name: str, shape: Sequence[int], affine: NDArray[np.float64], channels: int = 1
) -> Geometry:
    """The geometry that a header claims.

    Args:
        name: of the file, for the message.
        shape: (I, J, K); further axes of length 1 are dropped.
        affine: 4×4, voxel indices to millimetres in RAS+.
        channels: of such a shape, that are read together.

    Raises:
        DataError: it is not one volume, has no usable spacing, is sheared, or would not fit into memory.
    """
    shape = tuple(int(n) for n in shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        remedy = f"give one three-dimensional volume{_if_channels(shape)}"
        raise DataError(f"{name} has shape {shape}", remedy)
    # Written so that NaN fails it.
    with np.errstate(over="ignore", invalid="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    usable = spacing.min() >= THINNEST and spacing.max() <= THICKEST and np.isfinite(affine).all()
    if not (usable and abs(np.linalg.det(affine[:3, :3] / spacing)) >= FLATTEST):
        raise DataError(
            f"{name}: its affine gives no usable spacing ({spacing.tolist()} mm)", "export it again"
        )
    _check_right_angles(name, affine[:3, :3] / spacing)
    geometry = Geometry((shape[0], shape[1], shape[2]), affine)
    check_memory(f"{name}: its header claims", geometry.shape, channels)
    return geometry


def _if_channels(shape: tuple[int, ...]) -> str:
    """What else to say of a file that may hold several channels, where these cannot be read."""
    if len(shape) < 4:
        return ""
    return " (channels of an image: one NIfTI file, or a file of its own for each, NAME_0000.nii.gz, ...)"


def _check_right_angles(name: str, directions: NDArray[np.float64]) -> None:
    cosines = np.abs(directions.T @ directions - np.eye(3))
    missed = math.degrees(math.asin(min(float(cosines.max()), 1.0)))
    if missed > TILT:
        raise DataError(
            f"{name}: two of its axes stand at {90 - missed:.1f} degrees, not at right angles "
            "(gantry tilt): a sheared volume",
            "resample it onto a rectangular grid",
        )


def check_finite(name: str, array: Floats) -> None:
    """Refuse NaN and infinity.

    Raises:
        DataError: with their number.
    """
    # The sum of finite float32 in float64 is finite; it is the faster test, the count is for the message.
    if not np.isfinite(array.sum(dtype=np.float64)):
        count = int(array.size - np.isfinite(array).sum())
        raise DataError(f"{name}: {count} voxels are NaN or infinite", "export it again")


def check_memory(what: str, shape: tuple[int, int, int], channels: int = 1) -> None:
    """Refuse before anything is allocated what could not be worked on: three copies in float32.

    Raises:
        ResourceError: beginning with `what`, which says who wants `shape` voxels in each channel.
    """
    needed = 3 * 4 * math.prod(shape) * channels
    claimed = f"{shape} voxels in {channels} channels" if channels > 1 else f"{shape} voxels"
    available = psutil.virtual_memory().available
    if needed > available:
        raise ResourceError(
            f"{what} {claimed}, which need {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB free",
            "crop it, or use a machine with more memory",
        )


def first_line(path: Path, error: BaseException) -> str:
    """The first line of an exception, without folders (they may name a person)."""
    said = str(error).replace(f"{path.parent}/", "").splitlines()
    return f"{type(error).__name__}: {said[0][:120]}" if said else type(error).__name__
