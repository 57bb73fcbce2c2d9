import math

import pytest
import torch

from pipeline.losses.segmentation import SMOOTH, dice_loss, segmentation_loss, soft_dice
from pipeline.params import LossParams

BOTH = LossParams()
SHAPE = (2, 3, 2, 3, 4)


@pytest.fixture
def logits():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label():
    return torch.randint(0, 3, (2, 2, 3, 4), generator=torch.Generator().manual_seed(1))


def certain_of(label, classes=3):
    """Logits of a network that is sure of `label`."""
    return 40 * torch.nn.functional.one_hot(label, classes).movedim(-1, 1).float()


def by_hand(logits, label):
    """Cross-entropy and Dice of each class but background, voxel by voxel."""
    batch, classes, *edges = logits.shape
    voxels = [(b, *place) for b in range(batch) for place in torch.cartesian_prod(*map(torch.arange, edges))]
    entropy, overlap, total = 0.0, [0.0] * classes, [0.0] * classes
    for b, z, y, x in voxels:
        exponentials = [math.exp(float(logits[b, c, z, y, x])) for c in range(classes)]
        share = [value / sum(exponentials) for value in exponentials]
        truth = int(label[b, z, y, x])
        entropy -= math.log(share[truth]) / len(voxels)
        overlap[truth] += share[truth]
        total[truth] += 1
        total = [so_far + value for so_far, value in zip(total, share, strict=True)]
    dice = [(2 * o + SMOOTH) / (t + SMOOTH) for o, t in zip(overlap, total, strict=True)]
    return entropy, dice[1:]


@pytest.mark.parametrize(
    ("form", "lacking"),
    [
        ("linear", lambda dice: 1 - sum(dice) / len(dice)),
        ("log", lambda dice: -sum(map(math.log, dice)) / len(dice)),
    ],
)
def test_it_is_the_weighted_sum_of_cross_entropy_and_what_dice_lacks(logits, label, form, lacking):
    entropy, dice = by_hand(logits, label)
    params = LossParams(dice_weight=0.7, cross_entropy_weight=0.4, dice=form)
    expected = 0.4 * entropy + 0.7 * lacking(dice)
    assert float(segmentation_loss(logits, label, params)) == pytest.approx(expected, rel=1e-5)


def test_a_class_that_the_batch_does_not_hold_is_no_part_of_the_logarithm(logits, label):
    label = label.masked_fill(label == 2, 0)
    share = logits.softmax(dim=1)
    first, second = soft_dice(share, label)[0].tolist()
    assert second < 1e-5
    assert float(dice_loss(share, label, "log")) == pytest.approx(-math.log(first), rel=1e-5)
    assert float(dice_loss(share, torch.zeros_like(label), "log")) == 0


def test_the_logarithm_tells_a_class_that_was_given_up_and_one_minus_dice_does_not():
    """One voxel of a hundred, that the network is sure not to see."""
    label = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    label[..., 0, 0] = 1
    slopes = {}
    for form in ("log", "linear"):
        logits = torch.stack(
            [torch.full_like(label, 9.0, dtype=torch.float), torch.zeros(label.shape)], dim=1
        )
        logits.requires_grad_()
        dice_loss(logits.softmax(dim=1), label, form).backward()
        slopes[form] = float(-logits.grad[0, 1, 0, 0, 0])
    assert slopes["log"] > 0.5
    assert 0 < slopes["linear"] < 1e-3


def test_soft_dice_has_a_value_for_each_class_but_background(logits, label):
    _, dice = by_hand(logits, label)
    assert soft_dice(logits.softmax(dim=1), label)[0].tolist() == pytest.approx(dice, rel=1e-5)


