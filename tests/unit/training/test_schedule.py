import math

import pytest

from pipeline.params import TrainParams
from pipeline.training.schedule import DECAY_SHARE, Schedule, learning_rate
from tests.unit.training.conftest import Stop, assert_same, steps_on_disk

NAN = float("nan")


def schedule(*dice, steps=100, patience=2, every=10, **params):
    params = TrainParams(
        learning_rate=0.01, warmup_share=0.1, patience=patience, validate_every=every, **params
    )
    curve = [{"step": every * number, "dice": value} for number, value in enumerate(dice, start=1)]
    return Schedule(params, steps, curve)


def test_without_patience_it_is_the_cosine_of_always_whatever_the_curve_says():
    flat = schedule(*[0.5] * 9, patience=None)
    assert [flat.rate(step) for step in range(100)] == [
        learning_rate(flat.params, step, 100) for step in range(100)
    ]
    assert (flat.end, flat.plateau, flat.why()) == (100, None, "")


def test_the_rate_stays_high_until_the_dice_stands_still_and_falls_to_zero_then():
    still = schedule(0.4, 0.5, 0.504, 0.5)
    assert still.plateau == 40
    assert still.end == 50
    assert [still.rate(step) for step in range(10)] == pytest.approx(
        [0.001 * (step + 1) for step in range(10)]
    )
    assert {still.rate(step) for step in range(10, 41)} == {0.01}
    falling = [still.rate(step) for step in range(40, 50)]
    assert falling == pytest.approx([0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    assert still.why() == "at step 40, 2 looks in a row had gained no more than 0.005 over a Dice of 0.500"


def test_what_is_seen_while_the_rate_falls_changes_nothing():
    still, after = schedule(0.5, 0.5, 0.5), schedule(0.5, 0.5, 0.5, 0.9)
    assert (still.plateau, still.end) == (after.plateau, after.end) == (30, 38)


@pytest.mark.parametrize(
    "dice",
    [
        pytest.param([0.5, 0.5, 0.6, 0.6, 0.61], id="gains begin anew"),
        pytest.param([0.3 + 0.06 * look for look in range(10)], id="it learns to the end"),
        pytest.param([0.0] * 10, id="it has not been found yet"),
        pytest.param([NAN] * 10, id="nothing is known"),
        pytest.param([0.5, NAN, NAN, NAN, 0.5], id="of some looks nothing is known"),
        pytest.param([0.3 + 0.06 * look for look in range(7)] + [0.7] * 3, id="it is too late to end early"),
    ],
)
def test_what_is_hard_takes_all_steps_and_the_rate_falls_in_time(dice):
    hard = schedule(*dice)
    assert (hard.plateau, hard.end) == (None, 100)
    latest = int(100 / (1 + DECAY_SHARE))
    assert {hard.rate(step) for step in range(10, latest + 1)} == {0.01}
    rates = [hard.rate(step) for step in range(latest, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.0001


def test_while_it_warms_up_nothing_stands_still():
    assert schedule(*[0.5] * 9, every=1).plateau is None
    assert schedule(*[0.5] * 10, every=1).plateau == 10


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("patience", [1, 3])
def test_at_every_step_something_is_learned_and_it_ends_in_time(steps, patience):
    for still in range(steps + 1):
        found = schedule(*[0.5] * still, steps=steps, patience=patience, every=1)
        assert 1 <= found.end <= steps
        assert all(0 < found.rate(step) <= 0.01 for step in range(found.end))


GIVEN = {"patience": 2, "steps": 40, "learning_rate": 3e-3}
"""With a look every 3 steps and a Dice that stands still: plateau after 9 steps, end after 11."""


def test_a_training_ends_early_and_says_when_and_why(training, tmp_path, capsys):
    _, curve = training(**GIVEN)
    assert [row["step"] for row in curve] == [3, 6, 9, 11]
    assert steps_on_disk(tmp_path / "checkpoints") == [8, 11]
    said = capsys.readouterr().err
    why = "at step 9, 2 looks in a row had gained no more than 0.005 over a Dice of 0.500"
    assert f"the learning rate falls to zero until step 11: {why}" in said
    assert f"done at step 11 of 40: {why}" in said


@pytest.mark.parametrize("look", [1, 2, 3, 4])
def test_a_killed_training_ends_at_the_same_step_with_the_same_weights(training, look):
    undisturbed = training(checkpoints="undisturbed", **GIVEN)
    looks = iter(range(1, 100))

    def watch(_network):
        if next(looks) == look:
            raise Stop
        return 0.5

    with pytest.raises(Stop):
        training(watch, checkpoints="stopped", **GIVEN)
    assert_same(training(checkpoints="stopped", **GIVEN), undisturbed)


def test_a_training_that_ended_early_is_not_gone_on_with(training):
    def never(_network):
        raise AssertionError("looked at")

    done = training(**GIVEN)
    assert_same(training(never, **GIVEN), done)
