"""The voxels that the cross-entropy is taken over, and how much each counts."""

import pytest
import torch

from pipeline.losses.segmentation import cross_entropy
from pipeline.params import LossParams

SHAPE = (2, 3, 4, 5, 6)


@pytest.fixture
def logits():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label():
    return torch.randint(0, 3, (2, 4, 5, 6), generator=torch.Generator().manual_seed(1))


def voxelwise(logits, label):
    """Loss of each voxel and the probability of its true class."""
    right = logits.softmax(1).gather(1, label[:, None]).flatten()
    return -right.log(), right


def test_without_gamma_the_focal_loss_is_the_cross_entropy(logits, label):
    plain = torch.nn.functional.cross_entropy(logits, label)
    assert cross_entropy(logits, label, LossParams()) == plain
    almost = cross_entropy(logits, label, LossParams(focal_gamma=1e-6))
    torch.testing.assert_close(almost, plain)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_the_focal_loss_is_its_formula(logits, label, gamma):
    losses, right = voxelwise(logits, label)
    expected = ((1 - right) ** gamma * losses).mean()
    torch.testing.assert_close(cross_entropy(logits, label, LossParams(focal_gamma=gamma)), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_a_voxel_that_is_surely_right_has_a_gradient_that_is_a_number(label, gamma):
    sure = (60.0 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1)).requires_grad_()
    cross_entropy(sure, label, LossParams(focal_gamma=gamma)).backward()
    assert torch.isfinite(sure.grad).all()


def test_what_is_hard_gets_a_larger_share_of_the_gradient(logits, label):
    shares = []
    losses, _ = voxelwise(logits, label)
    hard = (losses > losses.median()).view(label.shape)
    for gamma in (0.0, 2.0):
        given = logits.clone().requires_grad_()
        cross_entropy(given, label, LossParams(focal_gamma=gamma)).backward()
        gradient = given.grad.abs().sum(1)
        shares.append(gradient[hard].sum() / gradient.sum())
    assert shares[1] > shares[0] + 0.05


def test_the_hardest_voxels_are_those_with_the_largest_loss(logits, label):
    losses, _ = voxelwise(logits, label)
    params = LossParams(sample={"share": 0.25, "of": "hardest"})
    expected = losses.sort(descending=True).values[: len(losses) // 4].mean()
    torch.testing.assert_close(cross_entropy(logits, label, params), expected)


def test_random_voxels_give_the_loss_of_all_in_expectation(logits, label):
    torch.manual_seed(0)
    params = LossParams(sample={"share": 0.1})
    drawn = torch.stack([cross_entropy(logits, label, params) for _ in range(2000)])
    whole = cross_entropy(logits, label, LossParams())
    assert drawn.std() > 0
    assert abs(drawn.mean() - whole) < 4 * drawn.std() / len(drawn) ** 0.5
