"""When a request must be answered, whatever it is waiting for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.exceptions import DeadlineExceeded


class Deadline:
    """A point in time: that of a request that may take so many seconds, and has taken `age` of them already."""

    def __init__(self, seconds: float, *, age: float = 0.0) -> None:
        self._seconds = seconds
        self._when = asyncio.get_running_loop().time() + seconds - age

    @property
    def remaining(self) -> float:
        """Seconds until it comes; negative once it has passed."""
        return self._when - asyncio.get_running_loop().time()

    def exceeded(self) -> DeadlineExceeded:
        """The error that says it has passed."""
        return DeadlineExceeded(
            f"The request took longer than {self._seconds:g} seconds. Send a shorter recording, or try again later."
        )

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancel what runs in this context when it comes, and raise DeadlineExceeded in its place."""
        try:
            async with asyncio.timeout_at(self._when) as timer:
                yield
        except TimeoutError:
            if not timer.expired():  # somebody else's
                raise
            raise self.exceeded() from None
