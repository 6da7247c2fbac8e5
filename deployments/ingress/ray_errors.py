"""Ray's errors as the service's own: here, and nowhere else."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.exceptions import ReplicaLost, ServiceError, ServiceUnavailable, TooManyRequests

REPLICA_LOST = (RayActorError, OutOfMemoryError, NodeDiedError, WorkerCrashedError, ObjectLostError, ReplicaLost)
"""What a call ends with when its replica went away: killed, by Ray for want of memory, or with its node and its answer;
or when the replica itself knows that it will not transcribe any more."""


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise what Ray says went wrong as the service's own errors; the loss of a replica is left to be retried."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, ServiceError):
            raise error.cause from None
        raise
    except BackPressureError as error:
        refusal = TooManyRequests if error.status_code == 429 else ServiceUnavailable
        wait_s = max(1, math.ceil(error.retry_after_s or 1))
        raise refusal("The service is at its capacity. Try again in a moment.", retry_after_s=wait_s) from None
    except DeploymentUnavailableError:
        raise ServiceUnavailable("The service is at its capacity. Try again in a moment.") from None


class ClientLeftMiddleware:
    """Says `http.disconnect` where Serve's `receive` raises: its proxy has seen the client leave already."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_disconnect() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self.app(scope, receive_or_disconnect if scope["type"] == "http" else receive, send)


def restarting() -> ReplicaLost:
    """What is told where the replica that was tried, and the next one, died."""
    return ReplicaLost("The model is restarting. Try again in a moment.")
