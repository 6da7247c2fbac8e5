"""What a client that hangs up leaves behind: nothing that goes on working for it.

Ray Serve cancels a request whose client has gone, unless the client itself says otherwise
(`x-request-disconnect-disabled: ?1`); a plain ASGI server never does. So the application looks for itself.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive

T = TypeVar("T")


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone. Ray's `receive` raises then, which is as good a sign.

    Args:
        receive: of a request whose body has been read.
    """
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work` as long as the client is there.

    Args:
        receive: of a request whose body has been read.
        work: run as a task of its own, which has ended in any case when this returns.

    Raises:
        ClientDisconnect: the client left first, and `work` was cancelled.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await stop(working, gone)


async def stop(*futures: asyncio.Future) -> None:
    """Cancel what has not ended, and wait until it has."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def answer_nobody(_: Request, __: Exception) -> Response:
    """The answer to a client that has gone: the status that access logs show for it (nginx's)."""
    return Response(status_code=499)
