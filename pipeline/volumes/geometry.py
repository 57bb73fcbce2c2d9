"""Where voxels are: orientation, spacing, and the way to the planned grid and back.

A file's array has axes (i, j, k) and an affine that maps voxel indices to millimetres in RAS+
(x to the patient's right, y to the front, z to the head). Inside the pipeline an array is
*canonical*: its axes are the patient's, closest first, and written (Z, Y, X), so the last axis
runs to the right. Voxel (0, 0, 0) of a resampled grid begins at the same corner as the original.
"""

from dataclasses import dataclass
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]

SAME = 1e-3
"""Spacings (relative) closer than this are one spacing: no interpolation for a rounding error."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a file are."""

    shape: tuple[int, int, int]
    """Of the file's array, (I, J, K)."""
    affine: NDArray[np.float64]
    """4×4, voxel indices to millimetres in RAS+."""

    @property
    def orientation(self) -> str:
        """Where the file's axes lead, for example ``LPS``."""
        return "".join(nibabel.aff2axcodes(self.affine))

    @property
    def spacing(self) -> Triple:
        """Millimetres between voxels of the canonical array, (z, y, x)."""
        z, y, x = np.linalg.norm(self.canonical_affine[:3, :3], axis=0)[::-1]
        return float(z), float(y), float(x)

    @property
    def stored_spacing(self) -> Triple:
        """Millimetres between voxels of the file's array, (i, j, k)."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def canonical_shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        axes = io_orientation(self.affine)[:, 0].astype(int)
        x, y, z = (self.shape[int(np.flatnonzero(axes == axis)[0])] for axis in range(3))
        return z, y, x

    @property
    def canonical_affine(self) -> NDArray[np.float64]:
        """Canonical voxel indices (x, y, z) to millimetres in RAS+."""
        result: NDArray[np.float64] = self.affine @ inv_ornt_aff(io_orientation(self.affine), self.shape)
        return result


def to_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """A file's array (I, J, K) as a canonical one (Z, Y, X); a view where possible."""
    turned = apply_orientation(array, io_orientation(geometry.affine))
    return np.asarray(turned).transpose(2, 1, 0)


def from_canonical(array: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The inverse of `to_canonical`."""
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(geometry.affine))
    return np.asarray(apply_orientation(array.transpose(2, 1, 0), back))


def resampled_shape(shape: tuple[int, ...], spacing: Triple, target: Triple) -> tuple[int, int, int]:
    """How many voxels of `target` cover `shape` voxels of `spacing`, on each axis, at least one."""
    counts = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, target, strict=True))
    z, y, x = counts
    return z, y, x


def same_spacing(one: Triple, other: Triple) -> bool:
    """Whether two spacings differ by no more than rounding."""
    return bool(np.allclose(one, other, rtol=SAME, atol=0))
