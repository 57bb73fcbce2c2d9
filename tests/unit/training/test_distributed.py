import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.training.data import PatchReader
from tests.unit.training import distributed_training
from tests.unit.training.distributed_training import (
    BEGUN,
    CASES,
    make_volumes,
    patches,
    sum_of_weights,
    trained,
)

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-5
"""Of weights near one after 24 steps: what is left of float32 when sums are taken in another order."""


class Stop(Exception):
    """Stands for whatever ends a process in the midst of its work."""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    make_volumes(folder)
    return folder


@pytest.fixture(scope="module")
def by_two(volumes, tmp_path_factory):
    """What two processes made of all cases: a function of the name to weights and what was noted."""
    folder = tmp_path_factory.mktemp("two")
    looks = iter(range(2))

    def stop_at_second_look(network):
        if next(looks):
            raise Stop
        return sum_of_weights(network)

    with pytest.raises(Stop):
        trained(volumes, folder / f"{BEGUN} checkpoints", watch=stop_at_second_look)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, distributed_training.__file__, str(volumes), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    def found(name):
        """Weights, and what was noted."""
        noted = json.loads((folder / f"{name}.json").read_text())
        there = {"checkpoints": folder / f"{name} checkpoints", "said": done.stderr}
        return load_file(folder / f"{name}.safetensors"), noted | there

    return found


@pytest.fixture
def deterministic():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_follow_one(by_two, volumes, tmp_path, name):
    """With a part of the batch each, whatever a loss or a network adds up over it."""
    found, noted = by_two(name)
    assert_follows((found, noted["curve"]), trained(volumes, tmp_path, **CASES[name]))


@pytest.mark.usefixtures("deterministic")
def test_two_go_on_where_one_was(by_two, volumes, tmp_path):
    found, noted = by_two(BEGUN)
    assert "going on from step 8" in noted["said"]
    assert_follows((found, noted["curve"]), trained(volumes, tmp_path))


@pytest.mark.usefixtures("deterministic")
def test_one_goes_on_where_two_were(by_two, volumes, tmp_path, capsys):
    shutil.copytree(by_two("plain")[1]["checkpoints"], tmp_path / "two")
    max((tmp_path / "two").iterdir()).unlink()
    gone_on = trained(volumes, tmp_path / "two")
    assert "going on from step 16" in capsys.readouterr().err
    assert_follows(gone_on, trained(volumes, tmp_path / "one"))


def assert_follows(one, other):
    """That weights and curve are the same within the tolerance."""
    assert one[0].keys() == other[0].keys()
    for key, weight in other[0].items():
        np.testing.assert_allclose(one[0][key], weight, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key)
    for row, expected in zip(one[1], other[1], strict=True):
        assert row == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["dropout", "drop_connect"])
def test_what_processes_draw_is_their_own_and_the_same_again(by_two, name):
    (weights, noted), (again, noted_again) = by_two(name), by_two(f"{name} again")
    assert all(torch.equal(weight, again[key]) for key, weight in weights.items())
    assert noted["curve"] == noted_again["curve"]
    assert noted["seeds"] == noted_again["seeds"]
    assert noted["seeds"][:2] != noted["seeds"][2:]
    assert any(not torch.equal(weight, by_two("plain")[0][key]) for key, weight in weights.items())


def test_the_first_process_draws_what_one_alone_does(by_two, volumes, tmp_path):
    trained(volumes, tmp_path, dropout=0.3)
    high, low = by_two("dropout")[1]["seeds"][:2]
    assert torch.initial_seed() == (high << 32) + low


@pytest.mark.parametrize("annotated", ["", ["cube", "another"] * 4])
def test_parts_of_a_batch_are_the_batch(volumes, annotated):
    table = patches().assign(annotated=annotated)

    def reader(part=None):
        return PatchReader(table, volumes, 5, 0, ["cube"], part=part)

    for step in (0, 1, 7):
        parts = [reader(range(2)), reader(range(2, 5))]
        assert np.array_equal(np.concatenate([one.batch(step) for one in parts]), reader().batch(step))
        unknown = [one.unknown(step) for one in parts]
        if annotated:
            assert np.array_equal(np.concatenate(unknown), reader().unknown(step))
        else:
            assert unknown == [None, None]
