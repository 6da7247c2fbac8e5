"""A client that hangs up, and one that takes too long: nothing goes on working for either, whatever it was about."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Generator
from typing import Any, BinaryIO

import httpx
import pytest
from ray.exceptions import TaskCancelledError

from deployments.audio.waveform import Waveform
from deployments.ingress.api import create_app
from deployments.ingress.deployment import Ingress
from deployments.ingress.ray_errors import ClientLeftMiddleware
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import Delta, Transcription, Utterance
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of, served
from tests.listening import Loudness, recorded

UTTERANCES = 4


class HangingRecognizer:
    """Never answers; knows who waits for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.all_wait = asyncio.Event()

    async def transcribe(self, utterance: Utterance) -> Transcription:
        self.waiting += 1
        if self.waiting == UTTERANCES:
            self.all_wait.set()
        try:
            return await asyncio.Future()
        finally:
            self.waiting -= 1

    async def stream(self, utterance: Utterance) -> AsyncGenerator[Delta | Transcription, None]:
        yield await self.transcribe(utterance)


def long_recording(source: BinaryIO, *, max_duration_s: float) -> Generator[Waveform, None, None]:
    """A decoder of files that hold four utterances each."""
    assert source.read()
    yield recorded(*[0.5, 5.0] * UTTERANCES)


@pytest.fixture
def recognizer() -> HangingRecognizer:
    return HangingRecognizer()


@pytest.fixture
def service(recognizer: HangingRecognizer) -> Service:
    return of_utterances(recognizer)


def of_utterances(recognizer: HangingRecognizer, **settings: float) -> Service:
    """The application over the real transcriber."""
    service = Service(**settings)
    transcriber = Transcriber(recognizer, max_utterance_s=6, window=UTTERANCES, listen=Loudness)
    service.app = create_app(transcriber, service.settings, service.model, decode=long_recording)
    return service


class Call:
    """A request on its way through the application, whose client may leave or stop sending."""

    def __init__(
        self,
        service: Service,
        *,
        sends_all: bool = True,
        age: str = "0",
        gone: Exception | None = None,
        **fields: str,
    ) -> None:
        self._gone = gone
        fields = {"model": MODEL, **fields}
        parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}\r\n' for name in fields]
        parts.append('--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n')
        if sends_all:
            parts.append("--x--\r\n")
        self._request = [{"type": "http.request", "body": "".join(parts).encode(), "more_body": not sends_all}]
        self.leave = asyncio.Event()
        self.sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": TRANSCRIPTIONS,
            "query_string": b"",
            "headers": [
                (b"content-type", b"multipart/form-data; boundary=x"),
                (b"x-asr-request-age-seconds", age.encode()),
            ],
        }
        self.task = asyncio.ensure_future(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._request:
            return self._request.pop()
        await self.leave.wait()
        if self._gone is not None:
            raise self._gone
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.sent[1]["body"])["error"]


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_all_utterances_of_who_hangs_up_are_given_up(
    service: Service, recognizer: HangingRecognizer, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = Call(service, stream=stream)
    await asyncio.wait_for(recognizer.all_wait.wait(), 5)
    call.leave.set()
    await asyncio.wait_for(call.task, 5)
    assert recognizer.waiting == 0
    assert call.status == 499, "for the access log: nobody reads it"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_all_utterances_of_who_is_cancelled_are_given_up(
    service: Service, recognizer: HangingRecognizer, stream: str
) -> None:
    call = Call(service, stream=stream)
    await asyncio.wait_for(recognizer.all_wait.wait(), 5)
    call.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.task
    assert recognizer.waiting == 0


@pytest.mark.parametrize("gone", [None, TaskCancelledError(error_message="before it executes")], ids=["told", "raised"])
async def test_who_leaves_in_the_middle_of_an_upload_is_no_error(
    service: Service, gone: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Serve's proxy has given the request up already, its `receive` raises."""
    service.app.add_middleware(ClientLeftMiddleware)
    call = Call(service, sends_all=False, gone=gone)
    call.leave.set()
    await asyncio.wait_for(call.task, 5)
    assert call.status == 499
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_deployment_is_told_of_them_too() -> None:
    settings = Settings()
    plain = Ingress.func_or_class.__mro__[1]  # type: ignore[attr-defined]  # without what Serve adds
    app = plain(settings, ServedModel.of(settings), asr=None).__serve_build_asgi_app__()
    assert app.user_middleware[0].cls is ClientLeftMiddleware


async def test_hanging_up_a_real_connection(service: Service, recognizer: HangingRecognizer) -> None:
    async with served(service) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        request = asyncio.create_task(client.post(TRANSCRIPTIONS, data={"model": MODEL}, files={"file": ("a", AUDIO)}))
        await asyncio.wait_for(recognizer.all_wait.wait(), 5)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        async with asyncio.timeout(5):
            while recognizer.waiting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_all_utterances_are_given_up_at_the_deadline(recognizer: HangingRecognizer, stream: str) -> None:
    service = of_utterances(recognizer, request_timeout_s=0.5)
    response = await service.transcribe(stream=stream)
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert response.headers["x-should-retry"] == "false", "it would take as long again"
    assert "retry-after" not in response.headers
    assert recognizer.all_wait.is_set()
    assert recognizer.waiting == 0


async def test_a_second_replica_has_what_the_first_has_left_of_the_time(recognizer: HangingRecognizer) -> None:
    service = of_utterances(recognizer, request_timeout_s=100)
    for age, status in (("99.95", 504), ("later", 499)):
        call = Call(service, age=age, sends_all=False)
        await asyncio.sleep(0.2)
        call.leave.set()
        await asyncio.wait_for(call.task, 5)
        assert call.status == status


async def test_an_upload_that_stalls_ends_at_the_deadline(recognizer: HangingRecognizer) -> None:
    call = Call(of_utterances(recognizer, request_timeout_s=0.05), sends_all=False)
    async with asyncio.timeout(5):
        while len(call.sent) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert call.status == 504
    assert call.error["code"] == "deadline_exceeded"
    call.leave.set()
    await call.task
