"""Memory that a step frees stays with the process for the next one, and is given back afterwards."""

import platform
import resource

import pytest
import torch

from pipeline.training.allocation import memory_kept

PAGES = 64 * 2**20 // resource.getpagesize()


def pages_fetched(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(PAGES * resource.getpagesize(), dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_used_again_inside_and_given_back_afterwards():
    with memory_kept():
        # Until it has found its places.
        pages_fetched(30)
        assert pages_fetched(10) < PAGES
    with open("/proc/self/statm") as held:
        before = int(held.read().split()[1])
    block = torch.empty(PAGES * resource.getpagesize(), dtype=torch.uint8).fill_(1)
    del block
    with open("/proc/self/statm") as held:
        assert int(held.read().split()[1]) < before + PAGES // 2


def test_without_glibc_nothing_changes(monkeypatch):
    monkeypatch.setattr("pipeline.training.allocation.ctypes.CDLL", lambda _name: object())
    with memory_kept():
        pages_fetched(1)
