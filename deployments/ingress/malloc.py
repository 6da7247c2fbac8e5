"""How soon the C library gives freed memory back to the system."""

import contextlib
import ctypes

# The parameters of mallopt(3).
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_ARENA_MAX = -8

LARGE = 2**18
"""Bytes. What is at least so large is mapped on its own, and unmapped when it is freed."""
ARENAS = 2


def return_freed_memory() -> None:
    """Keep memory from growing with the largest recordings that were ever decoded at the same time.

    glibc raises what it takes for large with every large block that is freed, until even those of 32 MB go back to
    where small ones are kept, and each thread keeps a store of its own: a long upload leaves hundreds of megabytes
    behind that nobody uses. Other C libraries do not, and are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in ((_MMAP_THRESHOLD, LARGE), (_TRIM_THRESHOLD, LARGE), (_ARENA_MAX, ARENAS)):
            mallopt(parameter, value)
