"""The stage `train` by several processes, which torchrun starts as a person would have it do."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from safetensors.torch import load_file

from pipeline.errors import DataError
from pipeline.volumes.store import StoredCase
from pipeline.workspace import STAGES

ROOT = Path(__file__).parents[3]
ORGAN = "liver"
MODEL = Path("models") / ORGAN
CURVES = Path("reports") / ORGAN / "curves.csv"
INGEST = {"modality": "CT", "labels": {"near": 5, "far": 2}}
PARAMS = {
    "profile": "small",
    "network": {"channels": [4, 6]},
    "steps": 24,
    "batch_size": 4,
    "checkpoint_every": 8,
    "validate_every": 12,
    "precision": "float32",
}


class Training:
    """The stage, started in the folder of a project."""

    def __init__(self, project, processes, home, restarts, params):
        organ = {stage: {} for stage in STAGES} | {"ingest": INGEST, "train": PARAMS | params}
        (project / "params.yaml").write_text(yaml.safe_dump({"defaults": {}, "organs": {ORGAN: organ}}))
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        torchrun += ["--max-restarts", str(restarts)]
        command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "pipeline", "train", ORGAN]
        self.home, self.log = project.parent / home, project.parent / f"{home}.log"
        environment = os.environ | {
            "HOUNSFIELD_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=project, env=environment, stderr=log)

    def end(self):
        """Its exit code, and what was said."""
        return self.process.wait(timeout=150), self.log.read_text()

    def result(self):
        """Weights and curve."""
        code, said = self.end()
        assert code == 0, said
        return load_file(MODEL / "weights.safetensors"), pd.read_csv(CURVES)

    def wait_for(self, step):
        """Until there is a checkpoint of the step or a later one."""
        while self.process.poll() is None:
            if any(int(path.name.split("_")[1]) >= step for path in self.home.rglob("step_*")):
                return
            time.sleep(0.02)
        raise AssertionError(f"ended before step {step}: {self.log.read_text()}")

    def child(self, rank):
        """One of the processes that torchrun started."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if child.environ().get("RANK") == str(rank))


@pytest.fixture
def start(prepared):
    """Starts the stage with so many processes."""
    started = []

    def stage(processes, home="home", restarts=0, **params):
        started.append(Training(prepared, processes, home, restarts, params))
        return started[-1]

    yield stage
    for training in started:
        training.process.kill()
        training.process.wait()


def test_two_processes_save_one_model_that_is_that_of_one(start):
    two, curve_of_two = start(2, home="two").result()
    said = (Path("..") / "two.log").read_text()
    assert said.count("24 steps of 4 patches on cpu in torch.float32 by 2 processes") == 1
    assert said.count("step 12:") == said.count("step 24:") == 1
    one, curve = start(1, home="one").result()
    assert two.keys() == one.keys()
    for name, weight in one.items():
        # Of weights near one, after 24 steps of sums in another order.
        np.testing.assert_allclose(two[name], weight, rtol=1e-5, atol=1e-5, err_msg=name)
    assert np.allclose(curve_of_two, curve, rtol=1e-4)


def test_a_killed_process_is_started_again_and_all_go_on_to_the_same_bytes(start):
    undisturbed, curve = start(2, home="undisturbed", steps=200).result()
    training = start(2, home="disturbed", restarts=1, steps=200)
    training.wait_for(40)
    training.child(rank=1).kill()
    weights, curve_after = training.result()
    said = training.end()[1]
    done = int(re.findall(r"going on from step (\d+)", said)[0])
    assert 40 <= done < 200
    assert said.count("error contact with another process of this training was lost") == 1
    for name, weight in undisturbed.items():
        assert np.array_equal(weights[name], weight), name
    assert curve_after.equals(curve)


def test_one_process_is_asked_to_end_and_all_save_one_step_and_go_on_from_it(start):
    undisturbed, curve = start(2, home="undisturbed", steps=200, checkpoint_every=200).result()
    training = start(2, steps=200, checkpoint_every=200)
    while "step 12:" not in training.log.read_text():
        assert training.process.poll() is None, training.log.read_text()
        time.sleep(0.02)
    training.child(rank=1).terminate()
    code, said = training.end()
    assert code != 0
    (stopped,) = re.findall(r"error the training was stopped after step (\d+), which is saved", said)
    assert "(exitcode: 75)" in said
    again = start(2, steps=200, checkpoint_every=200)
    weights, curve_after = again.result()
    assert f"going on from step {stopped}" in again.end()[1]
    for name, weight in undisturbed.items():
        assert np.array_equal(weights[name], weight), name
    assert curve_after.equals(curve)


def test_what_fails_in_one_process_ends_all_with_its_sentence(start, prepared):
    """Of the watched fold each looks at one case; that of the second one is damaged."""
    case = next((prepared / "data" / "volumes" / ORGAN).glob("case_1*"))
    damage(case)
    training = start(2)
    code, said = training.end()
    assert code != 0
    assert said.count("error data/volumes/liver/case_1") == 1
    assert "local_rank: 1" in said
    assert not MODEL.exists()


def damage(volume):
    """Damage a volume so that it opens, which every process does, but cannot be read."""
    whole = volume.read_bytes()
    for place in range(0, len(whole), 100):
        volume.write_bytes(whole[:place] + bytes(100) + whole[place + 100 :])
        try:
            stored = StoredCase(volume)
        except DataError:
            continue
        try:
            stored.image()
        except DataError:
            return
    raise AssertionError("it is read wherever it is damaged")


def test_a_batch_smaller_than_the_number_of_processes_is_refused(start):
    code, said = start(3, batch_size=2).end()
    assert code != 0
    assert said.count("error train.batch_size is 2, but 3 processes train: raise it to 3 or more") == 1
    assert "(exitcode: 3)" in said
