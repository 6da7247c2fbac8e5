"""A client that costs little beside the service that it measures: ready-made bytes over kept connections."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.fast_path.null_engine import TEXT

_BOUNDARY = b"fast-path"


@dataclass(frozen=True)
class Load:
    """What a number of connections did."""

    latencies_s: Sequence[float]
    took_s: float


def request_bytes(url: str, upload: bytes) -> bytes:
    """A whole transcription request."""
    fields = {b"model": b"qwen3-asr-demo", b"language": b"en"}
    parts = [b'name="%b"\r\n\r\n%b' % item for item in fields.items()]
    parts.append(b'name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' + upload)
    body = b"".join(b"--%b\r\nContent-Disposition: form-data; %b\r\n" % (_BOUNDARY, part) for part in parts)
    body += b"--%b--\r\n" % _BOUNDARY
    head = (
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(url: str, request: bytes, *, connections: int, seconds: float, text: str = TEXT) -> Load:
    """Send the request over and over, on so many connections, one at a time on each.

    Raises:
        RuntimeError: an answer is not the one that is expected.
    """
    latencies: list[float] = []
    started = time.perf_counter()
    ends_at = started + seconds
    await asyncio.gather(*(_repeat(url, request, ends_at, text, latencies) for _ in range(connections)))
    return Load(latencies, time.perf_counter() - started)


async def _repeat(url: str, request: bytes, ends_at: float, text: str, latencies: list[float]) -> None:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        while (sent_at := time.perf_counter()) < ends_at:
            try:
                writer.write(request)
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                # A kept connection may be closed between two requests; HAProxy does when replicas come or go.
                writer.close()
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
                continue
            status, headers = _parse(head)
            body = await reader.readexactly(int(headers["content-length"]))
            latencies.append(time.perf_counter() - sent_at)
            if status != 200 or json.loads(body)["text"] != text:
                raise RuntimeError(f"{status}: {body[:500]!r}")
    finally:
        writer.close()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = (line.split(":", 1) for line in lines if line)
    return int(status.split()[1]), {name.lower(): value.strip() for name, value in headers}
