"""Whether an utterance can be transcribed now."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from deployments.exceptions import ServiceUnavailable

KEPT_S = 1.0
"""An answer is good for so long: however many ask, the model is asked once a second."""
WAIT_S = 2.0
"""Who does not answer within this is not ready."""


class Readiness:
    """Asks `check`, which returns if the model would answer, and raises ServiceUnavailable if not."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._asking = asyncio.Lock()
        self._good_until = 0.0
        self._refusal: ServiceUnavailable | None = None

    async def require(self) -> None:
        """Return if the service is ready.

        Raises:
            ServiceUnavailable: it is not.
        """
        async with self._asking:
            if time.monotonic() >= self._good_until:
                self._refusal = await self._ask()
                self._good_until = time.monotonic() + KEPT_S
        if (refusal := self._refusal) is not None:
            raise ServiceUnavailable(refusal.message, retry_after_s=refusal.retry_after_s)

    async def _ask(self) -> ServiceUnavailable | None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._check()
        except TimeoutError:
            return ServiceUnavailable("The model does not answer: it is starting, or at its capacity.")
        except ServiceUnavailable as refusal:
            return refusal
        return None
