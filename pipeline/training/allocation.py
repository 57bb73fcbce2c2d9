"""Memory that a step frees is kept by the process, because the next step asks for the same."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's `mallopt`: free bytes at the end of the heap that are given back; from how many bytes on a block
lies outside of it; how many blocks may."""
LARGEST = 2**31 - 1
ADAPTED = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}
"""What glibc comes to by itself where large blocks are freed; once anything is set, it adapts no more."""


@contextmanager
def memory_kept(where: torch.device) -> Iterator[None]:
    """Inside, memory that is freed stays with the process until it is asked for again.

    Otherwise glibc gives every large block back to the system, which fills the next one with zeros, page by
    page: up to a fifth of a step of a wide network on a CPU. Every step asks for the same sizes; somewhat
    more is held all the same, as blocks do not always fit where others lay. Where the C library is another
    one, or steps are made on a GPU (`where`), nothing changes.
    """
    library = ctypes.CDLL(None)
    if where.type != "cpu" or not hasattr(library, "mallopt"):
        yield
        return
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, LARGEST)
    try:
        yield
    finally:
        for option, value in ADAPTED.items():
            library.mallopt(option, value)
        library.malloc_trim(0)
