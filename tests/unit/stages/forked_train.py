"""Runs the stage `train` in forked processes that are killed; test_train.py starts it.

A process of its own loads torch once and has no threads when it forks.

    python forked_train.py PARAMS   in the project of the current folder; PARAMS as JSON

Prints as JSON what is left after each kill, and after the run that follows it.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

import torch

from pipeline.errors import HounsfieldError
from pipeline.inference.model import load_model
from pipeline.params import TrainParams
from pipeline.stages.train import run
from pipeline.workspace import stage_files

ORGAN = "liver"
MODEL = Path("models") / ORGAN
MOMENTS = ("os.rename", "os.remove")
"""All that makes a file appear under its name, or go."""


def main(params):
    torch.set_num_threads(1)
    # What the first step of a process would import, once for all of them.
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    home = Path(os.environ["HOUNSFIELD_HOME"])
    older = TrainParams(**params | {"seed": 1})
    assert wait(fork(stage, older)) == 0
    shutil.copytree(MODEL, "older")
    found = {"older": files(MODEL), "kills": []}
    for moment in count(1):
        # A person trains anew over an older model.
        for folder in (home, MODEL):
            shutil.rmtree(folder)
        shutil.copytree("older", MODEL)
        killed = wait(fork(stage, TrainParams(**params), kill_at=moment)) == -signal.SIGKILL
        accepted = wait(fork(load)) == 0
        at_kill = files(MODEL)
        assert wait(fork(stage, TrainParams(**params))) == 0
        result = {"accepted": accepted, "at_kill": at_kill, "after": files(MODEL)}
        found["kills"].append(result | {"curve": digest(curves())})
        if not killed:
            break
    print(json.dumps(found))


def stage(params, kill_at=None):
    if kill_at is not None:
        moments = count(1)

        def watch(event, _arguments):
            if event in MOMENTS and next(moments) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
    run(ORGAN, params, **stage_files(Path(), "train", ORGAN))


def load():
    """End well if there is a model that would be used."""
    try:
        load_model(MODEL)
    except HounsfieldError:
        os._exit(3)


def curves():
    return stage_files(Path(), "train", ORGAN)["curves"]


def files(folder):
    return {path.name: digest(path) for path in sorted(folder.iterdir())}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fork(work, *args, **options):
    child = os.fork()
    if child == 0:
        # Never back into the caller, whatever happens.
        try:
            work(*args, **options)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
