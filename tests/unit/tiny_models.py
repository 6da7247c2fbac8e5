"""What the tests of tiny models with random weights share."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from deployments.audio.waveform import SAMPLE_RATE, Waveform


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models here are so small that a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(seconds: float, *, seed: int = 0) -> Waveform:
    """Loud noise that the random model answers differently for every seed."""
    rng = np.random.default_rng(seed)
    samples: Waveform = rng.normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return samples
