"""Server-sent events: exact bytes, errors before and after the first one, and every way a stream can end."""

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextDoneEvent

from deployments.exceptions import EngineFailure, InvalidAudio, ServiceUnavailable
from deployments.ingress import stream
from deployments.observation.requests import RequestRecord
from deployments.transcription.transcript import Transcript, TranscriptWarning, Usage
from deployments.transcription.utterance import Delta, Token
from tests.api.fakes import AUDIO, DELTAS, MODEL, TRANSCRIPT, TRANSCRIPTIONS, Service, error_of, served

DONE = (
    'data: {"type":"transcript.text.done","text":"Hello there. 你好。","languages":[{"code":"en"},{"code":"zh"}],'
    '"usage":{"type":"tokens","total_tokens":58,"input_tokens":51,'
    '"input_token_details":{"text_tokens":9,"audio_tokens":42},"output_tokens":7}}\n\n'
)
SILENCE = Transcript("", None, 2.0, (), Usage(2.0, 26, 9, 1))


class Connection:
    """A client of the application that sees each piece as it is sent, and may leave."""

    def __init__(self, service: Service, **fields: str) -> None:
        fields = {"model": MODEL, "stream": "true", **fields}
        parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}\r\n' for name in fields]
        parts.append('--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc\r\n--x--\r\n')
        self._request = [{"type": "http.request", "body": "".join(parts).encode(), "more_body": False}]
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.leave = asyncio.Event()
        self.broken = False
        self.reads = asyncio.Event()
        self.reads.set()
        scope = {
            "type": "http",
            "method": "POST",
            "path": TRANSCRIPTIONS,
            "query_string": b"",
            "headers": [(b"content-type", b"multipart/form-data; boundary=x"), (b"x-request-id", b"stream-1")],
        }
        self.task = asyncio.ensure_future(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._request:
            return self._request.pop()
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.broken:
            raise OSError("connection reset")
        await self.reads.wait()
        self._pieces.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._pieces.get(), 5)

    async def text(self) -> str:
        return (await self.next())["body"].decode()

    @property
    def nothing_more(self) -> bool:
        return self._pieces.empty()


@asynccontextmanager
async def connected(service: Service, **fields: str) -> AsyncIterator[Connection]:
    """A stream that hangs after its deltas, read up to there."""
    service.transcriber.hang = True
    connection = Connection(service, **fields)
    assert (await connection.next())["status"] == 200
    for delta in DELTAS:
        assert json.loads((await connection.text()).removeprefix("data: "))["delta"] == delta
    try:
        yield connection
    finally:
        connection.task.cancel()
        await asyncio.gather(connection.task, return_exceptions=True)


def events_of(body: str) -> list[Any]:
    """The JSON of the frames, which must be single `data:` lines."""
    assert body.endswith("\n\n")
    frames = body[:-2].split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    return [json.loads(frame[6:]) for frame in frames if frame != "data: [DONE]"]


async def test_the_exact_bytes(service: Service) -> None:
    response = await service.transcribe(stream="true")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert "content-length" not in response.headers
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["openai-processing-ms"].isdigit()
    deltas = [f'data: {{"type":"transcript.text.delta","delta":"{delta}"}}\n\n' for delta in DELTAS]
    assert response.content == ("".join(deltas) + DONE + "data: [DONE]\n\n").encode()


@pytest.mark.parametrize("value", ["true", "True", "1"])
@pytest.mark.parametrize("response_format", ["json", "text"])
async def test_both_formats_stream_alike(service: Service, value: str, response_format: str) -> None:
    response = await service.transcribe(stream=value, response_format=response_format)
    *deltas, done = events_of(response.text)
    whole = (await service.transcribe()).json()["text"]
    assert "".join(event["delta"] for event in deltas) == done["text"] == whole
    assert response.text.endswith("data: [DONE]\n\n")


