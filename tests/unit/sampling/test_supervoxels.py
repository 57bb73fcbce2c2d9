import numpy as np
import pytest

from pipeline.sampling.supervoxels import supervoxels

SPACING = (2.0, 1.0, 1.0)


def ball(shape=(16, 32, 32), radius=10.0):
    places = np.indices(shape) * np.array(SPACING)[:, None, None, None]
    middle = (np.array(shape) * SPACING / 2)[:, None, None, None]
    return np.linalg.norm(places - middle, axis=0) < radius


def test_supervoxels_keep_to_the_edges_in_the_image():
    inside = ball()
    image = inside * 100 + np.random.default_rng(0).normal(0, 10, inside.shape)
    regions = supervoxels(image.astype(np.float32), SPACING, 6)
    assert purity(regions, inside) > 0.99
    # Cubes of the same size cut through it.
    assert purity(supervoxels(np.zeros_like(image, np.float32), SPACING, 6), inside) < 0.96


def purity(regions, inside):
    """The share of voxels that are of the kind which most of their region is."""
    count, held = np.bincount(regions.ravel()), np.bincount(regions.ravel(), inside.ravel())
    return np.maximum(held, count - held).sum() / count.sum()


@pytest.mark.parametrize("edge", [4, 8])
def test_regions_are_as_large_as_was_asked_in_millimetres(edge):
    image = np.random.default_rng(0).normal(size=(16, 32, 32)).astype(np.float32)
    regions = supervoxels(image, SPACING, edge, compactness=10)
    sizes = np.bincount(regions.ravel()) * np.prod(SPACING)
    assert np.median(sizes) == pytest.approx(edge**3, rel=0.3)
    extent = [np.ptp(np.argwhere(regions == number) * SPACING, axis=0).max() for number in range(8)]
    assert max(extent) < 2 * edge


def test_numbers_are_without_gaps_and_the_same_each_time():
    image = np.random.default_rng(0).normal(size=(5, 9, 7)).astype(np.float32)
    regions = supervoxels(image, SPACING, 3)
    assert set(np.unique(regions)) == set(range(regions.max() + 1))
    np.testing.assert_array_equal(regions, supervoxels(image, SPACING, 3))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 20), (3, 4, 5)])
def test_a_small_volume_is_one_region_or_few(shape):
    regions = supervoxels(np.ones(shape, np.float32), SPACING, 50)
    assert regions.shape == shape
    assert (regions == 0).all()


def test_an_edge_far_below_a_voxel_asks_for_no_more_regions_than_voxels():
    image = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    assert supervoxels(image, SPACING, 0.001).max() < image.size


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_voxel_may_belong_to_the_next_seed_on_either_side(axis):
    # Seeds are four voxels apart, edges are not.
    for lengths in ([2, 5, 5], [5, 5, 2]):
        parts = np.repeat([0, 1, 2], lengths)
        image = np.moveaxis((100.0 * parts).astype(np.float32)[None, None], 2, axis)
        assert supervoxels(image, (1.0, 1.0, 1.0), 4).ravel().tolist() == parts.tolist()
