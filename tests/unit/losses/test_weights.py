import numpy as np
import pytest
import torch
from scipy import ndimage

from pipeline.errors import ParamsError
from pipeline.labels import UNKNOWN
from pipeline.losses.boundary import boundary_weights
from pipeline.losses.on_data import by_class
from pipeline.losses.segmentation import cross_entropy, segmentation_loss
from pipeline.params import BoundaryWeights, LossParams


def test_weights_of_classes_are_those_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 5, 6), generator=generator)
    label = torch.randint(3, (2, 4, 5, 6), generator=generator)
    weights = {"background": 0.2, "a": 3.0, "b": 1.0}
    found = cross_entropy(logits, label, LossParams(weights=weights))
    chosen = logits.log_softmax(1).gather(1, label[:, None])[:, 0]
    by_voxel = torch.tensor(list(weights.values()))[label]
    torch.testing.assert_close(found, -(by_voxel * chosen).sum() / by_voxel.sum())
    assert not torch.isclose(found, cross_entropy(logits, label, LossParams()))


def test_weights_go_by_name_in_the_order_of_the_classes():
    # Neither the order in which they are written nor that of the alphabet.
    labels = {"liver": 7, "spleen": 2, "pancreas": 9}
    loss = by_class(LossParams(weights={"spleen": 4}), labels)
    assert list(loss.weights.items()) == [
        ("background", 1.0),
        ("spleen", 4.0),
        ("liver", 1.0),
        ("pancreas", 1.0),
    ]
    assert by_class(LossParams(), labels) == LossParams()
    with pytest.raises(ParamsError, match="'spline', which is no label"):
        by_class(LossParams(weights={"spline": 4}), labels)


def brute_force(label, spacing, w0, sigma):
    """The formula, voxel by voxel, over every object."""
    objects = []
    for value in set(np.unique(label)) - {0, UNKNOWN}:
        found, count = ndimage.label(label == value)
        objects += [np.argwhere(found == number) for number in range(1, count + 1)]
    weights = np.zeros(label.shape)
    for place in np.ndindex(label.shape):
        apart = sorted(
            min(np.linalg.norm((voxel - place) * np.array(spacing)) for voxel in one) for one in objects
        )
        if len(apart) > 1:
            weights[place] = w0 * np.exp(-((apart[0] + apart[1]) ** 2) / (2 * sigma**2))
    return weights


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)])
def test_between_two_objects_voxels_are_heavier_by_the_u_nets_formula(spacing):
    label = np.zeros((3, 8, 12), np.int64)
    label[1, 2:5, 1:4] = 1
    label[1, 2:5, 6:9] = 1
    label[0:2, 7, 2:9] = 2
    label[2, 0, 0] = UNKNOWN
    found = boundary_weights(label, spacing, BoundaryWeights(w0=10, sigma=1.5))
    np.testing.assert_allclose(found, brute_force(label, spacing, 10, 1.5), atol=1e-4)
    assert found[1, 3, 4] > found[1, 3, 0]


def test_to_a_network_of_slices_objects_are_those_of_each_slice():
    label = np.zeros((3, 8, 12), np.int64)
    label[0, 2:5, 1:4], label[1, 2:5, 6:9], label[2, 2:5, 1:4], label[2, 2:5, 6:9] = 1, 1, 1, 1
    params = BoundaryWeights(w0=10, sigma=2)
    found = boundary_weights(label, (1, 1, 1), params, dims=2)
    assert not found[:2].any()
    np.testing.assert_allclose(found[2:], brute_force(label[2:], (1, 1, 1), 10, 2), atol=1e-4)
    assert boundary_weights(label, (1, 1, 1), params)[0].any()


def test_an_object_alone_has_no_border_with_another():
    label = np.zeros((1, 6, 6), np.int64)
    label[0, 2:4, 2:4] = 1
    assert not boundary_weights(label, (1, 1, 1), BoundaryWeights(w0=10)).any()


def test_heavier_voxels_count_more():
    logits = torch.randn((1, 2, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    label = torch.zeros((1, 1, 4, 4), dtype=torch.long)
    boundary = torch.zeros((1, 1, 4, 4))
    boundary[0, 0, 1, 1] = 1e6
    params = LossParams(dice_weight=0)
    alone = torch.nn.functional.cross_entropy(logits[..., 1, 1], label[..., 1, 1])
    torch.testing.assert_close(
        segmentation_loss(logits, label, params, boundary=boundary), alone, rtol=1e-3, atol=0
    )
