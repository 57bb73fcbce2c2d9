import math
from itertools import pairwise

import pytest
import torch

from pipeline.inference.sliding_window import _along, _gaussian, probabilities, slabs, windows
from pipeline.networks.base import Form

FLOAT = torch.float32
WHOLE_PATCH = Form(3, (0, 0, 0))
"""Of a network whose word about a voxel may depend on all of the window."""
VOXEL = Form(3, (1, 1, 1))


class Recorder(torch.nn.Module):
    """A network of 1x1x1 convolutions that counts how often each value has been seen."""

    def __init__(self, classes=3, channels=1, form=WHOLE_PATCH):
        super().__init__()
        self.form = form
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(channels, 5, 1), torch.nn.LeakyReLU(), torch.nn.Conv3d(5, classes, 1)
        )
        self.batches = []

    def forward(self, image):
        self.batches.append(image.clone())
        return self.layers(image)


def volume(*shape, channels=1):
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(1))


SHAPES = [(16, 16, 16), (17, 9, 31), (5, 6, 7), (3, 40, 8), (1, 1, 1), (8, 8, 9)]


@pytest.mark.parametrize("window", [(8, 8, 8), (4, 6, 10), (16, 8, 4)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_that_sees_single_voxels_gives_what_it_gives_of_the_whole(shape, window):
    network, image = Recorder(), volume(*shape)
    found = probabilities(network, image, window, 3, FLOAT)
    with torch.no_grad():
        whole = network.layers(image[None]).softmax(dim=1)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_channel_is_seen_in_its_place(shape):
    network, image = Recorder(channels=3), volume(*shape, channels=3)
    found = probabilities(network, image, (8, 8, 8), 3, FLOAT)
    with torch.no_grad():
        whole = network.layers(image[None]).softmax(dim=1)[0]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)
    assert all(batch.shape[1:] == (3, 8, 8, 8) for batch in network.batches)


class Valid(torch.nn.Module):
    """Of which no output voxel has seen anything but its surroundings, which are not padded with zeros."""

    form = Form(3, (5, 3, 1), margin=(2, 1, 0))

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(1, 3, (5, 3, 1))

    def forward(self, image):
        return self.layer(image)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_that_loses_voxels_at_the_sides_sees_the_edge_repeated_there(shape):
    network, image = Valid(), volume(*shape)
    found = probabilities(network, image, (8, 6, 4), 3, FLOAT)
    with torch.no_grad():
        padded = torch.nn.functional.pad(image[None], (0, 0, 1, 1, 2, 2), mode="replicate")
        whole = network(padded).softmax(dim=1)[0]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_voxel_is_seen(shape):
    network = Recorder()
    # Every voxel has a value of its own.
    image = torch.arange(float(torch.tensor(shape).prod())).reshape(1, *shape)
    probabilities(network, image, (8, 8, 8), 3, FLOAT)
    seen = torch.cat([batch.flatten() for batch in network.batches]).unique()
    assert torch.equal(seen, image.flatten())


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_windows_come_in_batches_of_a_size(batch_size):
    network, image = Recorder(), volume(12, 12, 12)
    probabilities(network, image, (8, 8, 8), 3, FLOAT, batch_size)
    sizes = [len(batch) for batch in network.batches]
    assert sum(sizes) == 8
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
    assert all(batch.shape[1:] == (1, 8, 8, 8) for batch in network.batches)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_probabilities_add_up_to_one(precision):
    found = probabilities(Recorder(), volume(11, 13, 9), (8, 8, 8), 3, precision)
    assert found.min() >= 0
    torch.testing.assert_close(found.sum(dim=0), torch.ones(11, 13, 9), atol=1e-5, rtol=0)


def test_a_volume_smaller_than_the_window_lies_in_its_middle_and_repeats_its_edge():
    network = Recorder()
    image = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    probabilities(network, image, (4, 4, 6), 3, FLOAT)
    (window,) = network.batches
    expected = torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0, 3.0]).expand(4, 4, 6)
    assert torch.equal(window[0, 0], expected)


def test_the_middle_of_a_window_counts_more_than_its_edge():
    class Edge(torch.nn.Module):
        form = WHOLE_PATCH

        """Sure of class 1 in the outermost voxels of a window, of class 0 further in."""

        def forward(self, image):
            logits = torch.full((len(image), 2, *image.shape[2:]), -20.0)
            logits[:, 1] = 20
            logits[:, 1, 1:-1, 1:-1, 1:-1] = -20
            logits[:, 0] = -logits[:, 1]
            return logits

    found = probabilities(Edge(), volume(16, 16, 16), (8, 8, 8), 2, FLOAT)
    assert (found[0, 3:-3, 3:-3, 3:-3] > 0.5).all()


