import numpy as np
import pytest

from pipeline.labels import UNKNOWN
from pipeline.volumes.annotation import FULL, Annotation

SPACING = (3.0, 1.0, 1.0)


def test_a_full_annotation_is_taken_as_it_is():
    label = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert FULL.applied(label, SPACING) is label
    assert FULL.stored(label) is label


def test_slices_without_a_labelled_voxel_are_unknown_where_some_are_annotated():
    label = np.zeros((5, 4, 4), np.uint8)
    label[1, 1:3, 1:3] = 2
    label[3, 0, 0] = 1
    told = Annotation("sparse").applied(label, SPACING)
    np.testing.assert_array_equal(told[[1, 3]], label[[1, 3]])
    assert (told[[0, 2, 4]] == UNKNOWN).all()


def test_a_value_may_say_where_nobody_looked():
    label = np.array([[[0, 1, 9], [9, 2, 0]]], np.uint8)
    told = Annotation("sparse", unlabelled=9).applied(label, SPACING)
    assert told.tolist() == [[[0, 1, UNKNOWN], [UNKNOWN, 2, 0]]]


def test_a_point_becomes_what_is_as_large_in_millimetres_and_around_it_nobody_knows():
    label = np.zeros((15, 41, 41), np.uint8)
    label[7, 20, 20] = 3
    told = Annotation("points", size_mm=(18, 12, 12)).applied(label, SPACING)
    places = np.indices(label.shape) - np.array([7, 20, 20])[:, None, None, None]
    apart = np.sqrt((places[0] * 3 / 9) ** 2 + (places[1] / 6) ** 2 + (places[2] / 6) ** 2)
    np.testing.assert_array_equal(told == 3, apart <= 1)
    np.testing.assert_array_equal(told == UNKNOWN, (apart > 1) & (apart < 1.5))
    assert (told[apart >= 1.5] == 0).all()


def test_between_two_points_a_voxel_belongs_to_the_nearer_one():
    label = np.zeros((1, 20, 30), np.uint8)
    label[0, 10, 10], label[0, 10, 15] = 1, 2
    told = Annotation("points", size_mm=(3, 10, 10)).applied(label, SPACING)
    assert told[0, 10, 8:13].tolist() == [1] * 5
    assert told[0, 10, 13:18].tolist() == [2] * 5


@pytest.mark.parametrize("place", [(0, 0, 0), (4, 9, 9)])
def test_a_point_at_the_border_is_cut_off_there(place):
    label = np.zeros((5, 10, 10), np.uint8)
    label[place] = 1
    told = Annotation("points", size_mm=(6, 6, 6)).applied(label, SPACING)
    assert told[place] == 1
    assert 0 < (told == 1).sum() < 0.3 * told.size


def test_a_mark_of_several_voxels_is_one_point_and_smaller_than_a_voxel_it_is_one():
    label = np.zeros((5, 10, 10), np.uint8)
    label[2, 4:6, 4:6] = 1
    told = Annotation("points", size_mm=(0.5, 0.5, 0.5)).applied(label, SPACING)
    assert 1 <= (told == 1).sum() <= 4


def test_a_mark_across_two_thick_slices_is_not_lost_between_them():
    label = np.zeros((6, 12, 12), np.uint8)
    label[2:4, 6, 6] = 1
    told = Annotation("points", size_mm=(3, 4, 4)).applied(label, (5.0, 1.0, 1.0))
    assert (told[2:4, 6, 6] == 1).all()


def test_of_an_image_each_part_of_a_slice_tells_the_classes_it_holds():
    label = np.zeros((4, 6, 6), np.uint8)
    label[1, 2, 2] = 1
    label[2, 0, 0], label[2, 5, 5], label[2, 3, 3] = 1, 2, 5
    told = Annotation("image").stored(label)
    assert not told[[0, 3]].any()
    assert (told[1] == 1).all()
    for y in range(4):
        for x in range(4):
            assert set(told[2, y : y + 3, x : x + 3].ravel()) == {1, 2, 5}
