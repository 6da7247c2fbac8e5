"""The limit on the request body: by its declared length, by count, and on a real connection."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from deployments.ingress import upload
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPTIONS, Service, error_of, served

LIMIT = 10_000
HEADERS = {"content-type": "multipart/form-data; boundary=x"}


@pytest.fixture
def service() -> Service:
    return Service(max_upload_bytes=LIMIT)


def form_of(size: int) -> bytes:
    """A valid form of exactly `size` bytes."""
    head = (
        f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{MODEL}\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    ).encode()
    tail = b"\r\n--x--\r\n"
    return head + b"a" * (size - len(head) - len(tail)) + tail


class Chunks:
    """A body without a declared length, which knows how much of it was read."""

    def __init__(self, body: bytes, size: int = 1000) -> None:
        self.body, self.size, self.read = body, size, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < len(self.body):
            chunk = self.body[self.read : self.read + self.size]
            self.read += len(chunk)
            yield chunk


async def post(service: Service, content: bytes | Chunks, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in {**HEADERS, **headers}.items()}
    return await service.request("POST", TRANSCRIPTIONS, content=content, headers=sent)


@pytest.mark.parametrize("chunked", [False, True])
async def test_exactly_the_limit(service: Service, chunked: bool) -> None:
    body = form_of(LIMIT)
    response = await post(service, Chunks(body) if chunked else body)
    assert response.status_code == 200
    assert "connection" not in response.headers


async def test_one_byte_more(service: Service) -> None:
    response = await post(service, form_of(LIMIT + 1))
    assert response.status_code == 413
    assert error_of(response) == {
        "message": "413: Maximum content size limit (10000) exceeded (10001 bytes read)",
        "type": "invalid_request_error",
        "param": None,
        "code": "upload_too_large",
    }
    assert response.headers["connection"] == "close"
    assert service.untouched


async def test_chunked_upload_over_the_limit(service: Service) -> None:
    response = await post(service, Chunks(form_of(3 * LIMIT)))
    assert response.status_code == 413
    assert "(11000 bytes read)" in error_of(response)["message"]
    assert response.headers["connection"] == "close"
    assert service.untouched


async def test_a_length_that_lies(service: Service) -> None:
    response = await post(service, Chunks(form_of(3 * LIMIT)), content_length="10")
    assert response.status_code == 413


@pytest.mark.parametrize("length", ["abc", "-1", "1_0", "", "²", "9" * 5000, "10, 10", "+5"])
async def test_a_malformed_length_is_not_believed(service: Service, length: str) -> None:
    assert (await post(service, form_of(LIMIT), content_length=length)).status_code == 200
    assert (await post(service, form_of(LIMIT + 1), content_length=length)).status_code == 413


async def test_other_routes_are_not_concerned(service: Service) -> None:
    response = await service.request("POST", "/nowhere", content=b"x" * 2 * LIMIT)
    assert response.status_code == 404


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/v1/models", 405)])
async def test_an_upload_that_nobody_wants_ends_decently_too(service: Service, path: str, status: int) -> None:
    body = Chunks(b"x" * 2 * LIMIT)
    response = await service.request("POST", path, content=body)
    assert response.status_code == status
    assert response.headers["connection"] == "close"
    assert body.read == 2 * LIMIT


async def test_a_request_without_a_body_keeps_its_connection(service: Service) -> None:
    assert "connection" not in (await service.request("GET", "/v1/models")).headers


async def events_of(service: Service, messages: list[dict], length: int | None = None) -> list[str]:
    """What the application receives and sends, in order, when a client sends `messages` and then waits."""
    events: list[str] = []
    queue = iter(messages)

    async def receive() -> dict:
        message = next(queue, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        events.append("receive")
        if message["type"] == "broken":
            raise ConnectionError
        return message

    async def send(message: dict) -> None:
        more = message.get("more_body", False)
        events.append("start" if message["type"].endswith("start") else "part" if more else "end")

    headers = [(b"content-type", HEADERS["content-type"].encode())]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    scope = {
        "type": "http",
        "method": "POST",
        "path": TRANSCRIPTIONS,
        "headers": headers,
        "query_string": b"",
    }
    await service.app(scope, receive, send)  # type: ignore[arg-type]
    return events


def pieces(*sizes: int) -> list[dict]:
    """The messages of a form that arrives in chunks of these sizes."""
    body, messages = form_of(sum(sizes)), []
    for size in sizes:
        chunk, body = body[:size], body[size:]
        messages.append({"type": "http.request", "body": chunk, "more_body": bool(body)})
    return messages


async def test_a_declared_length_is_answered_before_reading(service: Service) -> None:
    events = await events_of(service, pieces(LIMIT, LIMIT), length=2 * LIMIT)
    assert events == ["start", "part", "receive", "receive", "end"]


async def test_the_rest_is_read_after_the_answer(service: Service) -> None:
    events = await events_of(service, pieces(LIMIT, 1, LIMIT, 5))
    assert events == ["receive", "receive", "start", "part", "receive", "receive", "end"]


async def test_a_connection_that_breaks_after_the_answer_is_no_error(service: Service) -> None:
    events = await events_of(service, [{"type": "broken"}], length=2 * LIMIT)
    assert events == ["start", "part", "receive", "end"]


async def test_nothing_is_awaited_from_a_client_that_is_gone(service: Service) -> None:
    events = await events_of(service, [{"type": "http.disconnect"}], length=2 * LIMIT)
    assert events == ["start", "part", "receive", "end"]


async def test_a_client_that_stops_sending_is_not_awaited_for_long(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "LINGER_S", 0.05)
    events = await events_of(service, pieces(LIMIT + 1, LIMIT)[:1])
    assert events == ["receive", "start", "part", "end"]


async def test_a_client_that_leaves_during_its_upload(service: Service) -> None:
    # Nobody reads the answer; what counts is that it is no error of the service.
    events = await events_of(service, [pieces(1000, 1000)[0], {"type": "http.disconnect"}])
    assert events == ["receive", "receive", "start", "end"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_client_that_sends_everything_first_gets_the_answer(service: Service, declared: bool) -> None:
    body = form_of(8_000_000)  # more than the buffers of the connection hold
    length = f"Content-Length: {len(body)}" if declared else "Transfer-Encoding: chunked"
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {HEADERS['content-type']}\r\n{length}\r\n\r\n"
    async with served(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        writer.write(body if declared else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        await asyncio.wait_for(writer.drain(), 5)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    head_of_answer, _, body_of_answer = answer.partition(b"\r\n\r\n")
    assert head_of_answer.startswith(b"HTTP/1.1 413")
    assert json.loads(body_of_answer)["error"]["code"] == "upload_too_large"


async def test_the_next_request_after_a_good_one_uses_the_same_connection(service: Service) -> None:
    async with served(service) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            response = await client.post(TRANSCRIPTIONS, data={"model": MODEL}, files={"file": ("a", AUDIO)})
            assert response.status_code == 200
