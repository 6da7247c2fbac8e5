"""The ingress deployment: HTTP in front, a handle to the ASR deployment behind."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.exceptions import ServiceError, ServiceUnavailable, TooManyRequests
from deployments.ingress.api import create_app
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import Delta, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")


class RemoteRecognizer:
    """The ASR deployment as a `Recognizer`: Ray's errors become the service's own here, and nowhere else."""

    def __init__(self, asr: DeploymentHandle):
        self._asr = asr

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Transcribe one utterance on some replica.

        A replica that dies with the utterance is replaced by another one, once: transcribing twice does no harm.

        Raises:
            ServiceError: the utterance cannot be transcribed, or no replica can take it now.
        """
        try:
            return await self._transcribe_once(utterance)
        except RayActorError as error:
            logger.warning("an ASR replica died with an utterance, trying another: %r", error)
        try:
            return await self._transcribe_once(utterance)
        except RayActorError:
            raise _restarting() from None

    async def stream(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        """Transcribe one utterance on some replica and tell its text as it is decoded.

        A replica that dies before it said anything is replaced by another one, once.

        Raises:
            ServiceError: as `transcribe`.
        """
        said_something = False
        for last_try in (False, True):
            try:
                async with aclosing(self._stream_once(utterance)) as items:
                    async for item in items:
                        said_something = True
                        yield item
                return
            except RayActorError as error:
                if said_something or last_try:
                    raise _restarting() from None
                logger.warning("an ASR replica died with an utterance, trying another: %r", error)

    async def _transcribe_once(self, utterance: Utterance) -> Transcription:
        response = self._asr.transcribe.remote(utterance)
        try:
            with _own_errors():
                return cast(Transcription, await response)
        except asyncio.CancelledError:
            response.cancel()  # the caller has gone: free its place in the batch
            raise

    async def _stream_once(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        response = self._asr.options(stream=True).transcribe_stream.remote(utterance)
        try:
            with _own_errors():
                async for item in response:
                    yield cast(Delta | Transcription, item)
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise what Ray says went wrong as the service's own errors; the death of a replica is left to be retried."""
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


def _restarting() -> ServiceUnavailable:
    return ServiceUnavailable("The model is restarting. Try again in a moment.")


@serve.deployment(
    name="Ingress",
    health_check_period_s=5,
    graceful_shutdown_timeout_s=60,
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class Ingress:
    """Validates requests, decodes media, renders answers. Never touches torch."""

    def __init__(self, settings: Settings, served_model: ServedModel, asr: DeploymentHandle):
        self._settings = settings
        self._served_model = served_model
        self._transcriber = Transcriber(
            RemoteRecognizer(asr), max_utterance_s=settings.max_utterance_s, window=settings.utterance_window
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once this replica is constructed."""
        # Serve's own proxy writes the x-request-id it was given or made; a second one would make it "id, id".
        return create_app(self._transcriber, self._settings, self._served_model, write_request_id=False)
