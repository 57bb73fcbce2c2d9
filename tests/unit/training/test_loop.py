import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.networks import build_network
from pipeline.networks.base import ANY_SIZE
from pipeline.networks.weights import load_weights
from pipeline.params import LossParams, TrainParams
from pipeline.training import loop
from pipeline.training.schedule import learning_rate
from tests.unit.training.conftest import (
    OPTIONS,
    STEPS,
    Stop,
    assert_same,
    steps_on_disk,
    sum_of_weights,
)


def stop_at(look):
    """A watch that does not come back from its `look`-th look."""
    looks = iter(range(1, 1000))

    def watch(network):
        if next(looks) == look:
            raise Stop
        return sum_of_weights(network)

    return watch


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_trainings_with_one_seed_are_the_same_to_the_last_bit(training, precision):
    runs = [training(sum_of_weights, checkpoints=name, precision=precision) for name in ("one", "other")]
    assert_same(*runs)


def test_another_seed_is_another_training(training):
    one, other = training(checkpoints="one"), training(checkpoints="other", seed=1)
    assert any(not torch.equal(weight, other[0][name]) for name, weight in one[0].items())


@pytest.mark.parametrize("look", [1, 2, 3, 4])
def test_a_training_that_was_stopped_ends_like_one_that_was_not(training, tmp_path, look):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    with pytest.raises(Stop):
        training(stop_at(look), checkpoints="stopped")
    done = 3 * look if look < 4 else STEPS
    assert steps_on_disk(tmp_path / "stopped") == [step for step in (4, 8) if step < done]
    assert_same(training(sum_of_weights, checkpoints="stopped"), undisturbed)


@pytest.mark.parametrize("drop", [{"dropout": 0.3}, {"drop_connect": 0.3}], ids=str)
def test_what_is_dropped_after_a_stop_is_what_would_have_been(training, drop):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed", **drop)
    with pytest.raises(Stop):
        training(stop_at(2), checkpoints="stopped", **drop)
    assert_same(training(sum_of_weights, checkpoints="stopped", **drop), undisturbed)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_what_normalisation_counts_and_dropout_draws_is_not_lost_either(training, padding):
    """Nor what a network by valid convolutions sees around its patch."""
    options = {"width": 1 / 16, "levels": 2, "norm": "batch", "dropout": 0.5, "padding": padding}
    given = {"network": ("unet", options)}
    undisturbed = training(sum_of_weights, checkpoints="undisturbed", **given)
    assert any(name.endswith("running_mean") for name in undisturbed[0])
    with pytest.raises(Stop):
        training(stop_at(2), checkpoints="stopped", **given)
    assert_same(training(sum_of_weights, checkpoints="stopped", **given), undisturbed)
    other = training(
        sum_of_weights, checkpoints="other", **given | {"network": ("unet", options | {"dropout": 0})}
    )
    assert other[1] != undisturbed[1]


def test_a_weight_that_no_loss_reaches_is_no_hindrance(training):
    """Where slices are judged, nobody knows of contours: what finds them does not learn."""
    given = {"network": ("dcan", {"width": 1 / 16}), "loss": LossParams(presence=0.1)}
    undisturbed = training(sum_of_weights, checkpoints="undisturbed", **given)
    with pytest.raises(Stop):
        training(stop_at(2), checkpoints="stopped", **given)
    assert_same(training(sum_of_weights, checkpoints="stopped", **given), undisturbed)


def test_a_training_stopped_again_and_again_ends_like_one_that_was_not(training):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed", checkpoint_every=2)
    for _ in range(3):
        with pytest.raises(Stop):
            training(stop_at(2), checkpoints="stopped", checkpoint_every=2)
    assert_same(training(sum_of_weights, checkpoints="stopped", checkpoint_every=2), undisturbed)


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(training, tmp_path):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    with pytest.raises(Stop):
        training(stop_at(4), checkpoints="stopped")
    newest = max((tmp_path / "stopped").glob("step_*"))
    newest.write_bytes(newest.read_bytes()[:-10])
    assert_same(training(sum_of_weights, checkpoints="stopped"), undisturbed)


