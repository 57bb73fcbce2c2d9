import math

import pytest

from pipeline.networks.strides import plan_kernels, plan_strides


def coarsest(patch, strides):
    return [edge // math.prod(axis) for edge, axis in zip(patch, zip(*strides, strict=True), strict=True)]


def test_isotropic_patches_are_halved_alike():
    assert plan_strides((32, 32, 32), (1, 1, 1), 4) == [(1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_thick_slices_wait_until_the_plane_has_come_near_them():
    strides = plan_strides((16, 128, 128), (5.0, 1.0, 1.0), 5)
    assert strides == [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2)]


def test_no_axis_falls_below_four_voxels():
    patch = (8, 16, 64)
    strides = plan_strides(patch, (1, 1, 1), 6)
    assert coarsest(patch, strides) == [4, 4, 4]


def test_odd_edges_are_not_halved():
    assert plan_strides((9, 12, 10), (1, 1, 1), 3) == [(1, 1, 1), (1, 2, 2), (1, 1, 1)]


def test_an_axis_that_cannot_be_halved_does_not_hold_back_the_others():
    patch = (4, 64, 64)
    assert coarsest(patch, plan_strides(patch, (1, 1, 1), 5)) == [4, 4, 4]


def test_one_level_has_no_stride_but_its_own():
    assert plan_strides((8, 8, 8), (1, 1, 1), 1) == [(1, 1, 1)]


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5, 0.7, 0.7), (0.5, 3, 1), (2.5, 1.5, 1.5)])
@pytest.mark.parametrize("patch", [(40, 56, 40), (8, 8, 8), (24, 96, 48), (7, 16, 32)])
def test_strides_divide_the_patch(patch, spacing):
    strides = plan_strides(patch, spacing, 5)
    for edge, axis in zip(patch, zip(*strides, strict=True), strict=True):
        assert edge % math.prod(axis) == 0
        assert edge // math.prod(axis) >= min(edge, 4)


def test_kernels_do_not_reach_across_thick_slices_until_the_plane_is_as_coarse():
    strides = plan_strides((16, 128, 128), (5.0, 1.0, 1.0), 5)
    assert plan_kernels((5.0, 1.0, 1.0), strides) == [(1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 3]
    assert plan_kernels((1.0, 1.0, 1.0), strides[:1]) == [(3, 3, 3)]
