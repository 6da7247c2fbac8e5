"""How long the device works on something, which a GPU does after the host has gone on."""

import time
from types import TracebackType
from typing import Self

import torch


class Stopwatch:
    """Times what is handed to the device inside of its context."""

    def __init__(self, device: torch.device):
        self._events = (
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            if device.type == "cuda"
            else None
        )
        self._began_at = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Self:
        if self._events is not None:
            self._events[0].record()
        self._began_at = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._events is not None:
            self._events[1].record()
        self._seconds = time.monotonic() - self._began_at

    @property
    def seconds(self) -> float:
        """Of the last context. On a GPU this waits for it: to be read when the host has waited for what came after."""
        if self._events is not None:
            begin, end = self._events
            end.synchronize()
            return begin.elapsed_time(end) / 1000
        return self._seconds
