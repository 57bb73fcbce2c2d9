import numpy as np
import pytest
import torch

from pipeline.inference.composition import bounds, given_by, grown, look_with
from pipeline.inference.sliding_window import probabilities
from pipeline.networks.base import Form


def found_in(shape, *boxes):
    """Class probabilities (2, Z, Y, X) of an organ in boxes."""
    organ = torch.zeros(shape)
    for box in boxes:
        organ[box] = 0.9
    return torch.stack([1 - organ, organ])


class Bright(torch.nn.Module):
    """Says class 1 where its last channel is bright, and keeps what it was shown."""

    form = Form(3, (0, 0, 0))

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image)
        return torch.stack([-image[:, -1], image[:, -1]], dim=1) * 20


def looking(network, window=(4, 4, 4)):
    def look(seen, where=None):
        return probabilities(network, seen, window, 2, torch.float32, where=where)

    return look


BOX = (slice(5, 8), slice(6, 9), slice(2, 4))


def test_maps_are_the_probabilities_in_255_steps():
    found = torch.rand(3, 4, 5, 6).softmax(0)
    maps = given_by(found, {"gives": "maps", "grow_mm": 0}, (1, 1, 1))
    assert maps.shape == (2, 4, 5, 6)
    np.testing.assert_allclose(maps / 255, found[1:].numpy(), atol=0.5 / 255)


@pytest.mark.parametrize("gives", ["region", "box"])
def test_a_network_looks_where_the_one_before_found_something(gives):
    given = given_by(found_in((12, 12, 12), BOX), {"gives": gives, "grow_mm": 0}, (1, 1, 1))
    expected = np.zeros((12, 12, 12), np.uint8)
    expected[BOX] = 1
    np.testing.assert_array_equal(given[0], expected)


@pytest.mark.parametrize("gives", ["region", "box"])
def test_where_nothing_was_found_the_next_network_looks_everywhere(gives):
    assert given_by(found_in((6, 6, 6)), {"gives": gives, "grow_mm": 3}, (1, 1, 1)).all()


def test_two_finds_make_two_regions_but_one_box():
    found = found_in((12, 12, 12), (slice(1, 3),) * 3, (slice(8, 10),) * 3)
    region, box = (given_by(found, {"gives": gives, "grow_mm": 0}, (1, 1, 1)) for gives in ("region", "box"))
    assert (region.sum(), box.sum()) == (16, 9**3)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 1, 0.5)])
@pytest.mark.parametrize("corner", [0, 5, 9])
def test_a_region_grows_by_millimetres(spacing, corner):
    region = np.zeros((10, 11, 12), bool)
    region[corner, 5, corner] = True
    places = np.argwhere(np.ones_like(region)) - np.array([corner, 5, corner])
    near = (np.linalg.norm(places * spacing, axis=1) <= 3).reshape(region.shape)
    np.testing.assert_array_equal(grown(region, 3, spacing), near)


def test_voxels_outside_the_region_are_never_computed():
    network, image = Bright(), 0.5 + torch.rand(1, 16, 16, 16)
    given = given_by(found_in((16, 16, 16), (slice(0, 3),) * 3), {"gives": "region", "grow_mm": 0}, (1, 1, 1))
    share = look_with(given, "region", image, looking(network))
    everywhere = Bright()
    looking(everywhere)(image)
    computed, all_of_them = (sum(len(batch) for batch in one.seen) for one in (network, everywhere))
    # Windows of 4 that overlap by half: those that begin at 0 and 2 on each axis, of seven.
    assert (computed, all_of_them) == (2**3, 7**3)
    inside = torch.from_numpy(given[0]).bool()
    assert (share[1][inside] > 0.9).all()
    assert (share[1][~inside] == 0).all()
    assert (share[0][~inside] == 1).all()


def test_the_cut_image_maps_back_exactly():
    image = torch.rand(1, 12, 12, 12) - 0.5
    given = given_by(found_in((12, 12, 12), BOX), {"gives": "box", "grow_mm": 1}, (1, 1, 1))
    network = Bright()
    share = look_with(given, "box", image, looking(network))
    start, stop = bounds(given[0] > 0)
    assert (start, stop) == ((4, 5, 1), (9, 10, 5))
    box = tuple(map(slice, start, stop))
    torch.testing.assert_close(share[1][box], (40 * image[0][box]).sigmoid())
    outside = torch.ones(12, 12, 12, dtype=torch.bool)
    outside[box] = False
    assert (share[1][outside] == 0).all()
    # Nothing of what lies outside was seen.
    shown = torch.cat([batch.flatten() for batch in network.seen]).unique()
    assert torch.isin(shown, image[0][box]).all()


def test_maps_are_channels_behind_those_of_the_image():
    network, image = Bright(), torch.zeros(1, 8, 8, 8)
    given = given_by(found_in((8, 8, 8), (slice(2, 4),) * 3), {"gives": "maps", "grow_mm": 0}, (1, 1, 1))
    share = look_with(given, "maps", image, looking(network))
    assert all(batch.shape[1] == 2 for batch in network.seen)
    assert (share[1] > 0.9).sum() == 8


def test_where_both_regions_agree_is_looked():
    network, image = Bright(), torch.ones(1, 8, 8, 8)
    possible = torch.zeros(8, 8, 8, dtype=torch.bool)
    possible[:, :2] = True
    for gives in ("region", "box"):
        given = given_by(found_in((8, 8, 8), (slice(0, 4),) * 3), {"gives": gives, "grow_mm": 0}, (1, 1, 1))
        share = look_with(given, gives, image, looking(network), possible)
        assert (share[1] > 0.5).sum() == 4 * 2 * 4
