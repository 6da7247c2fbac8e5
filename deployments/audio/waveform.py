"""Sound as everything in the service has it."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second of every waveform: mono float32, nominally in [-1, 1]."""

Waveform = NDArray[np.float32]
"""One mono recording at `SAMPLE_RATE`, shape `(samples,)`."""
