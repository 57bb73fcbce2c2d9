import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from pipeline.metrics.surface import edge, surface

SPACING = (2.5, 0.7, 1.1)


def block(shape, *corners):
    found = np.zeros(shape, bool)
    for low, high in corners:
        found[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return found


def blob(seed, shape=(14, 18, 16), threshold=0.0):
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 2) > threshold


def by_hand(truth, predicted, spacing, tolerance):
    """Every voxel of one surface against every voxel of the other, surfaces as SciPy erodes them."""
    points = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (truth, predicted)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    ours, theirs = apart.min(axis=1), apart.min(axis=0)
    both = np.concatenate([ours, theirs])
    hd95 = max(np.percentile(ours, 95), np.percentile(theirs, 95))
    return hd95, both.mean(), (both <= tolerance).mean()


def figures(found):
    return found.hd95, found.assd, found.nsd


ONE_VOXEL = block((5, 6, 7), ((0, 0, 0), (1, 1, 1)))
PAIRS = {
    "blobs": (blob(0), blob(1)),
    "touching the border": (blob(2, threshold=-0.05), blob(3, threshold=-0.1)),
    "one voxel each": (ONE_VOXEL, block((5, 6, 7), ((4, 5, 6), (5, 6, 7)))),
    "the whole image": (np.ones((4, 5, 6), bool), block((4, 5, 6), ((1, 1, 1), (3, 3, 3)))),
    "one slice": (block((1, 9, 9), ((0, 2, 2), (1, 6, 6))), block((1, 9, 9), ((0, 3, 1), (1, 8, 5)))),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_distances_are_those_of_every_pair_of_surface_voxels(pair, spacing):
    truth, predicted = PAIRS[pair]
    found = figures(surface(truth, predicted, spacing, 1.5))
    assert found == pytest.approx(by_hand(truth, predicted, spacing, 1.5), abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS)
def test_which_is_the_truth_does_not_matter(pair):
    truth, predicted = PAIRS[pair]
    there, back = surface(truth, predicted, SPACING, 2), surface(predicted, truth, SPACING, 2)
    assert figures(there) == pytest.approx(figures(back))


# Inside MONAI, one of its functions calls another in a way that it has deprecated.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("pair", PAIRS)
def test_figures_are_those_of_monai(pair):
    given = [
        torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in reversed(PAIRS[pair])
    ]
    options = {"include_background": False, "spacing": SPACING}
    theirs = (
        compute_hausdorff_distance(*given, percentile=95, **options).item(),
        compute_average_surface_distance(*given, symmetric=True, **options).item(),
        compute_surface_dice(*given, class_thresholds=[1.5], **options).item(),
    )
    assert figures(surface(*PAIRS[pair], SPACING, 1.5)) == pytest.approx(theirs, rel=1e-6)


def test_equal_masks_are_no_distance_apart():
    assert figures(surface(blob(0), blob(0), SPACING, 0)) == (0, 0, 1)


def test_a_shift_by_one_voxel_is_measured_in_millimetres():
    truth = block((9, 9, 9), ((3, 3, 3), (4, 6, 6)))
    found = surface(truth, np.roll(truth, 1, axis=0), (2.5, 1, 1), 2.4)
    assert figures(found) == (2.5, 2.5, 0)
    assert surface(truth, np.roll(truth, 1, axis=0), (2.5, 1, 1), 2.5).nsd == 1


def test_of_two_empty_masks_nothing_can_be_said():
    empty = np.zeros((3, 4, 5), bool)
    assert all(math.isnan(figure) for figure in figures(surface(empty, empty, SPACING, 1)))


@pytest.mark.parametrize("missed", [True, False])
def test_an_empty_mask_is_infinitely_far_from_any_other(missed):
    empty = np.zeros_like(ONE_VOXEL)
    masks = (ONE_VOXEL, empty) if missed else (empty, ONE_VOXEL)
    assert figures(surface(*masks, SPACING, 1000)) == (math.inf, math.inf, 0)


@pytest.mark.parametrize("mask", [blob(5), np.ones((3, 3, 3), bool), ONE_VOXEL])
def test_the_edge_is_what_an_erosion_takes_away(mask):
    np.testing.assert_array_equal(edge(mask), mask & ~ndimage.binary_erosion(mask))
