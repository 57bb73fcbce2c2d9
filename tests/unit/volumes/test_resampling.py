import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.volumes import resampling
from pipeline.volumes.geometry import Triple, resampled_shape
from pipeline.volumes.resampling import (
    BACKGROUND_WINS,
    Kind,
    interpolation,
    most_probable,
    resample_image,
    resample_labels,
)

ONE = (1.0, 1.0, 1.0)
LINEAR: tuple[Kind, Kind, Kind] = ("linear", "linear", "linear")
CUBIC: tuple[Kind, Kind, Kind] = ("cubic", "cubic", "cubic")


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


def _hounsfield(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Air beside bone, voxel by voxel: what a cubic overshoots most at."""
    generator = np.random.default_rng(seed)
    return generator.choice([-1000.0, 40.0, 1500.0], shape).astype(np.float32)


def _by_scipy(
    image: NDArray[np.float32], step: Triple, shape: tuple[int, ...], order: int
) -> NDArray[np.float64]:
    """The same in one go: voxels are boxes whose outer corners coincide."""
    place = 0.5 * np.array(step) - 0.5
    result: NDArray[np.float64] = ndimage.affine_transform(
        image.astype(np.float64), np.array(step), place, shape, order=order, mode="nearest"
    )
    return result


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


@pytest.mark.parametrize("slab", [1, 4000, 2**28])
@pytest.mark.parametrize(
    ("target", "shape"),
    [((1.0, 1.0, 1.0), (9, 11, 8)), ((0.4, 0.6, 1.0), (22, 18, 8)), ((2.5, 0.6, 3.0), (4, 18, 3))],
)
def test_the_most_probable_class_is_that_of_all_shares_interpolated(slab, target, shape, monkeypatch) -> None:
    monkeypatch.setattr(resampling, "SLAB", slab)
    shares = np.random.default_rng(0).random((3, 9, 11, 8), np.float32)
    whole = np.stack([resample_image(one, ONE, target, shape) for one in shares])
    for cuts in ([], [4], [1, 2, 8]):
        slabs = np.split(shares, cuts, axis=1)
        assert np.array_equal(most_probable(slabs, (9, 11, 8), ONE, target, shape), whole.argmax(axis=0))


@pytest.mark.parametrize("off", [1e-16, 1e-13, 1e-8, 9e-4])
def test_shares_of_spacings_that_differ_by_rounding_are_not_interpolated_either(off: float) -> None:
    shares = np.random.default_rng(0).random((3, 60, 5, 7), np.float32)
    for one, other in ((2.3, 2.3 * (1 + off) + 4e-16), (2.3 * (1 + off) + 4e-16, 2.3)):
        spacing, target = (one, one, one), (other, other, other)
        assert np.array_equal(resample_image(shares[0], spacing, target), shares[0])
        found = most_probable(np.split(shares, [20, 40], axis=1), (60, 5, 7), spacing, target, (60, 5, 7))
        assert np.array_equal(found, shares.argmax(axis=0))


@pytest.mark.parametrize("at", [(6, 6, 6), (6, 1, 1), (1, 6, 1), (1, 1, 6)])
def test_a_class_that_lies_between_the_new_voxels_is_not_there(at: tuple[int, int, int]) -> None:
    labels = np.zeros((14, 14, 14), np.uint8)
    labels[0, 0, 0], labels[at] = 2, 1
    # New centres lie at 3, 10, …: a voxel weighs on a centre nearer than one voxel only.
    assert not resample_labels(labels, ONE, (7.0, 7.0, 7.0)).any()


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
    image = _ramp((4, 5, 6), ONE)
    labels = (image > 9).astype(np.uint8)
    for kinds in (LINEAR, CUBIC):
        assert resample_image(image, ONE, (1.0, 1.0000001, 0.9999), kinds=kinds) is image
    assert resample_labels(labels, ONE, (1.0, 1.0000001, 0.9999)) is labels


def test_another_spacing_is_interpolated_though_the_number_of_voxels_stays() -> None:
    image, target = _ramp((12, 12, 12), ONE), (1.03, 1.03, 1.03)
    resampled = resample_image(image, ONE, target)
    assert resampled.shape == image.shape
    np.testing.assert_allclose(resampled[:11, :11, :11], _ramp((11, 11, 11), target), atol=1e-3)
    # The last of the new centres lies in the last but one of the old voxels.
    labels = np.arange(100).reshape(1, 1, 100).astype(np.uint8)
    assert resample_labels(labels, ONE, (1.0, 1.0, 0.99), (1, 1, 100)).ravel()[-1] == 98


def test_a_thin_volume_keeps_a_voxel_on_each_axis() -> None:
    image = np.full((1, 10, 3), 7, np.float32)
    for kinds in (LINEAR, CUBIC):
        resampled = resample_image(image, ONE, (5.0, 2.0, 10.0), kinds=kinds)
        assert resampled.shape == (1, 5, 1)
        np.testing.assert_allclose(resampled, 7, rtol=1e-6)


STEPS = [(0.5, 0.5, 0.5), (0.37, 1.0, 0.81), (1.7, 0.6, 2.5), (2.0, 2.0, 2.0), (1.0, 1.3, 0.29)]


@pytest.mark.parametrize("shape", [(12, 20, 24), (7, 33, 5), (40, 9, 11)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(("kinds", "order"), [(CUBIC, 3), (LINEAR, 1)])
def test_it_is_what_scipy_computes_in_double_precision(
    shape: tuple[int, int, int], step: Triple, kinds: tuple[Kind, Kind, Kind], order: int
) -> None:
    image = _hounsfield(shape)
    resampled = resample_image(image, ONE, step, kinds=kinds)
    assert resampled.dtype == np.float32
    assert resampled.flags.c_contiguous
    expected = _by_scipy(image, step, resampled_shape(shape, ONE, step), order)
    np.testing.assert_allclose(resampled, np.clip(expected, image.min(), image.max()), atol=1e-3)


@pytest.mark.parametrize("shape", list(itertools.permutations((1, 2, 3, 4, 5), 3)))
def test_short_axes_are_interpolated_like_long_ones(shape: tuple[int, int, int]) -> None:
    image = _hounsfield(shape, sum(shape))
    for step in STEPS:
        expected = _by_scipy(image, step, resampled_shape(shape, ONE, step), 3)
        resampled = resample_image(image, ONE, step, kinds=CUBIC)
        np.testing.assert_allclose(resampled, np.clip(expected, image.min(), image.max()), atol=1e-3)


@pytest.mark.parametrize("target", [(0.4, 0.4, 0.4), (0.7, 1.3, 0.9), (2.1, 0.5, 1.6)])
def test_a_cubic_never_leaves_the_values_of_the_image(target: Triple) -> None:
    image = _hounsfield((9, 14, 13))
    unclipped = _by_scipy(image, target, resampled_shape(image.shape, ONE, target), 3)
    assert unclipped.max() > image.max() + 10, "left alone, it would overshoot"
    resampled = resample_image(image, ONE, target, kinds=CUBIC)
    assert image.min() <= resampled.min()
    assert resampled.max() <= image.max()


@pytest.mark.parametrize(
    ("spacing", "kinds"),
    [
        ((1.0, 1.0, 1.0), CUBIC),
        ((3.0, 1.0, 1.0), CUBIC),
        ((3.1, 1.0, 1.0), ("linear", "cubic", "cubic")),
        ((5.0, 0.7, 0.7), ("linear", "cubic", "cubic")),
        ((0.7, 5.0, 0.7), ("cubic", "linear", "cubic")),
        ((5.0, 0.7, 5.0), ("linear", "cubic", "linear")),
    ],
)
def test_thick_slices_are_interpolated_linearly_across(
    spacing: Triple, kinds: tuple[Kind, Kind, Kind]
) -> None:
    assert interpolation(spacing) == kinds


def test_each_axis_is_interpolated_in_its_own_way() -> None:
    spacing, target, shape = (5.0, 0.8, 0.8), (1.25, 0.6, 0.6), (6, 20, 18)
    image = _hounsfield(shape)
    resampled = resample_image(image, spacing, target, kinds=interpolation(spacing))
    step = (target[0] / spacing[0], target[1] / spacing[1], target[2] / spacing[2])
    z, y, x = resampled.shape
    plane = _by_scipy(image, (1.0, *step[1:]), (shape[0], y, x), 3)
    expected = ndimage.affine_transform(
        plane, np.array((step[0], 1.0, 1.0)), (0.5 * step[0] - 0.5, 0, 0), (z, y, x), order=1, mode="nearest"
    )
    # Planes are made first: cubic along z would tear structures out of the slices between.
    np.testing.assert_allclose(resampled, np.clip(expected, image.min(), image.max()), atol=1e-3)


def _shares(labels: NDArray[np.uint8], step: Triple, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The share of each value from 0 to the highest, interpolated over the whole grid, one by one."""
    values = range(int(labels.max()) + 1)
    return np.stack([_by_scipy((labels == value).astype(np.float32), step, shape, 1) for value in values])


@pytest.mark.parametrize("step", [(0.5, 0.7, 1.3), (1.7, 0.6, 2.5), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5)])
def test_many_labels_are_as_if_every_one_were_interpolated_alone(step: Triple) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.choice([0, 0, 1, 2, 5, 40, 41, 200, 255], (5, 6, 7)).astype(np.uint8)
    labels = np.kron(coarse, np.ones((3, 3, 3), np.uint8))
    resampled = resample_labels(labels, ONE, step)
    shares = _shares(labels, step, resampled.shape)
    chosen = np.take_along_axis(shares, resampled[None].astype(int), 0)[0]
    highest = shares.max(axis=0)
    np.testing.assert_allclose(chosen, highest, atol=2 * BACKGROUND_WINS)
    tie = shares[0] >= highest - BACKGROUND_WINS / 2
    assert tie.any()
    assert (resampled[tie] == 0).all(), "the background wins a tie"


