"""The ingress deployment: HTTP in front, handles to the ASR and the Aligner deployment behind."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.handle import DeploymentHandle

from deployments.ingress.api import create_app
from deployments.ingress.ray_errors import own_errors, restarting
from deployments.ingress.remote_aligner import RemoteAligner
from deployments.observation.recorders import IngressMetrics
from deployments.observation.tracing import tracer
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import Delta, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")


class RemoteRecognizer:
    """The ASR deployment as a `Recognizer`: Ray's errors become the service's own here, and nowhere else."""

    def __init__(self, asr: DeploymentHandle, on_retry: Callable[[str], None] = lambda _: None):
        self._asr = asr
        self._on_retry = on_retry

    async def check(self) -> None:
        """Return if some replica would take an utterance now. Waits for one as long as the caller does.

        Raises:
            ServiceUnavailable: there is none.
        """
        response = self._asr.ready.remote()
        try:
            with own_errors():
                await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except RayError:  # it has just died, or says that it is broken
            raise restarting() from None

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Transcribe one utterance on some replica.

        A replica that dies with the utterance is replaced by another one, once: transcribing twice does no harm.

        Raises:
            ServiceError: the utterance cannot be transcribed, or no replica can take it now.
        """
        try:
            return await self._transcribe_once(utterance)
        except RayActorError as error:
            self._note_retry(error)
        try:
            return await self._transcribe_once(utterance)
        except RayActorError:
            raise restarting() from None

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
                    raise restarting() from None
                self._note_retry(error)

    def _note_retry(self, error: RayActorError) -> None:
        logger.warning("an ASR replica died with an utterance, trying another: %r", error)
        self._on_retry("replica_died")

    async def _transcribe_once(self, utterance: Utterance) -> Transcription:
        response = self._asr.transcribe.remote(utterance)
        try:
            with tracer.start_span("call"), own_errors():
                return cast(Transcription, await response)
        except asyncio.CancelledError:
            response.cancel()  # the caller has gone: free its place in the batch
            raise

    async def _stream_once(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        response = self._asr.options(stream=True).transcribe_stream.remote(utterance)
        try:
            with tracer.start_span("call"), own_errors():
                async for item in response:
                    yield cast(Delta | Transcription, item)
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise


@serve.deployment(
    name="Ingress",
    health_check_period_s=5,
    graceful_shutdown_timeout_s=60,
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class Ingress:
    """Validates requests, decodes media, renders answers. Never touches torch."""

    def __init__(
        self,
        settings: Settings,
        served_model: ServedModel,
        asr: DeploymentHandle,
        aligner: DeploymentHandle | None = None,
    ):
        self._settings = settings
        self._served_model = served_model
        self._metrics = IngressMetrics()
        self._recognizer = RemoteRecognizer(asr, on_retry=self._metrics.piece_retried)
        self._transcriber = Transcriber(
            self._recognizer,
            max_utterance_s=settings.max_utterance_s,
            window=settings.utterance_window,
            aligner=RemoteAligner(aligner) if aligner is not None else None,
            on_retry=self._metrics.piece_retried,
            on_guard=self._metrics.guard_acted,
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve once this replica is constructed."""
        # Serve's own proxy writes the x-request-id it was given or made; a second one would make it "id, id".
        return create_app(
            self._transcriber,
            self._settings,
            self._served_model,
            write_request_id=False,
            check_model=self._recognizer.check,
            on_request_end=self._metrics.request_ended,
        )
