import itertools

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline.volumes.geometry import (
    Geometry,
    Triple,
    from_canonical,
    resample_image,
    resample_labels,
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


def _centres(shape: tuple[int, ...], spacing: Triple) -> list[NDArray[np.float64]]:
    """Millimetres of the voxel centres from the grid's corner, along z, y and x."""
    axes = [(np.arange(n) + 0.5) * edge for n, edge in zip(shape, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def _ramp(shape: tuple[int, ...], spacing: Triple) -> NDArray[np.float32]:
    z, y, x = _centres(shape, spacing)
    return (2 * z + 3 * y - x + 5).astype(np.float32)


def _ball(shape: tuple[int, ...], spacing: Triple, share: float) -> NDArray[np.bool_]:
    """An ellipsoid in the middle, with half axes that are `share` of the extent."""
    squares = [
        ((mm - n * edge / 2) / (share * n * edge)) ** 2
        for mm, n, edge in zip(_centres(shape, spacing), shape, spacing, strict=True)
    ]
    return np.asarray(sum(squares) < 1)


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


@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((2.0, 1.0, 1.0), (1.0, 1.5, 0.7)),
        ((5.0, 0.8, 0.8), (2.5, 1.6, 1.6)),
        ((1.0, 1.0, 1.0), (3.0, 1.0, 0.5)),
    ],
)
def test_a_linear_ramp_is_exact_away_from_the_edges(spacing: Triple, target: Triple) -> None:
    shape = (12, 20, 24)
    resampled = resample_image(_ramp(shape, spacing), spacing, target)
    expected = _ramp(resampled.shape, target)
    inside = np.ones(resampled.shape, bool)
    for mm, n, edge in zip(_centres(resampled.shape, target), shape, spacing, strict=True):
        inside &= (mm >= edge / 2) & (mm <= (n - 0.5) * edge)
    assert inside.mean() > 0.5
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled[inside], expected[inside], atol=1e-3)


def test_a_constant_stays_itself_up_to_the_last_voxel() -> None:
    image = np.full((5, 6, 7), 42, np.float32)
    assert (resample_image(image, (3.0, 1.0, 1.0), (1.0, 2.3, 0.4)) == 42).all()


@pytest.mark.parametrize("target", [(1.5, 1.5, 1.5), (3.0, 2.0, 2.0), (1.0, 0.7, 0.9)])
def test_labels_keep_their_values_and_their_volumes(target: Triple) -> None:
    shape, spacing = (30, 70, 60), (3.0, 1.0, 1.2)
    labels = 3 * _ball(shape, spacing, 0.45).astype(np.uint8)
    labels[_ball(shape, spacing, 0.25)] = 7
    resampled = resample_labels(labels, spacing, target)
    assert resampled.dtype == np.uint8
    assert set(np.unique(resampled)) == {0, 3, 7}
    for value in (3, 7):
        before = (labels == value).sum() * np.prod(spacing)
        after = (resampled == value).sum() * np.prod(target)
        assert after == pytest.approx(before, rel=0.05)


def test_a_voxel_takes_the_class_at_its_centre() -> None:
    labels = np.array([0, 1, 1, 2, 2, 2], np.uint8).reshape(1, 1, 6)
    assert resample_labels(labels, (1, 1, 1), (1, 1, 3)).ravel().tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_a_label_map_comes_back_in_its_original_shape(seed: int) -> None:
    generator = np.random.default_rng(seed)
    z, y, x = (int(n) for n in generator.integers(18, 30, 3))
    (a, b, c), (d, e, f) = generator.uniform(0.8, 1.6, (2, 3)).tolist()
    spacing, target = (a, b, c), (d, e, f)
    labels = _ball((z, y, x), spacing, 0.4).astype(np.uint8)
    back = resample_labels(resample_labels(labels, spacing, target), target, spacing, (z, y, x))
    assert back.shape == (z, y, x)
    dice = 2 * (back & labels).sum() / (back.sum() + labels.sum())
    assert dice > 0.9


def test_spacings_that_differ_by_rounding_are_not_interpolated() -> None:
    image = _ramp((4, 5, 6), (1.0, 1.0, 1.0))
    labels = (image > 9).astype(np.uint8)
    assert same_spacing((1.0, 1.0, 1.0), (1.0, 1.0000001, 0.9999))
    assert not same_spacing((1.0, 1.0, 1.0), (1.0, 1.01, 1.0))
    assert resample_image(image, (1.0, 1.0, 1.0), (1.0, 1.0000001, 0.9999)) is image
    assert resample_labels(labels, (1.0, 1.0, 1.0), (1.0, 1.0000001, 0.9999)) is labels


def test_a_thin_volume_keeps_a_voxel_on_each_axis() -> None:
    assert resampled_shape((1, 10, 3), (1.0, 1.0, 1.0), (5.0, 2.0, 10.0)) == (1, 5, 1)
    image = np.full((1, 10, 3), 7, np.float32)
    assert (resample_image(image, (1.0, 1.0, 1.0), (5.0, 2.0, 10.0)) == 7).all()
