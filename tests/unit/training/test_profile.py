import pytest
import torch

from pipeline.params import TrainParams
from pipeline.training.profile import FULL, SMALL, choose_profile, device, precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "profile"), [("small", SMALL), ("full", FULL)])
def test_a_named_profile_is_taken_on_any_machine(name, profile):
    assert choose_profile(TrainParams(profile=name)) == profile


def test_the_machine_decides_where_nobody_else_does():
    assert choose_profile(TrainParams()) == (FULL if torch.cuda.is_available() else SMALL)
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_what_the_parameters_say_goes_before_the_profile():
    own = {"steps": 7, "batch_size": 3, "learning_rate": 0.5}
    chosen = choose_profile(TrainParams(profile="full", **own))
    assert (chosen.name, chosen.batch_size, chosen.steps) == ("full", 3, 7)
    assert chosen.learning_rate == 0.5


def test_one_value_of_the_parameters_leaves_the_others_to_the_profile():
    chosen = choose_profile(TrainParams(profile="small", steps=7))
    assert (chosen.batch_size, chosen.steps) == (SMALL.batch_size, 7)
    assert chosen.learning_rate == SMALL.learning_rate


def test_a_batch_that_was_planned_is_that_of_a_gpu():
    assert choose_profile(TrainParams(profile="full"), 3).batch_size == 3
    assert choose_profile(TrainParams(profile="full", batch_size=5), 3).batch_size == 5
    assert choose_profile(TrainParams(profile="small"), 3).batch_size == SMALL.batch_size


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_named_precision_is_taken_on_any_machine(name):
    assert precision(TrainParams(precision=name), CPU) == getattr(torch, name)


def test_automatic_precision_is_one_that_can_be_computed_in():
    found = precision(TrainParams(), CPU)
    assert found in (torch.float32, torch.bfloat16)
    assert precision(None, CPU) == found
    with torch.autocast("cpu", found, found != torch.float32):
        assert torch.nn.functional.conv3d(torch.ones(1, 1, 3, 3, 3), torch.ones(1, 1, 3, 3, 3)) == 27
