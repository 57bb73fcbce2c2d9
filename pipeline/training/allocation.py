"""What the C library does with memory that a step frees."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's `mallopt`: free bytes at the end of the heap that are given back; large blocks outside of it."""
DEFAULT_TRIM_THRESHOLD, DEFAULT_MMAP_MAX = 128 * 1024, 65536
LARGEST = 2**31 - 1


@contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, memory that is freed stays with the process until it is asked for again.

    Otherwise glibc gives every large block back to the system, which fills the next one with zeros, page by
    page: of a step on a CPU that is up to a fifth. Every step asks for the same sizes, so that little more is
    held. Where the C library is another one, nothing changes.
    """
    try:
        library = ctypes.CDLL(None)
        option, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError):
        yield
        return
    option(M_MMAP_MAX, 0)
    option(M_TRIM_THRESHOLD, LARGEST)
    try:
        yield
    finally:
        option(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        option(M_TRIM_THRESHOLD, DEFAULT_TRIM_THRESHOLD)
        trim(0)
