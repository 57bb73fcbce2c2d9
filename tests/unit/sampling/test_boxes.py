import itertools

import pytest

from pipeline.sampling.boxes import patch_start


@pytest.mark.parametrize(
    ("centre", "start"), [((50, 50, 50), (42, 34, 46)), ((0, 0, 0), (0, 0, 0)), ((99, 99, 99), (84, 68, 92))]
)
def test_a_patch_lies_around_its_centre_and_within_the_volume(
    centre: tuple[int, int, int], start: tuple[int, int, int]
) -> None:
    assert patch_start(centre, (16, 32, 8), (100, 100, 100)) == start


@pytest.mark.parametrize(
    ("edge", "length", "start"), [(8, 8, 0), (8, 4, -2), (8, 5, -1), (8, 1, -3), (9, 4, -2)]
)
def test_a_volume_smaller_than_its_patch_lies_in_the_middle(edge: int, length: int, start: int) -> None:
    for centre in range(length):
        assert patch_start((centre,) * 3, (edge,) * 3, (length,) * 3) == (start,) * 3


def test_every_patch_holds_its_centre_and_all_of_a_small_volume() -> None:
    for edge, length in itertools.product(range(1, 12), range(1, 12)):
        for centre in range(length):
            (start, _, _) = patch_start((centre,) * 3, (edge,) * 3, (length,) * 3)
            assert start <= centre < start + edge
            if length >= edge:
                assert start >= 0
                assert start + edge <= length
            else:
                assert start <= 0
                assert start + edge >= length
