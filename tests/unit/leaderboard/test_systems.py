import pytest

from pipeline.errors import ParamsError
from pipeline.leaderboard.systems import systems
from pipeline.networks import names
from pipeline.networks.compositions import NAMED
from pipeline.params import TrainParams


def test_without_a_name_everything_is_asked_for():
    found = [system.name for system in systems([])]
    assert found == [*names(), *NAMED]
    for system in systems([]):
        assert system.params(TrainParams(), "small", 7).steps == 7


def test_changes_follow_the_name():
    (system,) = systems(["unet, network.dims=2, loss.focal_gamma=2, loss.sample.of=hardest"])
    params = system.params(TrainParams(), "small", 7)
    assert params.network.options == {"dims": 2}
    assert (params.loss.focal_gamma, params.loss.sample.of) == (2, "hardest")


def test_what_the_organ_says_of_network_and_loss_does_not_count_and_the_rest_does():
    organ = TrainParams(
        network={"name": "vnet"}, loss={"focal_gamma": 1}, batch_size=3, learning_rate=0.5, steps=9
    )
    (system,) = systems(["unet"])
    params = system.params(organ, "small", 7)
    assert (params.network.name, params.loss.focal_gamma) == ("unet", 0)
    assert (params.batch_size, params.learning_rate, params.steps, params.profile) == (3, 0.5, 7, "small")


def test_where_the_organ_starts_from_a_model_systems_start_from_scratch_all_the_same():
    organ = TrainParams(start="0" * 64, transfer="partial")
    (system,) = systems(["unet"])
    params = system.params(organ, "small", 7)
    assert (params.start, params.transfer) == ("scratch", "full")


def test_a_composition_is_a_system():
    (system,) = systems(["cascade,network.grow_mm=3"])
    params = system.params(TrainParams(), "small", 7)
    assert params.before.grow_mm == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["unet,dims"], "write it as"),
        (["unet", "unet "], "twice"),
        (["residual_unet,network.channels=[4,8]"], "is no YAML: lists have commas"),
        (["unet,steps=5"], "would change its budget"),
        (["cascade,before.steps=5"], "would change its budget"),
        (["unet,start=" + "0" * 64], "would change its budget"),
        (["cascade,before={steps: 5}"], "would change its budget"),
    ],
)
def test_what_is_no_system_is_refused(asked, said):
    with pytest.raises(ParamsError, match=said):
        systems(asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("unett", "did you mean 'unet'"),
        ("unet,netwrk.dims=2", "'netwrk' is not a parameter: did you mean 'network'"),
        ("unet,loss.focal_gama=2", "'loss.focal_gama' is not a parameter: did you mean 'focal_gamma'"),
        ("unet,network=vnet", "network: write keys with values; known there: init, name"),
        ("unet,network.dim=2", "did you mean 'dims'"),
        ("unet,loss.gamma=2", "loss.gamma"),
        ("cascade,network.grow=2", "did you mean 'grow_mm'"),
    ],
)
def test_a_system_that_cannot_be_is_refused_before_anything_runs(asked, said):
    (system,) = systems([asked])
    with pytest.raises(ParamsError, match=said):
        system.params(TrainParams(), "small", 1)
