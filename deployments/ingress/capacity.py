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
        self._taken = 0
        self._is_closed = False
        self._usually_held_s = 0.0

    @property
    def taken(self) -> int:
        """Requests in hand."""
        return self._taken

    async def drain(self) -> None:
        """Give no place to anybody from now on, and return when all are given back."""
        self._is_closed = True
        while self._taken:  # noqa: ASYNC110  # as long as it takes, and only once
            await asyncio.sleep(0.05)
        await asyncio.sleep(_LAST_ANSWER_S)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place while the context lasts.

        Raises:
            TooManyRequests: there is none. It says to try again after the time that a place is usually held: by then
                those who hold one now will have left.
            ServiceUnavailable: there will be none any more.
        """
        if self._is_closed:
            raise ServiceUnavailable("The service is stopping. Try again in a moment.")
        if self._taken >= self._limit:
            raise TooManyRequests(
                f"The service already has {self._limit} requests in hand. Try again in a moment.",
                retry_after_s=min(MAX_RETRY_AFTER_S, max(1, math.ceil(self._usually_held_s))),
            )
        self._taken += 1
        since = time.monotonic()
        try:
            yield
        finally:
            self._taken -= 1
            held_s = time.monotonic() - since
            weight = _WEIGHT_OF_THE_LATEST if self._usually_held_s else 1.0
            self._usually_held_s += weight * (held_s - self._usually_held_s)