def test_a_training_that_is_done_is_not_done_again(training):
    def never(_network):
        raise AssertionError("looked at")

    done = training(sum_of_weights)
    assert_same(training(never), done)


def test_a_short_training_whose_checkpoints_are_automatic_saves_its_end(training, tmp_path):
    training(steps=3, checkpoint_every="auto")
    assert steps_on_disk(tmp_path / "checkpoints") == [3]


def test_slow_steps_are_saved_by_the_clock_whose_checkpoints_are_automatic(training, tmp_path, monkeypatch):
    undisturbed = training(sum_of_weights, checkpoints="undisturbed")
    monkeypatch.setattr(loop, "AT_MOST_SECONDS", 0.0)
    with pytest.raises(Stop):
        training(stop_at(2), checkpoints="stopped", checkpoint_every="auto")
    assert steps_on_disk(tmp_path / "stopped")[-1] == 5
    assert_same(training(sum_of_weights, checkpoints="stopped"), undisturbed)


def test_the_curve_has_a_row_a_look_and_one_for_the_end(training):
    _, curve = training(lambda _network: 0.25)
    assert [row["step"] for row in curve] == [3, 6, 9, STEPS]
    assert [row["dice"] for row in curve] == [0.25] * 4
    assert all(row["loss"] > 0 for row in curve)


def test_the_loss_of_a_row_is_the_mean_since_the_row_before(training):
    _, single = training(checkpoints="one", validate_every=1)
    _, curve = training(checkpoints="other", validate_every=3)
    losses = [row["loss"] for row in single]
    expected = [np.mean(losses[first:last]) for first, last in [(0, 3), (3, 6), (6, 9), (9, STEPS)]]
    assert [row["loss"] for row in curve] == pytest.approx(expected)


def test_automatic_looks_are_ten_a_training(training):
    _, curve = training(validate_every="auto", steps=20)
    assert [row["step"] for row in curve] == list(range(2, 21, 2))


def test_what_is_watched_and_kept_is_the_average_of_the_weights(training):
    seen = []

    def watch(network):
        assert not network.training
        seen.append({name: weight.detach().clone() for name, weight in network.named_parameters()})
        return 0.0

    weights, _ = training(watch)
    for name, weight in weights.items():
        assert torch.equal(weight, seen[-1][name])


def test_looking_does_not_change_the_training(training):
    often, _ = training(checkpoints="one", validate_every=1)
    once, _ = training(checkpoints="other", validate_every=STEPS)
    for name, weight in once.items():
        assert torch.equal(weight, often[name])


def test_the_average_without_decay_forgets_the_start(training):
    # The decay grows from 0.1 at the first step: after one step nine tenths are new.
    weights, _ = training(steps=1, ema_decay=0.0)
    slow, _ = training(steps=1, ema_decay=0.999, checkpoints="slow")
    torch.manual_seed(0)
    start = dict(build_network("residual_unet", 1, 2, OPTIONS).named_parameters())
    for name, new in weights.items():
        expected = 0.1 * start[name].detach() + 0.9 * new
        torch.testing.assert_close(slow[name], expected)


@pytest.mark.parametrize(("ema_decay", "kept"), [(0.9, 0.25), (0.2, 0.2)])
def test_the_average_keeps_more_of_itself_from_step_to_step_up_to_the_decay(
    training, tmp_path, ema_decay, kept
):
    training(steps=3, checkpoint_every=1, ema_decay=ema_decay)
    before, after = (load_file(path) for path in sorted((tmp_path / "checkpoints").iterdir()))
    for name in (name.removeprefix("average/") for name in after if name.startswith("average/")):
        expected = kept * before[f"average/{name}"] + (1 - kept) * after[f"weight/{name}"]
        torch.testing.assert_close(after[f"average/{name}"], expected)


