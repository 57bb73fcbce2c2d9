import itertools

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.volumes.geometry import (
    Geometry,
    from_canonical,
    resampled_shape,
    same_spacing,
    to_canonical,
)

SHAPE = (4, 5, 6)
EDGES = (3.0, 1.5, 0.75)
"""Millimetres between voxels along the file's i, j, k."""
ORIENTATIONS = [
    "".join(ends) for axes in itertools.permutations(("LR", "PA", "IS")) for ends in itertools.product(*axes)
]


def _geometry(orientation: str) -> Geometry:
    """A file whose axes lead where the letters say, somewhere off the origin."""
    affine = np.eye(4)
    turn = nibabel.orientations.axcodes2ornt(orientation)
    for column, (axis, sign) in enumerate(turn):
        affine[:3, column] = 0
        affine[int(axis), column] = sign * EDGES[column]
    affine[:3, 3] = (-10.0, 20.0, 30.0)
    return Geometry(SHAPE, affine)


def _oblique() -> Geometry:
    affine = _geometry("LPS").affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", (20, -15, 10), degrees=True).as_matrix() @ affine[:3, :3]
    return Geometry(SHAPE, affine)


def _numbered() -> NDArray[np.int64]:
    return np.arange(np.prod(SHAPE)).reshape(SHAPE)


def test_there_are_48_orientations() -> None:
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize(
    "geometry", [*map(_geometry, ORIENTATIONS), _oblique()], ids=[*ORIENTATIONS, "oblique"]
)
def test_every_voxel_stays_at_its_millimetres(geometry: Geometry) -> None:
    array = _numbered()
    canonical = to_canonical(array, geometry)
    assert canonical.shape == geometry.canonical_shape
    for z, y, x in np.ndindex(canonical.shape):
        place = geometry.canonical_affine @ (x, y, z, 1)
        i, j, k, _ = np.rint(np.linalg.solve(geometry.affine, place)).astype(int)
        assert canonical[z, y, x] == array[i, j, k]


@pytest.mark.parametrize(
    "geometry", [*map(_geometry, ORIENTATIONS), _oblique()], ids=[*ORIENTATIONS, "oblique"]
)
def test_the_way_back_is_the_inverse(geometry: Geometry) -> None:
    array = _numbered()
    back = from_canonical(to_canonical(array, geometry), geometry)
    assert back.shape == array.shape
    assert np.array_equal(back, array)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_canonical_axes_are_the_patients(orientation: str) -> None:
    geometry = _geometry(orientation)
    assert geometry.orientation == orientation
    along = np.diag(geometry.canonical_affine)[:3]
    assert np.array_equal(geometry.canonical_affine[:3, :3], np.diag(along))
    assert (along > 0).all()
    assert geometry.spacing == tuple(along[::-1])


def test_spacing_and_shape_belong_to_the_same_axes() -> None:
    geometry = _geometry("SPL")
    # i leads up, j to the back, k to the left.
    assert geometry.spacing == EDGES
    assert geometry.canonical_shape == SHAPE


def test_a_tilted_scan_has_the_spacing_it_was_taken_with() -> None:
    # i leads to the left, j to the back, k up.
    np.testing.assert_allclose(_oblique().spacing, EDGES[::-1])
    np.testing.assert_allclose(_oblique().stored_spacing, EDGES)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_stored_spacing_is_that_of_the_files_axes(orientation: str) -> None:
    assert _geometry(orientation).stored_spacing == EDGES


def test_spacings_that_differ_by_rounding_are_one() -> None:
    assert same_spacing((1.0, 1.0, 1.0), (1.0, 1.0000001, 0.9999))
    assert not same_spacing((1.0, 1.0, 1.0), (1.0, 1.01, 1.0))


def test_a_thin_volume_keeps_a_voxel_on_each_axis() -> None:
    assert resampled_shape((1, 10, 3), (1.0, 1.0, 1.0), (5.0, 2.0, 10.0)) == (1, 5, 1)
