"""The load generator, against a service that is slow, fails and talks nonsense."""

import argparse
import io
import random
import shlex
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

import numpy as np
import pytest

from benchmarks import clips, load
from benchmarks.client import Client, Clip, Exchange, Run, Statistics, closed_loop, failures, percentile, poisson
from deployments.audio.decode import decode

DELTA = b'data: {"type":"transcript.text.delta","delta":"Hi"}\n\n'
DONE = b'data: {"type":"transcript.text.done","text":"%s"}\n\ndata: [DONE]\n\n'
EVENTS = {
    b"words": b": keep-alive\n\n" + DELTA + DONE % b"Hi",
    b"silence": DONE % b"",
    b"broken off": DELTA,
    b"an error": DELTA + b'data: {"error":{"message":"It broke."}}\n\n',
}


class Rival(BaseHTTPRequestHandler):
    """Answers with the fields it was sent; fails as the upload says."""

    open_now = 0
    open_at_most = 0
    counting = threading.Lock()

    def do_GET(self) -> None:
        self._answer(200, b'{"data": [{"id": "rival-asr"}, {"id": "other"}]}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = message_from_bytes(head + body).get_payload()
        fields = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True) for part in parts}  # type: ignore[union-attr]
        with self.counting:
            type(self).open_now += 1
            type(self).open_at_most = max(self.open_at_most, self.open_now)
        time.sleep(0.02)
        with self.counting:
            type(self).open_now -= 1
        upload = fields.pop("file")
        if upload == b"hang up":
            self.close_connection = True
        elif upload == b"busy":
            self._answer(503, b'{"error":\n "busy"}')
        elif upload == b"nonsense":
            self._answer(200, b"<html>")
        elif fields.get("stream") == b"true":
            self._answer(200, EVENTS[cast(bytes, upload)], "text/event-stream; charset=utf-8")
        else:
            sent = ",".join(f"{name}={bytes(value).decode()}" for name, value in sorted(fields.items()))
            self._answer(200, f'{{"text": "{sent}"}}'.encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # with more connections waiting than this, the kernel lets clients try again after a second


@pytest.fixture
def url() -> Iterator[str]:
    Rival.open_at_most = 0
    server = Server(("127.0.0.1", 0), Rival)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_rival_gets_no_field_that_was_not_asked_for(url: str) -> None:
    async with Client(url) as client:
        run = await closed_loop(client, [clips.noise(0.1, seed=0)], 1)
    assert [exchange.text for exchange in run.exchanges] == ["model=rival-asr"]


async def test_fields_of_all_requests_and_of_one(url: str) -> None:
    async with Client(url, "other", fields={"max_completion_tokens": "9"}) as client:
        exchange = await client.transcribe(Clip(b"x", 1.0, fields={"language": "en"}))
    assert exchange.text == "language=en,max_completion_tokens=9,model=other"


async def test_failures_are_counted_and_told_and_not_in_the_rates(url: str) -> None:
    uploads = [b"good", b"busy", b"nonsense", b"hang up", b"good", b"busy"]
    async with Client(url) as client:
        run = await closed_loop(client, [Clip(upload, 10.0) for upload in uploads], 2)
    assert [exchange.text is not None for exchange in run.exchanges] == [True, False, False, False, True, False]
    statistics = Statistics.of(run)
    assert (statistics.requests, statistics.failed) == (6, 4)
    assert statistics.requests_per_s == pytest.approx(2 / run.took_s)
    assert statistics.audio_s_per_s == pytest.approx(20 / run.took_s)
    reasons = failures([run])
    assert reasons[0] == '2 failed: 503 {"error": "busy"}'
    assert {reason.split(":")[0] for reason in reasons[1:]} == {"1 failed"}
    assert any("200 without a text: <html>" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("upload", "text", "error", "has_first"),
    [
        (b"words", "Hi", None, True),
        (b"silence", "", None, False),
        (b"broken off", None, "200, then a stream without an end", True),
        (b"an error", None, "200, then It broke.", True),
    ],
)
async def test_a_stream_is_read_to_its_end(
    url: str, upload: bytes, text: str | None, error: str | None, has_first: bool
) -> None:
    async with Client(url) as client:
        exchange = await client.transcribe(Clip(upload, 1.0, fields={"stream": "true"}))
    assert (exchange.text, exchange.error) == (text, error)
    assert (exchange.first_s is not None) is has_first
    assert exchange.first_s is None or 0 < exchange.first_s <= exchange.latency_s


async def test_a_service_that_is_not_there_fails_every_request() -> None:
    async with Client("http://127.0.0.1:9/v1", "any") as client:
        run = await closed_loop(client, [Clip(b"x", 1.0)] * 3, 2)
    statistics = Statistics.of(run)
    assert (statistics.failed, statistics.p50_s, statistics.rtf_p95, statistics.audio_s_per_s) == (3, None, None, 0)
    assert failures([run])[0].startswith("3 failed: ClientConnectorError")


async def test_a_closed_loop_keeps_that_many_requests_open(url: str) -> None:
    async with Client(url) as client:
        run = await closed_loop(client, [Clip(b"x", 1.0)] * 12, 3)
    assert len(run.exchanges) == 12
    assert Rival.open_at_most == 3


async def test_poisson_arrivals_do_not_wait_for_answers(url: str) -> None:
    async with Client(url) as client:
        run = await poisson(client, [Clip(b"x", 1.0)] * 20, 1000.0, random.Random(0))
    assert Rival.open_at_most > 3
    assert Statistics.of(run).failed == 0


def test_statistics() -> None:
    exchanges = [Exchange(Clip(b"", seconds), latency, "") for seconds, latency in [(2.0, 1.0), (4.0, 3.0)]]
    assert asdict(Statistics.of(Run(exchanges, 4.0))) == pytest.approx(
        {
            "requests": 2,
            "failed": 0,
            "mean_s": 2.0,
            "p50_s": 2.0,
            "p95_s": 2.9,
            "rtf_mean": 0.625,
            "rtf_p95": 0.7375,
            "requests_per_s": 0.5,
            "audio_s_per_s": 1.5,
        }
    )


def test_a_percentile_is_never_beyond_the_largest_value() -> None:
    assert percentile([], 95) is None
    assert percentile([3.0], 95) == 3.0
    assert percentile([1.0, 2.0, 3.0], 95) == pytest.approx(2.9)
    assert percentile(list(map(float, range(101))), 95) == pytest.approx(95.0)


def test_a_load_is_the_same_for_every_service() -> None:
    parser = argparse.ArgumentParser()
    load.add_arguments(parser)
    options = "--requests 5 --seconds 0.1 0.3 --max-new-tokens 10 80 --extra a=b=c"
    arguments = parser.parse_args(shlex.split(options))
    first, again = load.make_clips(arguments, 1, 5), load.make_clips(arguments, 1, 5)
    assert first == again
    assert len({clip.upload for clip in first}) == 5
    assert all(0.1 <= clip.seconds <= 0.3 and 10 <= int(clip.fields["max_new_tokens"]) <= 80 for clip in first)
    assert first != load.make_clips(arguments, 2, 5)
    assert arguments.extra == [("a", "b=c")]


def test_recordings_of_a_folder_are_sent_as_others_each_time() -> None:
    parser = argparse.ArgumentParser()
    load.add_arguments(parser)
    arguments = parser.parse_args(["--clips", str(clips.SPEECH)])
    names = [path.stem for path in sorted(clips.SPEECH.glob("*.flac"))]
    first, second = (load.make_clips(arguments, i, 2 * len(names)) for i in (1, 2))
    assert first == load.make_clips(arguments, 1, 2 * len(names))
    assert [clip.name for clip in first] == [f"{name}.wav" for name in names + names]
    assert len({clip.upload for clip in first + second}) == 4 * len(names)
    loudest = [np.abs(decode(io.BytesIO(clip.upload), max_duration_s=60)).max() for clip in first]
    recorded = [np.abs(waveform).max() for _, waveform in clips.recordings(clips.SPEECH)] * 2
    assert all(0.79 < own / theirs <= 1.0 for own, theirs in zip(loudest, recorded, strict=True))


def test_an_extra_field_needs_a_value() -> None:
    parser = argparse.ArgumentParser()
    load.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--extra", "nothing"])
