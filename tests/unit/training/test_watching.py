import pytest

from pipeline.networks.base import Form
from pipeline.training.watching import LEAST_WATCHED, WATCHED, affordable

CASES = [f"case_{number:02}" for number in range(WATCHED)]
WINDOW = (8, 8, 8)
FORM = Form(3, (0, 0, 0))


class OfShape:
    """A volume of which only the size is asked."""

    def __init__(self, *shape):
        self.shape = shape


@pytest.mark.parametrize(
    ("shape", "patches", "looked_at"),
    [
        # One window a case: all of them.
        ((8, 8, 8), 400, WATCHED),
        # 2 x 4 x 4 windows a case.
        ((14, 26, 26), 32 * 5, 5),
        ((14, 26, 26), 32 * 6 - 1, 5),
        # Too few steps for any: still enough to tell something by.
        ((100, 100, 100), 1, LEAST_WATCHED),
    ],
)
def test_looks_at_large_volumes_are_kept_in_proportion_to_the_training(shape, patches, looked_at):
    volumes = {case: OfShape(*shape) for case in CASES}
    assert affordable(CASES, volumes, WINDOW, FORM, patches) == CASES[:looked_at]


def test_where_few_cases_are_watched_there_are_no_more():
    volumes = {case: OfShape(100, 100, 100) for case in CASES}
    assert affordable(CASES[:2], volumes, WINDOW, FORM, 1) == CASES[:2]
