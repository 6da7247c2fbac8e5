"""How many compiled kernels oneDNN keeps, and needs. Free of torch: it reads this when it is loaded."""

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


def round_up(rows: int) -> int:
    """How many rows oneDNN is given in place of so many: the same up to 16, then a multiple of 4, of 8 and so on.

    It compiles kernels for each number of rows that it meets, and an encoding and a prefill have a row for each token,
    which is another number nearly every time: with fewer numbers more of them are found among those that are kept. From
    64 on at most a 16th is added.
    """
    step = 1 if rows <= 16 else max(4, 2 ** ((rows - 1).bit_length() - 5))
    return -(-rows // step) * step
