"""Admission in front of `@serve.batch`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class BatchGate:
    """Holds arrivals back while a batch runs, so that the next batch takes all of them together.

    `@serve.batch` cuts a new batch every `batch_wait_timeout_s` even while one runs, and runs them in turn: requests
    that arrive one by one during a long batch end up in batches of one. Behind this gate they wait, first come first
    served, until the running batch has ended, and at most one batch's worth is let through.

    For one event loop; nothing here awaits but the waiting itself, so a cancelled caller cannot leave it half changed.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._admitted = 0
        self._running = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, capacity: int) -> None:
        """Change how many are let through together."""
        self._capacity = capacity
        self._let_in()

    @asynccontextmanager
    async def admission(self) -> AsyncIterator[None]:
        """Wait to be let through; the place is given back when the block ends, however it ends."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._let_in()
        try:
            await place
            yield
        finally:
            # A place that was cancelled while waiting never counted; `_let_in` skips it in the queue.
            if not place.cancelled():
                self._admitted -= 1
                self._let_in()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the gate shut while a batch runs."""
        self._running = True
        try:
            yield
        finally:
            self._running = False
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and not self._running and self._admitted < self._capacity:
            place = self._waiting.popleft()
            if place.cancelled():
                continue
            self._admitted += 1
            place.set_result(None)
