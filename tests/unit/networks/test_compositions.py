import pytest

from pipeline.networks.compositions import NAMED, written_out
from pipeline.params import TrainParams


@pytest.mark.parametrize("name", NAMED)
def test_a_composition_is_one_line_of_the_parameters(name):
    params = TrainParams(network={"name": name})
    assert params.before is not None
    assert (params.before.network.name, params.network.name) == (
        NAMED[name].first["name"],
        NAMED[name].second["name"],
    )
    assert params.before.gives == NAMED[name].gives


def test_the_second_network_of_the_focal_fcn_is_trained_by_the_focal_loss():
    params = TrainParams(network={"name": "focal_fcn"})
    assert (params.before.loss.focal_gamma, params.loss.focal_gamma) == (0, 2)
    own = TrainParams(network={"name": "focal_fcn"}, loss={"focal_gamma": 1})
    assert own.loss.focal_gamma == 1


def test_each_of_its_networks_may_be_another():
    params = TrainParams(
        network={
            "name": "cascade",
            "first": {"name": "fcn", "stride": 16},
            "grow_mm": 12,
            "folds": 3,
            "steps": 7,
        }
    )
    assert params.before.network.options == {"stride": 16}
    assert (params.before.grow_mm, params.before.folds, params.before.steps) == (12, 3, 7)
    assert params.network.options == {"dims": 2}


def test_written_out_it_is_the_same():
    named = TrainParams(network={"name": "hierarchical", "grow_mm": 9})
    full = TrainParams(
        network={"name": "unet"}, before={"network": {"name": "unet"}, "gives": "region", "grow_mm": 9}
    )
    assert named == full


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"network": {"name": "cascade", "grow": 3}}, "did you mean 'grow_mm'"),
        ({"network": {"name": "cascade"}, "before": {"folds": 2}}, "leave out 'before'"),
        ({"network": {"name": "cascade", "first": {"name": "hierarchical"}}}, "is a composition"),
        ({"network": {"name": "cascad"}}, "did you mean 'cascade'"),
    ],
)
def test_what_makes_no_composition_is_refused(train, said):
    with pytest.raises(ValueError, match=said):
        TrainParams(**train)


def test_other_networks_stay_as_they_are():
    assert written_out({"network": {"name": "unet"}, "steps": 3}) == {"network": {"name": "unet"}, "steps": 3}
    assert written_out({}) == {}
