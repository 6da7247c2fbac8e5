"""How many requests may be in hand at a time: what is more is refused before it costs anything.

Whoever is let in is served to the end: the pieces of a recording wait as long as they must, within the request's
deadline. So the bound is here, on whole requests, and not on the queue of utterances behind.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.exceptions import ServiceUnavailable, TooManyRequests

MAX_RETRY_AFTER_S = 60
"""OpenAI's SDKs do not heed a longer wait."""
_WEIGHT_OF_THE_LATEST = 0.1
_LAST_ANSWER_S = 0.5
"""For the last answer to get out: a place is given back just before."""


class Capacity:
    """Places for `limit` requests.

    Args:
        limit: requests in hand at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._since: list[float] = []
        """When each place that is held was taken, in order."""
        self._is_closed = False
        self._usually_held_s = 0.0

    @property
    def taken(self) -> int:
        """Requests in hand."""
        return len(self._since)

    async def drain(self) -> None:
        """Give no place to anybody from now on, and return when all are given back."""
        self._is_closed = True
        while self._since:  # noqa: ASYNC110  # as long as it takes, and only once
            await asyncio.sleep(0.05)
        await asyncio.sleep(_LAST_ANSWER_S)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place while the context lasts.

        Raises:
            TooManyRequests: there is none. It says to try again after the time that a place is held: by then those who
                hold one now will have left.
            ServiceUnavailable: there will be none any more.
        """
        if self._is_closed:
            raise ServiceUnavailable("The service is stopping. Try again in a moment.")
        if self.taken >= self._limit:
            raise TooManyRequests(
                f"The service already has {self._limit} requests in hand. Try again in a moment.",
                retry_after_s=min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._held_s()))),
            )
        since = time.monotonic()
        self._since.append(since)
        try:
            yield
        finally:
            self._since.remove(since)
            held_s = time.monotonic() - since
            weight = _WEIGHT_OF_THE_LATEST if self._usually_held_s else 1.0
            self._usually_held_s += weight * (held_s - self._usually_held_s)

    def _held_s(self) -> float:
        """Seconds that a place is held, as far as can be told while none is free.

        Those who have left know nothing of what has kept the others since. Seen at any moment, a request is halfway
        through on average, so those in hand take twice as long as they have been here. The median of them counts: a few
        long recordings send nobody away for long.
        """
        median_age_s = time.monotonic() - self._since[len(self._since) // 2]
        return max(self._usually_held_s, 2 * median_age_s)
