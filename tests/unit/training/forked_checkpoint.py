"""Saves checkpoints in forked processes that are killed; test_checkpoint.py starts it.

A process of its own loads torch once and has no threads when it forks.

    python forked_checkpoint.py FOLDER

They are killed at every line, and with every further part of the file written. Prints as JSON what
was found after each kill, and after the next save.
"""

import json
import os
import resource
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

import torch

from pipeline import atomic
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

TRACED = {atomic.__file__, checkpoint.__file__}


def main(folder):
    torch.set_num_threads(1)
    before = folder / "before"
    for step in (10, 20):
        save_checkpoint(before, state(step))
    found = {"lines": kills(before, kill_before), "bytes": kills(before, kill_when_written, 1500)}
    print(json.dumps(found))


def kills(before, how, step=1):
    """What is left after each kill and after the next save; the last save was not killed."""
    folder, found = before.with_name("killed"), []
    for place in count(0, step):
        shutil.copytree(before, folder)
        killed = save_killed(folder, how, place)
        found.append({"killed": killed, "found": whole_step(folder), "after": completed(folder)})
        shutil.rmtree(folder)
        if not killed:
            return found
    raise AssertionError("count never ends")


def state(step):
    return Checkpoint(step, {"weight": torch.full((50, 100), float(step))}, {"curve": [{"step": step}]})


def save_killed(folder, how, place):
    """Save step 30 in a child that dies at a place; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            how(place)
            save_checkpoint(folder, state(30))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), code
    return code != 0


def kill_before(line):
    """End this process without a word before a line of the traced modules, counted from 0."""
    lines = count()

    def watch(frame, event, _argument):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return watch

    sys.settrace(watch)


def kill_when_written(size):
    """Let the kernel end this process when a file would grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def whole_step(folder):
    """The step of the checkpoint that is found, 0 if it is not what was saved then."""
    found = load_checkpoint(folder)
    expected = state(found.step)
    same = torch.equal(found.tensors["weight"], expected.tensors["weight"])
    return found.step if same and found.record == expected.record else 0


def completed(folder):
    """What lies in the folder after the next save."""
    save_checkpoint(folder, state(40))
    return sorted(path.name.rpartition("_")[0] or path.name for path in folder.iterdir())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
