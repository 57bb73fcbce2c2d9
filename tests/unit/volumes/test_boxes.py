import numpy as np
import pytest

from pipeline.volumes.boxes import class_boxes, foreground_box


@pytest.mark.parametrize(
    ("corner", "end"), [((0, 0, 0), (4, 5, 6)), ((0, 2, 5), (1, 5, 6)), ((3, 0, 1), (4, 1, 4))]
)
def test_a_box_holds_all_of_a_label_and_no_plane_more(corner, end):
    label = np.zeros((4, 5, 6), np.uint8)
    box = tuple(slice(*ends) for ends in zip(corner, end, strict=True))
    for place in (corner, tuple(last - 1 for last in end)):
        label[place] = 7
    assert foreground_box(label) == box
    assert foreground_box(label > 0) == box
    assert class_boxes(label) == {7: box}


def test_each_class_has_a_box_of_its_own_in_the_whole_volume():
    label = np.zeros((4, 5, 6), np.uint8)
    label[1, 1:3, 2], label[2:4, 4, 3:6] = 1, 3
    assert class_boxes(label) == {
        1: (slice(1, 2), slice(1, 3), slice(2, 3)),
        3: (slice(2, 4), slice(4, 5), slice(3, 6)),
    }


def test_where_there_is_nothing_there_is_no_box():
    nothing = np.zeros((4, 5, 6), np.uint8)
    assert foreground_box(nothing) is None
    assert class_boxes(nothing) == {}
