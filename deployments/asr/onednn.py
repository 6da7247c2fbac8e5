"""How many compiled kernels oneDNN keeps. Free of torch: it reads this when it is loaded."""

import os

KEPT_KERNELS = "128"
"""The decode steps of some twenty numbers of rows. A kernel is compiled in a quarter of a millisecond."""


def bound_caches() -> None:
    """Bound what is kept, unless the operator's environment says how it shall be. Call it before torch is imported.

    oneDNN compiles a kernel for each shape that it meets, a quarter of a megabyte each, and there are two caches of
    1,024 of them: oneDNN's own and, around it, torch's. Encodings and prefills are of a new shape nearly every time: a
    replica grew by a quarter of a gigabyte in its first hours, for kernels that hardly any of them would need again.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, KEPT_KERNELS)
