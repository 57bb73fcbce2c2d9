"""Memory that a step frees stays with the process for the next one, and is given back afterwards."""

import json
import platform
import subprocess
import sys

import pytest
import torch

from pipeline.training.allocation import memory_kept

SCRIPT = """
import json, resource, torch
from pipeline.training.allocation import memory_kept

SIZE = 64 * 2**20

def fetched(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(SIZE, dtype=torch.uint8).fill_(1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / SIZE

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / SIZE

fetched(1)
found = {"before": held()}
with memory_kept(torch.device("cpu")):
    # Until it has found its places.
    fetched(30)
    found |= {"fetched": fetched(10), "inside": held()}
found["after"] = held()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards():
    # In a process of its own: where memory once ran out, glibc allots it in other ways.
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["fetched"] < 1, "of ten blocks"
    assert found["inside"] > found["before"] + 0.5, "it did stay"
    assert found["after"] < found["before"] + 0.5


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr("pipeline.training.allocation.ctypes.CDLL", lambda _name: object())
    with memory_kept(torch.device("cpu")):
        pass