def test_half_an_organ_beside_half_the_background_is_background() -> None:
    labels = np.array([0, 3, 3, 0], np.uint8).reshape(1, 1, 4)
    assert resample_labels(labels, ONE, (1.0, 1.0, 2.0)).ravel().tolist() == [0, 0]


@pytest.mark.parametrize("target", [(0.7, 1.3, 0.9), (2.1, 1.0, 1.6)])
def test_the_order_in_memory_does_not_matter(target: Triple) -> None:
    image = _hounsfield((9, 14, 13))
    labels = np.digitize(image, [0, 1000]).astype(np.uint8)
    turned = np.ascontiguousarray(image[::-1, :, ::-1])[::-1, :, ::-1]
    for kinds in (LINEAR, CUBIC):
        expected = resample_image(image, ONE, target, kinds=kinds)
        for other in (np.asfortranarray(image), turned):
            assert np.array_equal(resample_image(other, ONE, target, kinds=kinds), expected)
    expected_labels = resample_labels(labels, ONE, target)
    assert np.array_equal(resample_labels(np.asfortranarray(labels), ONE, target), expected_labels)


def test_what_is_handed_in_is_not_changed() -> None:
    image = _hounsfield((9, 14, 13))
    before = image.copy()
    resample_image(image, ONE, (1.0, 1.0, 0.7), kinds=CUBIC)
    assert np.array_equal(image, before)
