"""The HTTP application: OpenAI's audio-transcription API over anything that transcribes a waveform.

Free of Ray and torch: `deployment.py` runs it in a replica, the tests in milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import BinaryIO, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from deployments.audio.decode import decode as decode_with_ffmpeg
from deployments.exceptions import DeadlineExceeded, InvalidRequest, ServiceError, UnknownModel
from deployments.ingress import openapi
from deployments.ingress.errors import ErrorMiddleware, answer_error
from deployments.ingress.form import requested_model, transcription_request
from deployments.ingress.formats import render
from deployments.ingress.models import model_card
from deployments.ingress.multipart import quoted, read_form
from deployments.ingress.request_id import RequestIdMiddleware
from deployments.ingress.upload import UploadLimitMiddleware
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import Transcript
from deployments.transcription.utterance import Waveform


class TranscribesRecordings(Protocol):
    """What the routes need of `transcription.transcriber.Transcriber`."""

    async def transcribe(self, waveform: Waveform, options: DecodingOptions) -> Transcript:
        """Transcribe one recording of any length.

        Raises:
            ServiceError: it cannot be transcribed, or not now.
        """
        ...


class Decodes(Protocol):
    """What the routes need of `audio.decode.decode`: blocking, called in a thread of its own."""

    def __call__(self, source: BinaryIO, *, max_duration_s: float) -> Waveform:
        """Turn a media file into a waveform.

        Raises:
            InvalidAudio: there is none in it, or more than `max_duration_s` of it.
        """
        ...


def create_app(
    transcriber: TranscribesRecordings,
    settings: Settings,
    model: ServedModel,
    *,
    decode: Decodes = decode_with_ffmpeg,
    write_request_id: bool = True,
) -> FastAPI:
    """Build the application.

    Args:
        transcriber: turns waveforms into transcripts.
        settings: limits and defaults.
        model: what clients may name as `model`.
        decode: turns uploaded files into waveforms.
        write_request_id: see `RequestIdMiddleware`; False behind Ray Serve's proxy.
    """
    threads = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        threads.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="Qwen3-ASR",
        description="OpenAI-compatible speech-to-text.",
        lifespan=lifespan,
        # A redirected POST loses its upload in most clients; a wrong URL is answered as one.
        redirect_slashes=False,
        # The first is the outermost: everything below it gets a request id.
        middleware=[
            Middleware(RequestIdMiddleware, write_header=write_request_id),
            Middleware(ErrorMiddleware),
            Middleware(UploadLimitMiddleware, max_bytes=settings.max_upload_bytes),
        ],
        exception_handlers={
            ServiceError: answer_error,
            HTTPException: answer_error,
            RequestValidationError: answer_error,
        },
    )

    @app.post("/v1/audio/transcriptions", openapi_extra=openapi.TRANSCRIPTION)
    async def create_transcription(request: Request) -> Response:
        """Transcribe a recording in its own language."""
        async with read_form(request) as form:
            asked = transcription_request(form, model, settings.default_language)
            async with _deadline(settings.request_timeout_s):
                # When this is cancelled the thread goes on, until its next read finds the file closed.
                waveform = await asyncio.get_running_loop().run_in_executor(
                    threads, partial(decode, asked.file, max_duration_s=settings.max_utterance_s)
                )
                await form.close()  # nobody needs the upload while the model works
                transcript = await transcriber.transcribe(waveform, asked.options)
        return render(transcript, asked.response_format, asked.warnings)

    @app.post("/v1/audio/translations", openapi_extra=openapi.TRANSLATION)
    async def create_translation(request: Request) -> Response:
        """Refused: the model transcribes only, and a transcript must not pass for a translation."""
        async with read_form(request) as form:
            name = requested_model(form, model)
        raise InvalidRequest(
            f"The model '{name}' does not support translation.", param="model", code="unsupported_value"
        )

    @app.get("/v1/models")
    async def list_models() -> dict:
        """List the served model under each id that requests may name."""
        return {"object": "list", "data": [model_card(name, model, settings) for name in model.ids]}

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

    return app


@asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """Cancel what runs in this context after `seconds`, and raise DeadlineExceeded in its place."""
    try:
        async with asyncio.timeout(seconds) as timer:
            yield
    except TimeoutError:
        if not timer.expired():  # somebody else's
            raise
        raise DeadlineExceeded(
            f"The request took longer than {seconds:g} seconds. Send a shorter recording, or try again later."
        ) from None
