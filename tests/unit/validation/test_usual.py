import numpy as np
import pandas as pd
import pytest

from pipeline.validation.organs import kind_of
from pipeline.validation.usual import usual_volume, volume_limits


def test_outliers_do_not_widen_what_is_usual():
    organs = pd.Series([100.0, 104, 96, 110, 91, 102, 98, 105])
    outliers = pd.Series([5.0, 4000.0])
    low, high = usual_volume(pd.concat([organs, outliers]))
    assert low > 40
    assert high < 250


def test_equal_organs_leave_room_for_the_next():
    low, high = usual_volume(pd.Series([100.0] * 10))
    assert low < 80
    assert high > 125


def test_organs_that_differ_more_leave_more_room():
    # Median 0.4, and the median of what is apart from it 0.2.
    low, high = usual_volume(pd.Series(np.exp(np.arange(9) / 10)))
    assert np.log([low, high]) == pytest.approx([0.4 - 6 * 1.4826 * 0.2, 0.4 + 6 * 1.4826 * 0.2])


def test_eight_organs_are_enough_and_absent_ones_do_not_count():
    organs = pd.Series([100.0] * 8)
    assert usual_volume(pd.concat([organs, pd.Series([0.0, float("nan")])])) == usual_volume(organs)
    assert usual_volume(organs) is not None


def test_few_or_absent_organs_are_no_distribution():
    assert usual_volume(pd.Series([100.0] * 7 + [0.0] * 10)) is None


@pytest.mark.parametrize(
    ("usual", "limits"),
    [
        (None, (500, 4500)),
        ((1000.0, 9000.0), (1000, 4500)),
        ((100.0, 2000.0), (500, 2000)),
        # All are as small as a mouse's: the spacing is wrong, and is to be told.
        ((1.0, 3.0), (500, 4500)),
    ],
)
def test_what_is_plausible_is_narrowed_by_what_is_usual(usual, limits):
    assert volume_limits(kind_of("liver"), usual) == (*limits, "plausible are")


def test_of_an_unknown_organ_the_usual_holds_or_nothing():
    assert volume_limits(None, (1.0, 3.0)) == (1.0, 3.0, "usual in these data are")
    assert volume_limits(None, None) == (None, None, "")
