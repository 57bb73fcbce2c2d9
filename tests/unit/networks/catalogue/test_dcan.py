import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.losses.supervised import contour
from pipeline.networks.catalogue.dcan import DCAN, fused


def touching_discs():
    """Two discs that share a border, as one class, and the border of either: (1, 1, 32, 64) each."""
    y, x = np.mgrid[:32, :64]
    discs = [(y - 16) ** 2 + (x - centre) ** 2 <= 12**2 for centre in (20, 43)]
    rims = [disc & ~ndimage.binary_erosion(disc, iterations=2) for disc in discs]
    as_tensor = [torch.from_numpy(np.logical_or(*pair))[None, None] for pair in (discs, rims)]
    return as_tensor[0], as_tensor[1]


def sure(mask):
    """Logits (1, 2, 1, 32, 64) of a network that is sure of a mask."""
    return torch.stack([(~mask).float(), mask.float()], dim=1) * 10


def test_touching_discs_come_apart():
    objects, rims = touching_discs()
    assert ndimage.label(objects[0, 0])[1] == 1
    found = fused(sure(objects), sure(rims)).argmax(1)[0, 0]
    assert ndimage.label(found)[1] == 2


def test_where_there_is_no_contour_objects_stay():
    objects, rims = touching_discs()
    found = fused(sure(objects), sure(torch.zeros_like(rims))).argmax(1)
    assert torch.equal(found.bool()[:, None][0], objects[0][None])


@pytest.mark.parametrize("dims", [2, 3])
def test_objects_contours_and_three_auxiliary_classifiers_are_judged(dims):
    network = DCAN(1, 3, dims=dims, width=0.1)
    outputs = network(torch.randn(2, 1, 16, 16, 32))
    assert [said.target for said in network.form.outputs] == ["label", "contour", "label", "label", "label"]
    assert [output.shape[1] for output in outputs] == [3, 2, 3, 3, 3]


def test_contours_are_where_a_labelled_object_ends():
    label = torch.zeros(1, 1, 5, 9, dtype=torch.int64)
    label[..., 1:4, 1:8] = 1
    label[..., 1:4, 5:8] = 2
    expected = label.clone().bool()
    # Inside of each there is one voxel, or two, whose neighbours are all of its class.
    expected[..., 2, 2:4] = False
    expected[..., 2, 6] = False
    assert torch.equal(contour(label).bool(), expected)
