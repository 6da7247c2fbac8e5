"""Stand-ins for the two things behind the HTTP application, and the application over them."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.ingress.api import create_app
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import Segment, Transcript, Usage
from deployments.transcription.utterance import Delta
from deployments.transcription.words import WordTimes

MODEL = "qwen3-asr-demo"
AUDIO = b"not really audio"
TRANSCRIPTIONS = "/v1/audio/transcriptions"

TRANSCRIPT = Transcript(
    text="Hello there. 你好。",
    language="English",
    duration=3.25,
    segments=(
        Segment(0.0, 1.5, "Hello there.", "English", 0.0, -0.25),
        Segment(1.5, 3.25, "你好。", "Chinese", 0.0, -0.5),
    ),
    usage=Usage(seconds=3.25, audio_tokens=42, text_tokens=9, output_tokens=7),
)


DELTAS = ("Hello", " there.", " 你", "好。")
"""What a stream of TRANSCRIPT says."""


@dataclass
class FakeTranscriber:
    """Answers `answer`, or raises it; with `hang` it never does.

    A stream tells `said` first, and may hang or fail after it.
    """

    answer: Transcript | Exception = TRANSCRIPT
    hang: bool = False
    said: tuple[Delta, ...] = tuple(map(Delta, DELTAS))
    calls: list[tuple[Waveform, DecodingOptions]] = field(default_factory=list)
    speech: SpeechOptions | None = None
    """Those of the last call."""
    words: WordTimes | None = None
    """Those of the last call that was not a stream."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def transcribe(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions, *, words: WordTimes
    ) -> Transcript:
        self.words = words
        return await self._answer(await self._draw(recording), options, speech)

    async def stream(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions
    ) -> AsyncGenerator[Delta | Transcript, None]:
        try:
            waveform = await self._draw(recording)
            for delta in self.said:
                yield delta
            yield await self._answer(waveform, options, speech)
        finally:
            self.closed.set()

    async def _draw(self, recording: AsyncIterator[Waveform]) -> Waveform:
        return np.concatenate([block async for block in recording])

    async def _answer(self, waveform: Waveform, options: DecodingOptions, speech: SpeechOptions) -> Transcript:
        self.calls.append((waveform, options))
        self.speech = speech
        self.started.set()
        try:
            if self.hang:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class FakeDecoder:
    """Yields one second of silence, or raises `error`; with `release` it waits for that first."""

    error: Exception | None = None
    release: threading.Event | None = None
    contents: list[bytes] = field(default_factory=list)
    sources: list[BinaryIO] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    max_duration_s: float | None = None

    def __call__(self, source: BinaryIO, *, max_duration_s: float) -> Generator[Waveform, None, None]:
        self.sources.append(source)
        self.threads.append(threading.current_thread())
        self.max_duration_s = max_duration_s
        if self.release is not None:
            self.release.wait(5)
        self.contents.append(source.read())
        if self.error is not None:
            raise self.error
        yield np.zeros(SAMPLE_RATE, np.float32)


class Service:
    """The application over fakes, with what they saw."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.model = ServedModel.of(self.settings)
        self.transcriber = FakeTranscriber()
        self.decoder = FakeDecoder()
        self.app: FastAPI = self.build()

    def build(self, **options: Any) -> FastAPI:
        return create_app(self.transcriber, self.settings, self.model, decode=self.decoder, **options)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service") as client:
            yield client

    async def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.request(method, path, **kwargs)

    async def transcribe(self, *, file: Any = ("a.wav", AUDIO, "audio/wav"), **fields: Any) -> httpx.Response:
        """Send a well-formed request with `fields` on top."""
        return await self.post_form({"model": MODEL} | fields, {"file": file})

    async def post_form(self, fields: dict[str, Any], files: Any = None, path: str = TRANSCRIPTIONS) -> httpx.Response:
        # Without a file httpx would send a URL-encoded form: a text part as a nameless file keeps it multipart.
        parts = [(name, (None, value)) for name, values in fields.items() for value in _listed(values)]
        return await self.request("POST", path, files=[*parts, *(files or {}).items()])

    @property
    def untouched(self) -> bool:
        """Neither the decoder nor the transcriber was called."""
        return not self.decoder.sources and not self.transcriber.calls


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[int]:
    """The application on a real port."""
    server = uvicorn.Server(uvicorn.Config(service.app, log_level="critical", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


def _listed(values: Any) -> list[str]:
    return [str(value) for value in (values if isinstance(values, list) else [values])]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error in a response, which must be OpenAI's envelope and nothing else."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    return body["error"]