async def test_each_delta_is_sent_when_it_is_there(service: Service) -> None:
    async with connected(service) as connection:
        assert connection.nothing_more
        assert not connection.task.done()


async def test_silence_has_no_deltas(service: Service) -> None:
    service.transcriber.said = ()
    service.transcriber.answer = SILENCE
    response = await service.transcribe(stream="true", include="logprobs")
    [done] = events_of(response.text)
    assert (done["type"], done["text"], done["languages"]) == ("transcript.text.done", "", [])
    assert "logprobs" not in done


async def test_logprobs(service: Service) -> None:
    tokens = (Token(b"Hello", -0.5), Token(b" there", -0.25))
    service.transcriber.said = (Delta("Hello", tokens[:1]), Delta(" there", tokens[1:]))
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, text="Hello there", tokens=tokens)
    first, second, done = events_of((await service.transcribe(stream="true", include="logprobs")).text)
    assert first["logprobs"] == [{"token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111]}]
    assert done["logprobs"] == first["logprobs"] + second["logprobs"]


async def test_warnings(service: Service) -> None:
    warning = TranscriptWarning("token_budget_exhausted", "The text may be cut short.")
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=(warning,))
    response = await service.transcribe(stream="true", nonsense="1")
    assert response.headers["x-asr-warnings"] == "unknown_field: The unknown field 'nonsense' was ignored."
    done = events_of(response.text)[-1]
    assert [told["code"] for told in done["warnings"]] == ["unknown_field", "token_budget_exhausted"]


async def test_the_upload_is_closed_while_the_model_works(service: Service) -> None:
    async with connected(service):
        assert service.decoder.sources[0].closed


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidAudio("no"), 400, "invalid_value"),
        (EngineFailure("no"), 500, "transcription_failed"),
        (ServiceUnavailable("no"), 503, "server_is_overloaded"),
        (RuntimeError("no"), 500, "internal_error"),
    ],
)
async def test_an_error_before_the_first_byte_is_an_http_error(
    service: Service, error: Exception, status: int, code: str
) -> None:
    service.transcriber.said = ()
    service.transcriber.answer = error
    response = await service.transcribe(stream="true")
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert service.transcriber.closed.is_set()


async def test_an_invalid_field_or_recording_is_an_http_error(service: Service) -> None:
    response = await service.transcribe(stream="true", temperature="2")
    assert (response.status_code, error_of(response)["param"]) == (400, "temperature")
    service.decoder.error = InvalidAudio("no")
    response = await service.transcribe(stream="true")
    assert (response.status_code, error_of(response)["param"]) == (400, "file")


async def test_the_deadline_before_the_first_byte_is_a_504() -> None:
    service = Service(request_timeout_s=0.05)
    service.transcriber.said = ()
    service.transcriber.hang = True
    response = await service.transcribe(stream="true")
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert service.transcriber.cancelled
    assert service.transcriber.closed.is_set()


async def test_a_first_event_that_is_long_in_coming_is_bridged_by_comments(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_EVENT_S", 0.01)
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    said = asyncio.Event()

    async def slow(*_: object) -> AsyncIterator[Delta | Transcript]:
        await said.wait()
        yield Delta(TRANSCRIPT.text)
        yield TRANSCRIPT

    monkeypatch.setattr(service.transcriber, "stream", slow)
    connection = Connection(service)
    assert (await connection.next())["status"] == 200
    assert [await connection.text() for _ in range(3)] == [": keep-alive\n\n"] * 3
    said.set()
    while (text := await connection.text()) == ": keep-alive\n\n":
        pass
    assert text + await connection.text() + await connection.text() == (
        f'data: {{"type":"transcript.text.delta","delta":"{TRANSCRIPT.text}"}}\n\n{DONE}data: [DONE]\n\n'
    )
    await asyncio.wait_for(connection.task, 5)


async def test_an_error_in_place_of_a_late_first_event_is_a_frame(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "FIRST_EVENT_S", 0.01)

    async def slow(*_: object) -> AsyncIterator[Delta | Transcript]:
        await asyncio.sleep(0.05)
        raise ServiceUnavailable("The model is restarting.")
        yield

    monkeypatch.setattr(service.transcriber, "stream", slow)
    response = await service.transcribe(stream="true")
    comment, _, rest = response.text.partition("\n\n")
    assert (response.status_code, comment) == (200, ": keep-alive")
    assert [event["error"]["code"] for event in events_of(rest)] == ["server_is_overloaded"]
    assert "[DONE]" not in rest


async def test_the_deadline_in_place_of_a_late_first_event_is_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "FIRST_EVENT_S", 0.01)
    service = Service(request_timeout_s=0.05)
    service.transcriber.said = ()
    service.transcriber.hang = True
    response = await service.transcribe(stream="true")
    assert response.status_code == 200
    assert events_of(response.text.removeprefix(": keep-alive\n\n"))[0]["error"]["code"] == "deadline_exceeded"
    assert service.transcriber.cancelled
    assert service.transcriber.closed.is_set()