def test_each_step_has_the_rate_of_the_schedule_the_decay_and_a_gradient_that_is_clipped(
    training, monkeypatch
):
    seen, step = [], torch.optim.AdamW.step

    def spied(optimizer, *arguments, **more):
        (group,) = optimizer.param_groups
        norm = torch.stack([weight.grad.norm() for weight in group["params"]]).norm()
        seen.append((float(group["lr"]), group["weight_decay"], float(norm)))
        return step(optimizer, *arguments, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", spied)
    given = {"learning_rate": 0.01, "warmup_share": 0.5}
    training(steps=6, gradient_clip=1e-3, weight_decay=0.07, **given)
    rates, decays, norms = zip(*seen, strict=True)
    assert rates == pytest.approx([learning_rate(TrainParams(**given), step, 6) for step in range(6)])
    assert set(decays) == {0.07}
    assert norms == pytest.approx([1e-3] * 6, rel=1e-2)


@pytest.mark.parametrize(
    ("done", "since", "on_gpu", "due"),
    [
        (200, 1, False, True),
        (199, 1, False, False),
        (199, 301, False, True),
        (200, 59, True, False),
        (200, 61, True, True),
        (150, 299, True, False),
        (150, 301, True, True),
    ],
)
def test_checkpoints_come_by_steps_and_by_the_clock(done, since, on_gpu, due):
    setting = SimpleNamespace(params=TrainParams(checkpoint_every="auto"), on_gpu=on_gpu)
    assert loop._checkpoint_is_due(done, time.monotonic() - since, setting) == due


def test_training_lowers_the_loss(training):
    _, curve = training(steps=40, validate_every=10, learning_rate=0.01)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]


def test_every_step_augments_in_its_own_way(training):
    # One patch alone and weights that stand still: without augmentation all losses would be equal.
    _, curve = training(steps=4, validate_every=1, learning_rate=1e-12, rows=1)
    assert len({round(row["loss"], 4) for row in curve}) == 4


def test_the_loss_weights_of_the_parameters_are_used(training):
    _, dice = training(checkpoints="dice", steps=1, loss=LossParams(cross_entropy_weight=0))
    _, entropy = training(checkpoints="entropy", steps=1, loss=LossParams(dice_weight=0))
    _, both = training(checkpoints="both", steps=1)
    assert both[0]["loss"] == pytest.approx(dice[0]["loss"] + entropy[0]["loss"], rel=1e-5)


def test_a_class_that_nobody_looked_for_teaches_nothing(training):
    # Background or the one class that nobody looked for: whatever the network says is right.
    only_entropy = LossParams(dice_weight=0)
    _, known = training(checkpoints="known", steps=1, loss=only_entropy)
    _, unknown = training(checkpoints="unknown", steps=1, loss=only_entropy, annotated="another")
    _, named = training(checkpoints="named", steps=1, loss=only_entropy, annotated="cube;another")
    assert known[0]["loss"] > 0.1
    assert unknown[0]["loss"] == pytest.approx(0, abs=1e-5)
    assert named == known


def test_the_learning_rate_warms_up_then_follows_half_a_cosine():
    params = TrainParams(learning_rate=0.01, warmup_share=0.1)
    rates = [learning_rate(params, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.001 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.01)
    assert rates[55] == pytest.approx(0.005)
    assert rates[99] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 89 / 90)))
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_learning_rate_is_positive_at_every_step(share, steps):
    params = TrainParams(learning_rate=0.01, warmup_share=share)
    rates = [learning_rate(params, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.01 for rate in rates)


def test_weights_are_copied_and_not_shared():
    network = torch.nn.Conv3d(1, 2, 1)
    network.form = ANY_SIZE
    weights = {name: torch.ones_like(weight) for name, weight in network.named_parameters()}
    load_weights(network, weights)
    with torch.no_grad():
        network.weight.fill_(3)
    assert (weights["weight"] == 1).all()
