import json
import re

import pytest
import torch
from safetensors import safe_open

from pipeline.errors import DataError
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.trouble import check_collapse
from pipeline.volumes.store import SUFFIX, write_case
from tests.unit.training.conftest import NORMALISATION, cube, steps_on_disk


@pytest.fixture
def one_bad_voxel(tmp_path):
    """The cases, one of which has a voxel that is no number; one patch of eight holds it."""
    for number in range(2):
        image, label = cube(number)
        if number == 1:
            image[10, 10, 5] = float("nan")
        write_case(tmp_path / "bad" / f"case_{number}{SUFFIX}", image, label, {})
    return tmp_path / "bad"


def broken(training, **given):
    """What a training says that breaks down, and at which step."""
    with pytest.raises(DataError) as raised:
        training(**given)
    said = str(raised.value)
    return said, int(re.search(r"at step (\d+)", said)[1])


def batch_of(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_a_voxel_that_is_no_number_is_told_with_its_case_and_kept(training, tmp_path, one_bad_voxel):
    said, step = broken(training, volumes=one_bad_voxel, checkpoint_every=1)
    assert step > 1, "a step before it went well"
    assert re.search(rf"the loss is nan at step {step}, learning rate 0\.00\d+, patches of .*case_1", said)
    assert "image NOT finite, weights finite, outputs NOT finite" in said
    assert said.endswith(
        "look at these cases (hounsfield locate names their files) and have them ingested anew"
    )
    path = tmp_path / "checkpoints" / f"broken_step_{step}.safetensors"
    assert str(path) in said
    tensors, metadata = batch_of(path)
    assert sorted(tensors) == ["image", "label"]
    assert tensors["image"].shape == (2, 1, 8, 8, 8)
    assert tensors["label"].dtype == torch.int64
    (bad,) = {int(element) for element in tensors["image"].isnan().nonzero()[:, 0]}
    assert json.loads(metadata["cases"])[bad] == "case_1"
    assert metadata["step"] == str(step)


def test_all_that_a_batch_has_is_kept(training, tmp_path, one_bad_voxel):
    given = {"annotated": "another", "loss": {"boundary_weights": {"w0": 10}}}
    _, step = broken(training, volumes=one_bad_voxel, **given)
    tensors, _ = batch_of(tmp_path / "checkpoints" / f"broken_step_{step}.safetensors")
    assert sorted(tensors) == ["boundary", "image", "label", "unknown"]
    assert tensors["unknown"].tolist() == [[False, True]] * 2


def test_a_training_that_broke_down_does_so_again_at_the_same_step(training, tmp_path, one_bad_voxel):
    first = broken(training, volumes=one_bad_voxel, checkpoint_every=1)
    on_disk = steps_on_disk(tmp_path / "checkpoints")
    assert max(on_disk) == first[1] - 1
    assert broken(training, volumes=one_bad_voxel, checkpoint_every=1) == first
    assert steps_on_disk(tmp_path / "checkpoints") == on_disk


def test_the_first_step_may_be_the_broken_one(training, tmp_path):
    said, step = broken(training, normalisation=[NORMALISATION[0] | {"mean": float("nan")}])
    assert step == 1
    assert steps_on_disk(tmp_path / "checkpoints") == []
    assert "image NOT finite" in said


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_rate_that_is_too_high_is_told_and_no_broken_state_is_saved(training, tmp_path, precision):
    said, step = broken(training, learning_rate=1e30, checkpoint_every=1, precision=precision)
    assert step > 1
    assert "image finite" in said
    assert "outputs NOT finite" in said
    assert "lower train.learning_rate" in said
    assert ("float32" in said) == (precision == "bfloat16")
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint.step == step - 1
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())


def test_weights_that_overflow_are_not_saved(training, tmp_path):
    """Loss and gradient are finite: it is the update that goes beyond all numbers."""
    said, step = broken(training, learning_rate=3e38, weight_decay=100, checkpoint_every=1, warmup_share=0)
    assert step == 1
    assert re.search(r"average/\S+ holds numbers that are not finite at step 1", said)
    assert "image finite, weights NOT finite" in said
    assert steps_on_disk(tmp_path / "checkpoints") == []


def test_a_gradient_that_is_no_number_stops_the_training_and_leaves_the_weights_alone(training):
    seen = []

    def spoil(network):
        weight = next(network.parameters())
        seen.append((network, {name: each.clone() for name, each in network.state_dict().items()}))
        weight.register_hook(lambda gradient: gradient * float("nan"))

    said, step = broken(training, before=spoil)
    assert step == 1
    assert "the gradient is nan" in said
    assert "weights finite, outputs finite" in said
    network, began = seen[0]
    assert all(torch.equal(each, began[name]) for name, each in network.state_dict().items())


def looks(*dice):
    """A watch that sees one after the other."""
    values = iter(dice)
    return lambda _network: next(values)


def test_a_dice_that_collapsed_stops_the_training_and_checkpoints_stay(training, tmp_path):
    with pytest.raises(
        DataError, match=r"0\.600 at step 2, and 0\.200 at step 3 and 0\.100 at step 4"
    ) as raised:
        training(looks(0.5, 0.6, 0.2, 0.1), validate_every=1, checkpoint_every=1)
    assert raised.value.remedy == "lower train.learning_rate; checkpoints from before stay"
    assert steps_on_disk(tmp_path / "checkpoints") == [2, 3]
    with pytest.raises(DataError, match=r"0\.600 at step 2, and 0\.200 at step 3 and 0\.150 at step 4"):
        training(looks(0.15), validate_every=1, checkpoint_every=1)


@pytest.mark.parametrize(
    "dice",
    [
        pytest.param([0.6, 0.2, 0.5, 0.2], id="one look may be bad"),
        pytest.param([0.6, 0.3, 0.3], id="a half is not below a half"),
        pytest.param([0.29, 0.0, 0.0], id="what was never found cannot be lost"),
        pytest.param([0.1, 0.1], id="there is nothing before"),
        pytest.param([float("nan")] * 5, id="nothing is known"),
        pytest.param([0.6, 0.1, float("nan")], id="of one look nothing is known"),
    ],
)
def test_what_is_no_collapse(dice):
    check_collapse([{"step": step, "dice": value} for step, value in enumerate(dice)])


def test_a_collapse_is_one_whatever_was_seen_before():
    dice = [float("nan"), 0.0, 0.9, 0.5, 0.44, 0.44]
    with pytest.raises(DataError, match=r"0\.900 at step 2, and 0\.440 at step 4 and 0\.440 at step 5"):
        check_collapse([{"step": step, "dice": value} for step, value in enumerate(dice)])
