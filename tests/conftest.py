"""Fixtures that more than one folder of tests uses."""

import os

# Before torch is imported anywhere: the tests share their cores with Ray and with each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings

# How long an example takes depends on who else uses the machine; slowness is for benchmarks to find.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
