"""Memory that comes straight from the system, in pages of a size that is asked for."""

import contextlib
import ctypes
import math
import mmap

import torch

HUGE_PAGE = 2 * 2**20
"""Bytes; of x86-64 and of most others."""


def mapped_zeros(shape: tuple[int, ...], dtype: torch.dtype, *, huge_pages: bool) -> torch.Tensor:
    """Zeros that take memory as they are written to, page by page.

    torch.zeros may touch every page, and numpy asks for huge ones.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
        huge_pages: in which a processor reads a long way ahead, while it stops at the end of each small one: twice as
            fast where much is read in order. In huge ones a single number takes two megabytes. A system that has none
            gives small ones.
    """
    size = math.prod(shape) * dtype.itemsize
    # Private: shared memory, which is Python's default, has no huge pages on most systems.
    memory = mmap.mmap(-1, size + HUGE_PAGE if huge_pages else size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge_pages else "MADV_NOHUGEPAGE", None)  # Linux only
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel that was built without huge pages
            memory.madvise(advice)
    # The first of its bytes that a huge page can begin with.
    start = -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % HUGE_PAGE if huge_pages else 0
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=start).view(shape)


def release_freed() -> None:
    """Have the C library give freed memory back to the system, where it is glibc. Others do so by themselves."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