def test_weights_are_highest_in_the_middle_and_never_zero():
    weight = _gaussian((8, 5, 64), (False, False, False))
    assert weight.shape == (8, 5, 64)
    assert weight.min() > 0
    assert weight.argmax() in torch.arange(weight.numel()).reshape(8, 5, 64)[3:5, 2, 31:33]
    torch.testing.assert_close(weight, weight.flip(0, 1, 2))
    # An eighth of the edge from the middle, and a quarter.
    along = _gaussian((1, 1, 17), (False, False, False))[0, 0]
    assert along[8] == 1
    assert along[[10, 12]].tolist() == pytest.approx([math.exp(-((16 / 17) ** 2) / 2 * n**2) for n in (1, 2)])


@pytest.mark.parametrize("edge", [1, 2, 7, 8, 16])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 100])
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0])
def test_windows_reach_from_end_to_end_and_overlap(length, edge, overlap):
    starts = _along(length, edge, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - edge)
    assert all(0 < second - first <= math.ceil(edge * (1 - overlap)) for first, second in pairwise(starts))


def test_weights_do_not_fall_along_an_axis_that_every_window_shows_whole():
    weight = _gaussian((8, 5, 6), (True, False, False))
    assert torch.equal(weight, weight[:1].expand(8, 5, 6))


FLAT = Form(2, (1, 30, 30), multiple=(1, 4, 4))


@pytest.mark.parametrize("overlap", [0.5, 0.25])
@pytest.mark.parametrize("form", [WHOLE_PATCH, VOXEL, FLAT])
def test_windows_are_counted_before_they_are_looked_at(overlap, form):
    network = Recorder(form=form)
    probabilities(network, volume(9, 20, 4), (8, 7, 8), 3, FLOAT, overlap=overlap)
    assert sum(map(len, network.batches)) == windows((9, 20, 4), (8, 7, 8), form, overlap)


@pytest.mark.parametrize(
    ("form", "counted"), [(VOXEL, 2 * 3 * 4), (FLAT, 2 * 5 * 7), (WHOLE_PATCH, 3 * 5 * 7)]
)
def test_windows_overlap_only_along_axes_where_that_changes_something(form, counted):
    network, image = Recorder(form=form), volume(16, 24, 32)
    found = probabilities(network, image, (8, 8, 8), 3, FLOAT)
    assert sum(map(len, network.batches)) == counted
    with torch.no_grad():
        whole = network.layers(image[None]).softmax(dim=1)[0]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("form", "complete"),
    [
        (Form(2, (1, 21, 21)), (True, False, False)),
        (Form(3, (21, 21, 21), margin=(10, 10, 10)), (True, True, True)),
        (Form(3, (28, 5, 6), margin=(14, 1, 2)), (True, False, False)),
        # What it says depends on which voxels of a stride a window begins with.
        (Form(3, (3, 3, 3), margin=(1, 1, 1), multiple=(1, 3, 1)), (True, False, True)),
        # As far as the patch goes.
        (Form(3, (0, 1, 0), margin=(4, 0, 0)), (False, True, False)),
    ],
)
def test_a_form_tells_along_which_axes_a_window_shows_all(form, complete):
    assert form.complete == complete


def test_the_network_and_the_volume_stay_as_they_were():
    network, image = Recorder(), volume(9, 9, 9)
    before = image.clone()
    found = probabilities(network, image, (8, 8, 8), 3, FLOAT)
    assert torch.equal(image, before)
    assert not found.requires_grad
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_without_a_wanted_voxel_are_not_computed(shape):
    image = volume(*shape)
    where = torch.zeros(shape, dtype=torch.bool)
    where[:2, :2, :2] = True
    network, everywhere = Recorder(), Recorder()
    found = probabilities(network, image, (4, 4, 4), 3, FLOAT, where=where)
    whole = probabilities(everywhere, image, (4, 4, 4), 3, FLOAT)
    torch.testing.assert_close(found[:, where], whole[:, where])
    assert (found[0][~where] == 1).all()
    assert (found[1:][:, ~where] == 0).all()
    computed, of = (sum(map(len, one.batches)) for one in (network, everywhere))
    assert computed < of or max(shape) <= 4 or min(shape) == 1


def test_nothing_wanted_is_background_everywhere():
    network = Recorder()
    nowhere = torch.zeros((6, 6, 6), dtype=torch.bool)
    found = probabilities(network, volume(6, 6, 6), (4, 4, 4), 3, FLOAT, where=nowhere)
    assert network.batches == []
    assert (found[0] == 1).all()


@pytest.mark.parametrize("shape", [*SHAPES, (40, 7, 9)])
@pytest.mark.parametrize("wanted", [None, (0, 3), (-2, None)])
def test_slabs_come_in_order_and_no_deeper_than_a_window(shape, wanted):
    network, image = Recorder(), volume(*shape)
    where = None
    if wanted is not None:
        where = torch.zeros(shape, dtype=torch.bool)
        where[slice(*wanted)] = True

    def look(windows):
        return network.layers(windows).softmax(1)

    parts = list(slabs(look, network.form, image, (8, 8, 8), 3, FLOAT, where=where))
    assert all(1 <= part.shape[1] <= 8 for part in parts)
    whole = probabilities(network, image, (8, 8, 8), 3, FLOAT, where=where)
    assert torch.equal(torch.cat(parts, dim=1), whole)
