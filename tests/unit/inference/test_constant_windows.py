"""Windows of one value are computed once, and nothing else changes."""

import pytest
import torch

from pipeline.inference.constant_windows import OnceIfConstant
from pipeline.inference.sliding_window import slabs
from pipeline.networks.base import ANY_SIZE

NAN = float("nan")


class Counting:
    """A function of windows, each for itself, that counts the windows it is given."""

    def __init__(self, channels=1, classes=3):
        torch.manual_seed(0)
        self.network = torch.nn.Conv3d(channels, classes, 3, padding=1)
        self.windows = 0

    @torch.no_grad()
    def __call__(self, windows):
        self.windows += len(windows)
        return self.network(windows).softmax(dim=1)


def batch(*values, channels=1):
    """Windows of one value each; None: of noise."""
    torch.manual_seed(1)
    shape = (channels, 4, 5, 6)
    return torch.stack([torch.randn(shape) if one is None else torch.full(shape, one) for one in values])


@pytest.mark.parametrize(
    ("batches", "computed"),
    [
        ([[None, None], [None]], 3),
        ([[-1.0, -1.0, -1.0]], 1),
        ([[-1.0, -1.0], [-1.0, -1.0], [-1.0]], 1),
        ([[None, -1.0, None, -1.0], [-1.0, None]], 4),
        ([[-1.0, 0.5], [0.5, -1.0]], 4),
        ([[-1.0, 0.5, 0.5, 0.5]], 4),
        ([[-1.0], [0.5], [-1.0]], 3),
        ([[NAN, NAN], [NAN]], 3),
    ],
)
def test_windows_of_one_value_are_computed_once(batches, computed):
    look, plain = Counting(), Counting()
    once = OnceIfConstant(look)
    for values in batches:
        windows = batch(*values)
        torch.testing.assert_close(once(windows), plain(windows), atol=1e-6, rtol=0, equal_nan=True)
    assert look.windows == computed


def test_a_window_is_constant_where_each_of_its_channels_is():
    windows = batch(-1.0, -1.0, -1.0, channels=2)
    windows[1, 1] = 0.5
    windows[2, 1, 3, 4, 5] = 0.5
    look, plain = Counting(channels=2), Counting(channels=2)
    torch.testing.assert_close(OnceIfConstant(look)(windows), plain(windows), atol=1e-6, rtol=0)
    # The first two are of other values each, the third is none: it differs in its last voxel.
    assert look.windows == 3
    assert not torch.equal(plain(windows)[0], plain(windows)[1])


def test_a_volume_with_air_around_it_is_labelled_as_if_every_window_were_computed():
    torch.manual_seed(2)
    image = torch.full((1, 20, 24, 30), -1.5)
    image[:, 8:14, 9:15, 12:20] = torch.randn(6, 6, 8)
    look, plain = Counting(), Counting()
    found, expected = (
        torch.cat(list(slabs(one, ANY_SIZE, image, (6, 6, 6), 3, torch.float32)), dim=1)
        for one in (OnceIfConstant(look), plain)
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert look.windows < plain.windows / 2
