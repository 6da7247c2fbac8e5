"""Whether a model still computes: what the engine and the aligner know of theirs."""

import contextlib
import math
import time
from collections.abc import Iterator

FAILURES_IN_A_ROW = 3
"""Inputs that failed one after the other, each alone, until the model is taken for broken."""
HUNG_AFTER_S = 60.0
HUNG_AFTER_S_PER_S = 3.0
"""Work that takes longer than these, the second for each second of its audio, does not end any more."""


class ModelHealth:
    """What happened to a model's work; written by the thread that computes, read by any."""

    def __init__(self) -> None:
        self._ends_by = math.inf
        """On the monotonic clock, of the work that goes on; infinite between two."""
        self._failures = 0
        """Since the last input that did not fail."""
        self._device_error: Exception | None = None

    @contextlib.contextmanager
    def working(self, audio_s: float) -> Iterator[None]:
        """For as long as the context lasts, something is computed of so many seconds of audio."""
        self._ends_by = time.monotonic() + HUNG_AFTER_S + HUNG_AFTER_S_PER_S * audio_s
        try:
            yield
        finally:
            self._ends_by = math.inf

    def succeeded(self) -> None:
        """An input was answered."""
        self._failures = 0

    def failed(self) -> None:
        """An input failed that was alone."""
        self._failures += 1

    def device_failed(self, error: Exception) -> None:
        """The device will not answer any more: only a new process mends that."""
        self._device_error = error

    def check(self) -> None:
        """Raise RuntimeError, with its cause, if nothing will be computed any more."""
        if self._device_error is not None:
            raise RuntimeError("the device has failed for good") from self._device_error
        if self._failures >= FAILURES_IN_A_ROW:
            raise RuntimeError(f"the last {self._failures} inputs failed")
        if time.monotonic() > self._ends_by:
            raise RuntimeError("the model hangs")