@pytest.mark.parametrize("how", ["leaves", "breaks"])
async def test_a_client_that_goes_before_the_first_event_closes_the_stream(
    service: Service, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stream, "FIRST_EVENT_S", 0.01)
    service.transcriber.said = ()
    service.transcriber.hang = True
    connection = Connection(service)
    connection.broken = how == "breaks"
    if how == "leaves":
        assert (await connection.next())["status"] == 200
        connection.leave.set()
    await asyncio.wait_for(asyncio.gather(connection.task, return_exceptions=True), 5)
    assert service.transcriber.cancelled
    assert service.transcriber.closed.is_set()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ServiceUnavailable("The model is restarting."),
            {
                "message": "The model is restarting.",
                "type": "service_unavailable_error",
                "param": None,
                "code": "server_is_overloaded",
            },
        ),
        (
            RuntimeError("secret"),
            {
                "message": "The server had an error while processing your request.",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            },
        ),
    ],
)
async def test_an_error_after_the_first_byte_is_a_frame(
    service: Service, caplog: pytest.LogCaptureFixture, error: Exception, told: dict[str, Any]
) -> None:
    service.transcriber.answer = error
    with caplog.at_level(logging.WARNING):
        response = await service.transcribe(stream="true")
    assert response.status_code == 200
    *deltas, last = events_of(response.text)
    assert [event["delta"] for event in deltas] == list(DELTAS)
    assert last == {"error": told}
    assert "[DONE]" not in response.text
    [record] = caplog.records
    assert response.headers["x-request-id"] in record.getMessage()
    assert service.transcriber.closed.is_set()


async def test_the_deadline_after_the_first_byte_is_a_frame() -> None:
    service = Service(request_timeout_s=0.05)
    service.transcriber.hang = True
    response = await service.transcribe(stream="true")
    last = events_of(response.text)[-1]
    assert last["error"]["code"] == "deadline_exceeded"
    assert last["error"]["message"].startswith("The request took longer than 0.05 seconds.")
    assert service.transcriber.cancelled
    assert service.transcriber.closed.is_set()


async def test_a_stream_without_an_end_is_an_error(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_: object) -> AsyncIterator[Delta]:
        yield Delta("Hello")

    monkeypatch.setattr(service.transcriber, "stream", endless)
    response = await service.transcribe(stream="true")
    assert events_of(response.text)[-1]["error"]["code"] == "internal_error"


