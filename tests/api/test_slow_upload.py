"""Uploads that stall, drip or are honestly slow: who is waited for, and what becomes of the place of who is not."""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import UploadFile

from deployments.ingress import upload
from tests.api.fakes import MODEL, TRANSCRIPTIONS, Service, served
from tests.api.test_spooling import open_files

STALL_S = 0.3
HEAD = (
    f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{MODEL}\r\n'
    '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
).encode()
TAIL = b"\r\n--x--\r\n"
CONTENT_TYPE = "multipart/form-data; boundary=x"


@pytest.fixture
def service() -> Service:
    return Service(upload_stall_s=STALL_S, max_concurrent_requests=1)


class Upload:
    """A request whose body comes as `body` yields it, and not at all when that ends without TAIL."""

    def __init__(self, service: Service, body: AsyncIterator[bytes], path: str = TRANSCRIPTIONS) -> None:
        self._body = body
        self.answered = asyncio.Event()
        self.sent: list[Any] = []
        headers = [(b"content-type", CONTENT_TYPE.encode()), (b"content-length", b"20000000")]
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
        self.task = asyncio.ensure_future(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        chunk = await anext(self._body, None)
        if chunk is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": chunk, "more_body": chunk != TAIL}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.answered.set()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Status and body."""
        await asyncio.wait_for(self.answered.wait(), 5)
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def stalling(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def dripping(chunk: bytes = b"a", pause_s: float = STALL_S / 10) -> AsyncIterator[bytes]:
    yield HEAD
    while True:
        await asyncio.sleep(pause_s)
        yield chunk


@pytest.mark.parametrize("path", [TRANSCRIPTIONS, "/v1/audio/translations"])
@pytest.mark.parametrize("chunks", [(), (HEAD,), (HEAD, b"a" * 100_000)], ids=["nothing", "fields", "much"])
async def test_an_upload_that_stalls_is_ended_and_its_place_is_free_at_once(
    service: Service, chunks: tuple[bytes, ...], path: str
) -> None:
    stalled = Upload(service, stalling(*chunks), path)
    await asyncio.sleep(STALL_S / 2)
    assert (await service.transcribe()).status_code == 429
    assert await stalled.answer() == (
        408,
        {
            "error": {
                "message": "The upload stalled: nothing came for 0.3 seconds. Send the request again.",
                "type": "invalid_request_error",
                "param": None,
                "code": "upload_timeout",
            }
        },
    )
    assert (b"connection", b"close") in stalled.sent[0]["headers"]
    assert not stalled.task.done(), "the client may still be sending"
    assert (await service.transcribe()).status_code == 200
    await stalled.end()


async def test_an_upload_that_drips_is_ended(service: Service) -> None:
    began_at = asyncio.get_running_loop().time()
    dripped = Upload(service, dripping())
    status, body = await dripped.answer()
    took_s = asyncio.get_running_loop().time() - began_at
    assert (status, body["error"]["code"]) == (408, "upload_timeout")
    assert body["error"]["message"].startswith("The upload is too slow: ")
    assert took_s > STALL_S
    assert (await service.transcribe()).status_code == 200
    await dripped.end()


async def test_chunks_without_a_byte_are_no_progress(service: Service) -> None:
    dripped = Upload(service, dripping(b""))
    assert (await dripped.answer())[0] == 408
    await dripped.end()


async def test_a_slow_upload_is_waited_for() -> None:
    service = Service(upload_stall_s=1.0)

    async def body() -> AsyncIterator[bytes]:
        yield HEAD
        for _ in range(12):
            await asyncio.sleep(0.1)  # far from a stall, also where the machine pauses
            yield b"a" * 200  # a second for five of them, that is
        yield TAIL

    slow = Upload(service, body())
    assert (await slow.answer())[0] == 200
    assert service.decoder.contents == [b"a" * 2400]


async def test_time_in_which_the_service_does_not_read_is_not_the_clients(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = UploadFile.write

    async def slow_write(self: UploadFile, data: bytes) -> None:
        await asyncio.sleep(1.5 * STALL_S)
        await write(self, data)

    monkeypatch.setattr(UploadFile, "write", slow_write)
    monkeypatch.setattr(upload, "MIN_BYTES_PER_S", 1e9)
    ready = Upload(service, stalling(HEAD, b"a", b"a", TAIL))
    assert (await ready.answer())[0] == 200


async def test_who_waits_for_an_answer_sends_nothing_and_is_not_ended(service: Service) -> None:
    service.transcriber.hang = True
    sent = Upload(service, stalling(HEAD, b"a", TAIL))
    await asyncio.sleep(2 * STALL_S)
    assert sent.sent == []
    await sent.end()


async def test_nothing_is_left_of_a_stalled_upload(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stalled = Upload(service, stalling(HEAD, b"a" * 3_000_000))
    await asyncio.sleep(STALL_S / 2)
    assert len(open_files(tmp_path)) == 1
    assert (await stalled.answer())[0] == 408
    assert open_files(tmp_path) == []
    assert os.listdir(tmp_path) == []
    await stalled.end()


async def test_a_stalled_upload_on_a_real_connection(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LINGER_S", 0.1)
    head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: 20000000\r\n"
    async with served(service) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}\r\n".encode() + HEAD)
        answer = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"upload_timeout" in answer
