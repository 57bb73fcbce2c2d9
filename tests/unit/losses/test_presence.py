import pytest
import torch

from pipeline.losses.supervised import in_slices, supervised_loss
from pipeline.networks.base import Output
from pipeline.params import LossParams

PRESENCE = LossParams(presence=0.1)


def test_a_slice_holds_what_its_most_active_voxels_say():
    maps = torch.zeros(1, 2, 2, 10, 10)
    maps[0, 1, 0] = -5
    maps[0, 1, 0, :1] = 3
    assert in_slices(maps, 0.1).flatten().tolist() == [0, 0, 3, 0]
    assert in_slices(maps, 0.2)[0, 1, 0].item() == pytest.approx(-1)


def test_where_a_class_lies_in_its_slice_makes_no_difference():
    logits = torch.randn(2, 3, 4, 8, 8)
    label = torch.zeros(2, 4, 8, 8, dtype=torch.int64)
    label[0, 1, 2, 3], label[1, 2, 5, 5] = 1, 2
    moved = torch.zeros_like(label)
    moved[0, 1, 7, 7], moved[1, 2, 0, 0] = 1, 2
    losses = [supervised_loss(logits, [Output()], each, PRESENCE) for each in (label, moved)]
    assert losses[0] == losses[1]
    plain = [supervised_loss(logits, [Output()], each, LossParams()) for each in (label, moved)]
    assert plain[0] != plain[1]


def test_contours_are_not_learned_from_where_nobody_drew_any():
    label = torch.zeros(1, 2, 8, 8, dtype=torch.int64)
    label[0, 1] = 1
    logits, contours = torch.randn(1, 2, 2, 8, 8), torch.randn(1, 2, 2, 8, 8, requires_grad=True)
    outputs = [Output(), Output(3.0, "contour")]
    together = supervised_loss((logits.requires_grad_(), contours), outputs, label, PRESENCE)
    alone = supervised_loss(logits, outputs[:1], label, PRESENCE)
    assert together == alone
    together.backward()
    assert contours.grad is None