def test_a_weight_of_zero_switches_its_part_off(logits, label):
    entropy, dice = by_hand(logits, label)
    only_entropy = segmentation_loss(logits, label, LossParams(dice_weight=0))
    only_dice = segmentation_loss(logits, label, LossParams(cross_entropy_weight=0, dice="linear"))
    assert float(only_entropy) == pytest.approx(entropy, rel=1e-5)
    assert float(only_dice) == pytest.approx(1 - sum(dice) / len(dice), rel=1e-5)


def test_a_perfect_prediction_costs_nothing(label):
    assert float(segmentation_loss(certain_of(label), label, BOTH)) < 1e-5


def test_a_wrong_prediction_costs_more_than_a_hesitant_one(logits, label):
    wrong = segmentation_loss(certain_of((label + 1) % 3), label, BOTH)
    hesitant = segmentation_loss(torch.zeros(SHAPE), label, BOTH)
    assert wrong > 10 * hesitant > 0


def test_dice_is_taken_over_the_whole_batch():
    # The second element has nothing of class 1; taken alone, its Dice would be near 0.
    label = torch.zeros(2, 2, 2, 2, dtype=torch.long)
    label[0] = 1
    assert soft_dice(certain_of(label, 2).softmax(dim=1), label)[0].tolist() == pytest.approx([1.0])


def test_logits_in_bfloat16_are_computed_in_float32(logits, label):
    rounded = logits.bfloat16()
    loss = segmentation_loss(rounded, label, BOTH)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, segmentation_loss(rounded.float(), label, BOTH))


@pytest.mark.parametrize("present", [[0], [2], [0, 1]])
def test_the_gradient_is_finite_when_a_class_is_absent(logits, present):
    label = torch.tensor(present)[torch.arange(48) % len(present)].reshape(2, 2, 3, 4)
    logits = logits.requires_grad_()
    segmentation_loss(logits, label, BOTH).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().max() > 0


def test_the_gradient_is_finite_for_extreme_logits(label):
    logits = (100 * certain_of((label + 1) % 3)).requires_grad_()
    segmentation_loss(logits, label, BOTH).backward()
    assert torch.isfinite(logits.grad).all()


def unknown(*classes):
    """Of two elements: the first has been looked at for all, in the second nobody looked for these."""
    table = torch.zeros(2, 3, dtype=torch.bool)
    table[1, list(classes)] = True
    return table


def test_where_everything_was_looked_for_nothing_changes(logits, label):
    whole = segmentation_loss(logits, label, BOTH)
    torch.testing.assert_close(segmentation_loss(logits, label, BOTH, unknown()), whole)


def test_background_and_what_nobody_looked_for_are_one(logits, label):
    label[1][label[1] == 2] = 0
    loss = segmentation_loss(logits, label, LossParams(dice_weight=0), unknown(2))
    share = logits.softmax(dim=1)
    share[1, 0] += share[1, 2]
    chosen = share.gather(1, label[:, None])
    torch.testing.assert_close(loss, -chosen.log().mean())


def test_what_nobody_looked_for_is_neither_rewarded_nor_punished(label):
    label = torch.zeros_like(label)
    gradients = []
    for guess in (-2.0, 5.0):
        logits = torch.zeros(SHAPE)
        logits[1, 1] = -10
        logits[1, 2] = guess
        logits.requires_grad_()
        segmentation_loss(logits, label, BOTH, unknown(2)).backward()
        gradients.append(logits.grad[1, 2].abs().max())
    assert max(gradients) < 1e-4
    logits = torch.zeros(SHAPE, requires_grad=True)
    segmentation_loss(logits, label, BOTH).backward()
    assert logits.grad[1, 2].abs().min() > 1e-3, "looked for, the guess is wrong"


def test_a_voxel_of_a_class_that_was_not_looked_for_counts_as_background(logits, label):
    hidden = label.clone()
    hidden[1][label[1] == 2] = 0
    losses = [segmentation_loss(logits, one, BOTH, unknown(2)) for one in (label, hidden)]
    assert torch.isfinite(losses[0])
    torch.testing.assert_close(*losses)
