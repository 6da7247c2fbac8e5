"""The HTTP application: OpenAI's audio-transcription API over anything that transcribes a waveform.

Free of Ray and torch: `deployment.py` runs it in a replica, the tests in milliseconds.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import BinaryIO, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from deployments.audio.decode import decode_blocks
from deployments.audio.waveform import Waveform
from deployments.exceptions import InvalidAudio, InvalidRequest, ServiceError, UnknownModel
from deployments.ingress import openapi
from deployments.ingress.capacity import Capacity
from deployments.ingress.cors import WebPagesMiddleware
from deployments.ingress.deadline import Deadline
from deployments.ingress.disconnect import answer_nobody, while_connected
from deployments.ingress.errors import ErrorMiddleware, answer_error
from deployments.ingress.fetch import fetch as fetch_from_the_internet
from deployments.ingress.form import requested_model, transcription_request
from deployments.ingress.formats import render
from deployments.ingress.keys import ApiKeyMiddleware
from deployments.ingress.models import model_card
from deployments.ingress.multipart import Form, quoted, read_form
from deployments.ingress.readiness import Readiness
from deployments.ingress.record import RecordMiddleware
from deployments.ingress.recording import read_blocks
from deployments.ingress.request_age import age_of
from deployments.ingress.request_id import RequestIdMiddleware
from deployments.ingress.stream import open_stream
from deployments.ingress.upload import UploadLimitMiddleware
from deployments.observation.requests import (
    RecordedTranscriber,
    RequestRecord,
    current_record,
    recorded_decoding,
)
from deployments.observation.tracing import tracer
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.recordings import Decodes, TranscribesRecordings
from deployments.transcription.transcript import Transcript
from deployments.transcription.utterance import Delta

logger = logging.getLogger("ray.serve.asr")


class Fetches(Protocol):
    """What the routes need of `ingress.fetch.fetch`."""

    def __call__(self, url: str, *, max_bytes: int, timeout_s: float) -> AbstractAsyncContextManager[BinaryIO]:
        """Yield the file at `url`, closed when the context ends.

        Raises:
            InvalidRequest: it cannot be had.
        """
        ...


async def _always_ready() -> None:
    """What there is to check where the model is in this process."""


def create_app(
    transcriber: TranscribesRecordings,
    settings: Settings,
    model: ServedModel,
    *,
    decode: Decodes = decode_blocks,
    fetch: Fetches = fetch_from_the_internet,
    capacity: Capacity | None = None,
    write_request_id: bool = True,
    check_model: Callable[[], Awaitable[None]] = _always_ready,
    on_request_end: Callable[[RequestRecord], None] = lambda _: None,
) -> FastAPI:
    """Build the application.

    Args:
        transcriber: turns waveforms into transcripts.
        settings: limits and defaults.
        model: what clients may name as `model`.
        decode: turns media files into waveforms.
        fetch: gets the media file at a URL.
        capacity: how many requests may be in hand; by default, as many as the settings say.
        write_request_id: see `RequestIdMiddleware`; False behind Ray Serve's proxy.
        check_model: returns if the model would answer now, raises ServiceUnavailable if not.
        on_request_end: is told of every transcription request that has ended.
    """
    transcriber = RecordedTranscriber(transcriber)
    decode = recorded_decoding(decode)
    readiness = Readiness(check_model)
    capacity = capacity or Capacity(settings.max_concurrent_requests)
    threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        threads.shutdown(wait=False, cancel_futures=True)

    if settings.api_keys:
        logger.info("API keys are required: %s", ", ".join(key.name for key in settings.api_keys))
    else:
        logger.warning("no API keys are configured: the service is open to everybody who reaches it")

    app = FastAPI(
        title="Qwen3-ASR",
        lifespan=lifespan,
        # FastAPI's own spans would begin from the caller's context and pass by those of Serve and ours.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        # A redirected POST loses its upload in most clients; a wrong URL is answered as one.
        redirect_slashes=False,
        middleware=_middleware(settings, model, on_request_end, write_request_id=write_request_id),
        exception_handlers={
            ServiceError: answer_error,
            HTTPException: answer_error,
            RequestValidationError: answer_error,
            ClientDisconnect: answer_nobody,
        },
    )
    openapi.describe(app, model, settings)

    @asynccontextmanager
    async def media_of(source: BinaryIO | str) -> AsyncIterator[BinaryIO]:
        if not isinstance(source, str):
            yield source
            return
        async with fetch(source, max_bytes=settings.max_upload_bytes, timeout_s=settings.url_timeout_s) as file:
            try:
                yield file
            except InvalidAudio as error:
                raise InvalidAudio(error.message, param="url", code=error.code) from None

    async def recording_of(source: BinaryIO | str, form: Form) -> AsyncGenerator[Waveform, None]:
        async with media_of(source) as file:
            # When this is cancelled a thread may go on, until its next read finds the file closed.
            decoding = decode(file, max_duration_s=settings.max_duration_s)
            async with aclosing(read_blocks(decoding, threads)) as blocks:
                async for block in blocks:
                    yield block
        await form.close()  # nobody needs the upload while the model finishes

    async def answer(form: Form, stack: AsyncExitStack, deadline: Deadline) -> Response:
        asked = transcription_request(form, model, settings)
        current_record().response_format, current_record().stream = asked.response_format, asked.stream
        recording = await stack.enter_async_context(aclosing(recording_of(asked.source, form)))
        if asked.stream:
            items = transcriber.stream(recording, asked.options, asked.speech)
            return await open_stream(_until_closed(items, stack.pop_all()), deadline, asked.warnings)
        transcript = await transcriber.transcribe(recording, asked.options, asked.speech, words=asked.word_times)
        with tracer.start_as_current_span("render"):
            return await asyncio.to_thread(render, transcript, asked)  # subtitles of hours take a second

    @app.post("/v1/audio/transcriptions")
    async def create_transcription(request: Request) -> Response:
        """Transcribe a recording in its own language."""
        deadline = Deadline(settings.request_timeout_s, age=age_of(request.headers))
        async with AsyncExitStack() as stack, deadline.enforced():
            stack.enter_context(capacity.place())
            with tracer.start_as_current_span("receive"):
                form = await stack.enter_async_context(read_form(request))
            return await while_connected(request.receive, answer(form, stack, deadline))

    @app.post("/v1/audio/translations")
    async def create_translation(request: Request) -> Response:
        """Refused: the model transcribes only, and a transcript must not pass for a translation."""
        async with Deadline(settings.request_timeout_s).enforced():
            with capacity.place():
                async with read_form(request) as form:
                    name = requested_model(form, model)
        raise InvalidRequest(
            f"The model '{name}' does not support translation: it transcribes only. Use /v1/audio/transcriptions.",
            param="model",
            code="unsupported_value",
        )

    @app.head("/v1/models", include_in_schema=False)
    @app.get("/v1/models")
    async def list_models() -> dict:
        """List the served model under each id that requests may name."""
        return {"object": "list", "data": [model_card(name, model, settings) for name in model.ids]}

    @app.head("/v1/models/{model_id:path}", include_in_schema=False)
    @app.get("/v1/models/{model_id:path}")
    async def retrieve_model(model_id: str) -> dict:
        """Describe one model. The id may hold slashes, encoded or not."""
        if model_id not in model.ids:
            raise UnknownModel(f"The model {quoted(model_id)} does not exist", param="model")
        return model_card(model_id, model, settings)

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict:
        """Liveness: this process answers. It does not ask the model."""
        return {"status": "ok"}

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> dict:
        """Readiness: an utterance can be transcribed now."""
        await readiness.require()
        return {"status": "ok"}

    return app


async def _until_closed(
    items: AsyncGenerator[Delta | Transcript, None], stack: AsyncExitStack
) -> AsyncGenerator[Delta | Transcript, None]:
    """Pass the items of a stream on, and close what they are made of with them."""
    async with stack, aclosing(items):
        async for item in items:
            yield item


def _middleware(
    settings: Settings,
    model: ServedModel,
    on_request_end: Callable[[RequestRecord], None],
    *,
    write_request_id: bool,
) -> list[Middleware]:
    """The first is the outermost: everything below it gets a request id, and what a web page must see to read it."""
    layers = [
        Middleware(RequestIdMiddleware, write_header=write_request_id),
        Middleware(RecordMiddleware, model=model.id, on_end=on_request_end, log_transcripts=settings.log_transcripts),
    ]
    if settings.cors_origins:
        layers.append(Middleware(WebPagesMiddleware, origins=settings.cors_origins))
    layers += [
        Middleware(ErrorMiddleware),
        Middleware(UploadLimitMiddleware, max_bytes=settings.max_upload_bytes, stall_s=settings.upload_stall_s),
    ]
    if settings.api_keys:
        layers.append(Middleware(ApiKeyMiddleware, keys=settings.api_keys))
    return layers
