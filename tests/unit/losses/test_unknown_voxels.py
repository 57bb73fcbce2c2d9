"""Voxels that nobody looked at: nothing is learned from them, by whatever loss."""

import pytest
import torch

from pipeline.labels import UNKNOWN
from pipeline.losses.segmentation import SMOOTH, segmentation_loss, soft_dice
from pipeline.losses.supervised import contour, supervised_loss
from pipeline.networks.base import Output
from pipeline.params import LossParams

LOSSES = [
    {},
    {"dice_weight": 0},
    {"cross_entropy_weight": 0},
    {"cross_entropy_weight": 0, "dice": "linear"},
    {"focal_gamma": 2},
    {"sample": {"share": 0.3, "of": "hardest"}},
    {"sample": {"share": 0.3}},
    {"weights": {"background": 1, "a": 3, "b": 0.5}},
]


def patch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 3, 4, 6, 5), generator=generator)
    label = torch.randint(3, (2, 4, 6, 5), generator=generator)
    return logits, label


def hidden():
    return torch.rand((2, 4, 6, 5), generator=torch.Generator().manual_seed(9)) < 0.4


@pytest.mark.parametrize("params", LOSSES)
@pytest.mark.parametrize("target", ["label", "contour"])
def test_the_gradient_at_unknown_voxels_is_exactly_zero(params, target):
    logits, label = patch()
    logits = logits[:, :2] if target == "contour" else logits
    unknown = hidden()
    label = label.masked_fill(unknown, UNKNOWN)
    gradients = []
    for truth in (label, label.masked_fill(unknown, 0)):
        given = logits.clone().requires_grad_()
        torch.manual_seed(0)
        supervised_loss(given, [Output(target=target)], truth, LossParams(**params)).backward()
        gradients.append(given.grad)
    assert (gradients[0].movedim(1, -1)[unknown] == 0).all()
    assert (gradients[0].movedim(1, -1)[~unknown] != 0).any()
    # As background they would have taught something.
    assert (gradients[1].movedim(1, -1)[unknown] != 0).any()


@pytest.mark.parametrize("params", LOSSES[:6])
def test_the_loss_is_that_of_the_known_voxels_alone(params):
    logits, label = patch()
    # What is unknown are whole rows, so that the rest is a volume of its own.
    whole = label.clone()
    whole[:, :, 3:] = UNKNOWN
    known = segmentation_loss(logits[:, :, :, :3], label[:, :, :3], LossParams(**params))
    torch.testing.assert_close(segmentation_loss(logits, whole, LossParams(**params)), known)


@pytest.mark.parametrize("params", LOSSES)
def test_of_nothing_known_nothing_is_learned(params):
    logits, label = patch()
    given = logits.requires_grad_()
    loss = segmentation_loss(given, torch.full_like(label, UNKNOWN), LossParams(**params))
    loss.backward()
    assert torch.isfinite(loss)
    assert (given.grad == 0).all()


def test_it_goes_together_with_classes_that_nobody_looked_for():
    logits, label = patch()
    unknown_voxels = hidden()
    classes = torch.tensor([[False, True, False], [False, False, False]])
    given = logits.requires_grad_()
    label = label.masked_fill(unknown_voxels, UNKNOWN)
    segmentation_loss(given, label, LossParams(), classes).backward()
    assert (given.grad.movedim(1, -1)[unknown_voxels] == 0).all()
    assert torch.isfinite(given.grad).all()


def test_a_border_with_the_unknown_is_unknown():
    label = torch.zeros((1, 1, 1, 9), dtype=torch.long)
    label[..., 2:6] = 1
    label[..., 6:] = UNKNOWN
    assert contour(label).flatten().tolist() == [0, 0, 1, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    label[..., 2:6] = 0
    assert contour(label).flatten().tolist() == [0] * 6 + [UNKNOWN] * 3, "the background has no border"


def test_a_slice_that_is_partly_unknown_says_nothing_of_absence():
    logits = torch.zeros((1, 3, 2, 1, 1), requires_grad=True)
    label = torch.zeros((1, 2, 2, 2), dtype=torch.long)
    label[0, 0, 0, 0], label[0, 0, 0, 1] = 1, UNKNOWN
    supervised_loss(logits, [Output(target="presence")], label, LossParams()).backward()
    taught = (logits.grad[0, 1:, :, 0, 0] != 0).tolist()
    # Class 1 is in the first slice; of class 2 nobody knows; the second slice holds neither.
    assert taught == [[True, True], [False, True]]


def test_the_loss_of_slices_is_that_of_those_of_which_something_is_known():
    logits, label = patch()
    maps = logits.mean((3, 4), keepdim=True)
    hidden_slices = label.clone()
    hidden_slices[:, 2:] = UNKNOWN
    found = supervised_loss(maps, [Output(target="presence")], hidden_slices, LossParams())
    known = supervised_loss(maps[:, :, :2], [Output(target="presence")], label[:, :2], LossParams())
    torch.testing.assert_close(found, known)


def test_whether_a_slice_holds_a_class_that_nobody_looked_for_teaches_nothing():
    logits, label = patch()
    maps = logits.mean((3, 4), keepdim=True).requires_grad_()
    classes = torch.tensor([[False, True, False], [False, False, False]])
    supervised_loss(maps, [Output(target="presence")], label, LossParams(), classes).backward()
    taught = (maps.grad != 0).any(2)[..., 0, 0].tolist()
    assert taught == [[False, False, True], [False, True, True]]


def test_the_background_of_a_case_in_which_nobody_looked_for_a_class_may_have_its_border():
    logits, label = patch()
    given = logits[:, :2].clone().requires_grad_()
    classes = torch.tensor([[False, True, False], [False, False, False]])
    supervised_loss(given, [Output(target="contour")], label, LossParams(), classes).backward()
    taught = (given.grad != 0).any(1)
    assert torch.equal(taught[0], label[0] > 0)
    assert taught[1].all()


@pytest.mark.parametrize("classes", [2, 3])
def test_where_all_is_known_dice_has_the_bits_it_had(classes):
    """As if there were no mask: its sums are made in the same order."""
    generator = torch.Generator().manual_seed(0)
    share = torch.randn((2, classes, 12, 20, 16), generator=generator).softmax(1)
    label = torch.randint(classes, (2, 12, 20, 16), generator=generator)
    truth = torch.nn.functional.one_hot(label, classes).movedim(-1, 1)[:, 1:].contiguous().float()
    axes = (0, 2, 3, 4)
    both, sizes = (share[:, 1:] * truth).sum(axes), share[:, 1:].sum(axes) + truth.sum(axes)
    assert torch.equal(soft_dice(share, label)[0], (2 * both + SMOOTH) / (sizes + SMOOTH))
