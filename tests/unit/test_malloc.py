"""Memory of large buffers goes back to the system when they are freed."""

import platform
import subprocess
import sys

import pytest

FREED = """
import ctypes, sys, psutil
from deployments.ingress.malloc import return_freed_memory

if sys.argv[1] == "promptly":
    return_freed_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))  # from now on glibc takes even such blocks for small ones
before = psutil.Process().memory_info().rss
blocks = [libc.malloc(4 << 20) for _ in range(50)]
for block in blocks:
    ctypes.memset(block, 1, 4 << 20)
small = libc.malloc(100_000)  # behind them, so that the end of the heap stays where it is
for block in blocks:
    libc.free(block)
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library does not keep it")
def test_freed_memory_goes_back() -> None:
    kept = {
        how: int(subprocess.check_output([sys.executable, "-c", FREED, how], text=True))
        for how in ("promptly", "as is")
    }
    assert kept["as is"] > 100 << 20
    assert kept["promptly"] < 10 << 20