async def test_long_silences_are_bridged_by_comments(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    async with connected(service) as connection:
        assert [await connection.text() for _ in range(3)] == [": keep-alive\n\n"] * 3


async def test_a_client_that_leaves_closes_the_stream(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(service) as connection:
        connection.leave.set()
        await asyncio.wait_for(connection.task, 5)
        assert service.transcriber.cancelled
        assert service.transcriber.closed.is_set()
        assert connection.nothing_more
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_connection_that_breaks_closes_the_stream(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    async with connected(service) as connection:
        connection.broken = True
        with pytest.raises(OSError, match="connection reset"):
            await asyncio.wait_for(connection.task, 5)
        assert service.transcriber.closed.is_set()


async def test_a_connection_that_breaks_at_its_first_byte_closes_the_stream(service: Service) -> None:
    connection = Connection(service)
    connection.broken = True
    with pytest.raises(OSError, match="connection reset"):
        await asyncio.wait_for(connection.task, 5)
    assert service.transcriber.closed.is_set()


async def test_a_client_that_reads_nothing_is_left_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.01)
    monkeypatch.setattr(stream, "UNREAD_S", 0.05)
    ended: list[RequestRecord] = []
    service = Service(request_timeout_s=0.5)
    service.app = service.build(on_request_end=ended.append)
    async with connected(service) as connection:
        connection.reads.clear()
        await asyncio.wait_for(connection.task, 5)
        assert service.transcriber.closed.is_set()
    assert [record.status for record in ended] == [499]


async def test_a_server_that_cancels_closes_the_stream(service: Service) -> None:
    async with connected(service) as connection:
        connection.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connection.task
        assert service.transcriber.cancelled
        assert service.transcriber.closed.is_set()


async def test_a_client_that_hangs_up_on_a_real_connection(service: Service) -> None:
    service.transcriber.hang = True
    async with served(service) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        request = client.build_request(
            "POST", TRANSCRIPTIONS, data={"model": MODEL, "stream": "true"}, files={"file": ("a", AUDIO)}
        )
        response = await client.send(request, stream=True)
        lines = response.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["delta"] == DELTAS[0]
        assert not service.transcriber.closed.is_set()
        await response.aclose()
        await asyncio.wait_for(service.transcriber.closed.wait(), 5)


async def test_through_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    events = [event async for event in await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, stream=True)]
    assert [event.delta for event in events if isinstance(event, TranscriptionTextDeltaEvent)] == list(DELTAS)
    assert isinstance(events[-1], TranscriptionTextDoneEvent)
    assert events[-1].text == TRANSCRIPT.text
    assert events[-1].usage is not None
    assert events[-1].usage.total_tokens == 58


async def test_logprobs_through_the_sdk(service: Service, sdk: openai.AsyncOpenAI) -> None:
    token = Token(b"Hello", -0.5)
    service.transcriber.said = (Delta("Hello", (token,)),)
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, text="Hello", tokens=(token,))
    answer = await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, stream=True, include=["logprobs"])
    delta, done = [event async for event in answer]
    assert isinstance(delta, TranscriptionTextDeltaEvent)
    assert isinstance(done, TranscriptionTextDoneEvent)
    for logprobs in (delta.logprobs, done.logprobs):
        assert logprobs is not None
        assert (logprobs[0].token, logprobs[0].logprob, logprobs[0].bytes) == ("Hello", -0.5, list(b"Hello"))


async def test_the_sdk_raises_an_error_frame(service: Service, sdk: openai.AsyncOpenAI) -> None:
    service.transcriber.answer = ServiceUnavailable("The model is restarting.")
    events = aiter(await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, stream=True))
    assert [(await anext(events)).type for _ in DELTAS] == ["transcript.text.delta"] * len(DELTAS)
    with pytest.raises(openai.APIError, match=r"The model is restarting\."):
        await anext(events)


async def test_the_sdk_skips_comments(service: Service, sdk: openai.AsyncOpenAI) -> None:
    async def with_pause(*_: object) -> AsyncIterator[Delta | Transcript]:
        yield Delta("Hello")
        await asyncio.sleep(0.05)
        yield dataclasses.replace(TRANSCRIPT, text="Hello")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "KEEP_ALIVE_S", 0.01)
        patch.setattr(service.transcriber, "stream", with_pause)
        answer = await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, stream=True)
        assert [event.type async for event in answer] == ["transcript.text.delta", "transcript.text.done"]
