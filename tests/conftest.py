"""Fixtures that more than one folder of tests uses."""

import os

# Before torch is imported anywhere: the tests share their cores with Ray and with each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
