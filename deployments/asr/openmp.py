"""How torch's OpenMP threads wait for each other. Free of torch: it reads this when it is loaded."""

import os

SPIN_COUNT = "10000"
"""Rounds that a thread spins at a barrier before it sleeps: a fraction of a millisecond."""


def limit_spinning() -> None:
    """Bound the spinning, unless the operator's environment says how it shall be. Call it before torch is imported.

    By default threads spin for milliseconds, which makes inference several times slower as soon as anything else wants
    the cores: decoding media, another replica, Ray itself. Sleeping at once makes every decode step longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
