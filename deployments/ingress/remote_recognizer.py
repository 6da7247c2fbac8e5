"""The ASR deployment as a `Recognizer`, behind a handle."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from deployments.exceptions import InvalidRequest, ServiceUnavailable
from deployments.ingress.ray_errors import REPLICA_LOST, own_errors, restarting
from deployments.observation.tracing import tracer
from deployments.transcription.utterance import Delta, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")


class RemoteRecognizer:
    """Transcribes utterances on some replica of the ASR deployment.

    A replica that dies with an utterance is replaced by another one, once: transcribing twice does no harm, and an
    utterance that kills every replica it meets shall not meet them all.

    Args:
        asr: the deployment.
        on_retry: is told why an utterance is sent once more.
    """

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

        Raises:
            ServiceError: the utterance cannot be transcribed, or no replica can take it now.
        """
        try:
            return await self._transcribe_once(utterance)
        except REPLICA_LOST as error:
            self._note_retry(error)
        try:
            return await self._transcribe_once(utterance)
        except REPLICA_LOST:
            raise restarting() from None

    async def stream(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        """Transcribe one utterance on some replica and tell its text as it is decoded.

        Where a replica dies after it said something, the next one must say the same again, which is not told twice. It
        is waited for: what was told cannot be taken back, so a refusal would cost the caller the rest.

        Raises:
            ServiceError: as `transcribe`; also where the next replica says something else.
        """
        told: list[str] = []
        try:
            async with aclosing(self._stream_once(utterance)) as items:
                async for item in items:
                    if isinstance(item, Delta):
                        told.append(item.text)
                    yield item
            return
        except REPLICA_LOST as error:
            self._note_retry(error)
        while True:
            try:
                async with aclosing(_without(told, self._stream_once(utterance))) as rest:
                    async for item in rest:
                        yield item
                return
            except REPLICA_LOST:
                raise restarting() from None
            except ServiceUnavailable as error:  # before anything came: a call is refused as a whole
                if not told:
                    raise
                await asyncio.sleep(error.retry_after_s)

    def _note_retry(self, error: RayError) -> None:
        logger.warning("an ASR replica died with an utterance, trying another: %r", error)
        self._on_retry("replica_died")

    async def _transcribe_once(self, utterance: Utterance) -> Transcription:
        response = self._asr.transcribe.remote(utterance)
        try:
            with tracer.start_span("call"), own_errors():
                answer = await response
        except asyncio.CancelledError:
            response.cancel()  # the caller has gone: free its place in the batch
            raise
        if isinstance(answer, InvalidRequest):
            raise answer
        return cast(Transcription, answer)

    async def _stream_once(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        response = self._asr.options(stream=True).transcribe_stream.remote(utterance)
        answer: Transcription | InvalidRequest | None = None
        try:
            with tracer.start_span("call"), own_errors():
                async for item in response:
                    if isinstance(item, (Transcription, InvalidRequest)):
                        answer = item
                        break
                    yield cast(Delta, item)
        except (asyncio.CancelledError, GeneratorExit):
            response.cancel()
            raise
        if isinstance(answer, InvalidRequest):
            raise answer
        if answer is not None:
            yield answer  # out here: who has it and leaves has nothing to cancel


async def _without(
    told: list[str], items: AsyncGenerator[Delta | Transcription, None]
) -> AsyncGenerator[Delta | Transcription, None]:
    """What comes after the deltas that were told, if these come again.

    Raises:
        ServiceUnavailable: something else comes, which cannot be told any more.
    """
    async with aclosing(items):
        for text in told:
            again = await anext(items, None)
            if not isinstance(again, Delta) or again.text != text:
                raise restarting()
        async for item in items:
            yield item
