"""More requests than places: who is refused, how, and when a place is free again."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from deployments.exceptions import InvalidAudio, TooManyRequests
from deployments.ingress import capacity
from deployments.ingress.capacity import Capacity
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of

PLACES = 3
FIELDS = {"model": MODEL}


@pytest.fixture
def service() -> Service:
    return Service(max_concurrent_requests=PLACES)


@asynccontextmanager
async def full(service: Service) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """All places held by requests that the model does not answer."""
    service.transcriber.hang = True
    requests = [asyncio.create_task(service.transcribe()) for _ in range(PLACES)]
    async with asyncio.timeout(5):
        while len(service.transcriber.calls) < PLACES:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    service.transcriber.hang = False
    try:
        yield requests
    finally:
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


async def all_places_are_free(service: Service) -> bool:
    """So many requests at a time are answered as there are places, within seconds.

    A stream gives its place back when it has ended, which is a moment after the client has its last event.
    """
    for _ in range(20):
        answers = await asyncio.gather(*(service.transcribe() for _ in range(PLACES)))
        if [answer.status_code for answer in answers] == [200] * PLACES:
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/v1/audio/translations"])
async def test_one_more_than_places_is_refused(service: Service, path: str) -> None:
    async with full(service):
        response = await service.post_form(FIELDS, {"file": AUDIO}, path)
    assert response.status_code == 429
    assert error_of(response) == {
        "message": "The service already has 3 requests in hand. Try again in a moment.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert response.headers["retry-after"] == "1"
    assert response.headers["x-request-id"].startswith("req_")
    assert "x-should-retry" not in response.headers, "the SDKs shall try again"
    assert await all_places_are_free(service)


async def test_of_many_at_once_as_many_are_served_as_there_are_places(service: Service) -> None:
    service.decoder.release = release = threading.Event()
    requests = [asyncio.create_task(service.transcribe()) for _ in range(PLACES + 5)]
    while sum(request.done() for request in requests) < 5:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    release.set()
    statuses = [response.status_code for response in await asyncio.gather(*requests)]
    assert sorted(statuses) == [200] * PLACES + [429] * 5


async def test_a_refusal_waits_for_nothing(service: Service) -> None:
    """It is on its way before a byte of the upload was asked for."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        assert sent, "the upload was read first"
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"20000000")]
    scope = {"type": "http", "method": "POST", "path": TRANSCRIPTIONS, "query_string": b"", "headers": headers}
    async with full(service):
        await service.app(scope, receive, send)
    assert sent[0]["status"] == 429


async def test_what_is_not_a_recording_needs_no_place(service: Service) -> None:
    async with full(service):
        assert (await service.request("GET", "/health")).status_code == 200
        assert (await service.request("GET", "/v1/models")).status_code == 200


async def test_who_may_not_call_is_not_told_that_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_API_KEYS", "sk-right")
    service = Service(max_concurrent_requests=1)
    assert (await service.transcribe()).status_code == 401


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}, {"temperature": "9"}])
async def test_a_place_is_free_after_the_answer(service: Service, fields: dict[str, str]) -> None:
    for _ in range(PLACES + 1):
        assert (await service.transcribe(**fields)).status_code in (200, 400)
    assert await all_places_are_free(service)


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_place_is_free_after_an_error(service: Service, stream: str) -> None:
    service.decoder.error = InvalidAudio("no good")
    for _ in range(PLACES + 1):
        assert (await service.transcribe(stream=stream)).status_code == 400
    service.decoder.error = None
    assert await all_places_are_free(service)


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_place_is_free_after_the_deadline(stream: str) -> None:
    service = Service(max_concurrent_requests=PLACES, request_timeout_s=0.05)
    service.transcriber.hang = True
    for _ in range(PLACES + 1):
        assert (await service.transcribe(stream=stream)).status_code in (200, 504)
    service.transcriber.hang = False
    assert await all_places_are_free(service)


async def test_a_stream_holds_its_place_until_it_ends(service: Service) -> None:
    service.transcriber.hang = True
    streams = [asyncio.create_task(service.transcribe(stream="true")) for _ in range(PLACES)]
    async with asyncio.timeout(5):
        while len(service.transcriber.calls) < PLACES:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await service.transcribe()).status_code == 429
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    service.transcriber.hang = False
    assert await all_places_are_free(service)


async def test_the_sdk_comes_back_after_the_time_it_was_told(
    service: Service, sdk: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    async with full(service) as requests:

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)

        monkeypatch.setattr("openai._base_client.anyio.sleep", sleep)
        answer = await sdk.with_options(max_retries=2).audio.transcriptions.create(file=AUDIO, model=MODEL)
    assert answer.text
    assert slept == [1.0]


@pytest.mark.parametrize(("held_s", "told_s"), [(0.2, 1), (7.2, 8), (500.0, 60)])
def test_how_long_to_wait_is_how_long_places_are_held(
    monkeypatch: pytest.MonkeyPatch, held_s: float, told_s: int
) -> None:
    now = 0.0
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    places = Capacity(1)
    for _ in range(3):
        with places.place():
            now += held_s
    with places.place(), pytest.raises(TooManyRequests) as refused, places.place():
        pass
    assert refused.value.retry_after_s == told_s
    assert places.taken == 0


@pytest.mark.parametrize(("passed_s", "told_s"), [(0.0, 1), (0.5, 1), (2.0, 4), (7.0, 14), (29.9, 60), (500.0, 60)])
def test_the_wait_grows_while_nothing_ends(monkeypatch: pytest.MonkeyPatch, passed_s: float, told_s: int) -> None:
    """As when the model is gone: what was learned from those who have left is worth nothing then."""
    now = 0.0
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    places = Capacity(PLACES)
    for _ in range(3):
        with places.place():
            now += 0.2
    with ExitStack() as held:
        for _ in range(PLACES):
            held.enter_context(places.place())
        now += passed_s
        with pytest.raises(TooManyRequests) as refused, places.place():
            pass
    assert refused.value.retry_after_s == told_s
    assert places.taken == 0


def test_a_long_recording_sends_nobody_away_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(capacity.time, "monotonic", lambda: now)
    places = Capacity(PLACES)
    with places.place():
        now += 500
        with places.place(), places.place(), pytest.raises(TooManyRequests) as refused, places.place():
            pass
    assert refused.value.retry_after_s == 1


async def test_who_drains_lets_nobody_in_and_waits_for_those_who_are(service: Service) -> None:
    places = Capacity(PLACES)
    service.app = service.build(capacity=places)
    async with full(service) as requests:
        draining = asyncio.create_task(places.drain())
        await asyncio.sleep(0)
        refused = await service.transcribe()
        assert (refused.status_code, error_of(refused)["code"]) == (503, "server_is_overloaded")
        assert refused.headers["retry-after"] == "1"
        for request in requests[1:]:
            request.cancel()
        await asyncio.gather(*requests[1:], return_exceptions=True)
        assert not draining.done(), "one is left"
    await draining
