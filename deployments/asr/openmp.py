"""How torch's OpenMP threads wait for each other. Free of torch: it reads this when it is loaded."""

import os

SPIN_COUNT = "3000"
"""Rounds that a thread spins at a barrier before it sleeps: a fraction of a millisecond.

With 10,000 a model of 0.6B alone on two cores is 3 % faster, and the demo model, beside an ingress and a client that
want those cores, 14 % slower."""


def limit_spinning() -> None:
    """Bound the spinning, unless the operator's environment says how it shall be. Call it before torch is imported.

    By default threads spin for milliseconds, which makes inference several times slower as soon as anything else wants
    the cores: decoding media, another replica, Ray itself. Sleeping at once makes every decode step longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
