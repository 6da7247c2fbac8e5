"""The same service with HAProxy in the place of Ray Serve's own proxy."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from urllib.parse import urlsplit

import openai
import psutil
import pytest
import requests

from benchmarks.service import Service, haproxy
from tests.speech import ENGLISH

MODEL = "qwen3-asr-demo"
RECORDING = ENGLISH[0]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("haproxy") / "serve.log", **haproxy())
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


def processes(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def listeners() -> list[tuple[int | None, str]]:
    """Processes and the addresses that they listen on, over IPv4."""
    return [(c.pid, "{}:{}".format(*c.laddr)) for c in psutil.net_connections("tcp4") if c.status == "LISTEN"]


def test_haproxy_is_what_answers(service: Service) -> None:
    (listener,) = {pid for pid, address in listeners() if address == urlsplit(service.url).netloc}
    assert psutil.Process(listener).name() == "haproxy"


def test_nothing_of_serve_listens_for_other_machines(service: Service) -> None:
    ours = {process.pid: process.name() for process in processes(service)}
    found = []
    for pid, address in listeners():
        host, port = address.split(":")
        if pid in ours and (ours[pid] == "haproxy" or 30_000 <= int(port) < 31_000):
            found.append(host)
    assert len(found) >= 4, "the service, metrics, statistics, and a replica"
    assert set(found) == {"127.0.0.1"}


def test_a_recording_is_transcribed(client: openai.OpenAI) -> None:
    with RECORDING.path.open("rb") as file:
        answer = client.audio.transcriptions.with_raw_response.create(
            file=file, model=MODEL, extra_headers={"x-request-id": "mine"}
        )
    assert RECORDING.error_rate(answer.parse().text) <= 0.2
    assert answer.headers["x-request-id"] == "mine"


def test_the_text_streams(client: openai.OpenAI) -> None:
    with RECORDING.path.open("rb") as file:
        *deltas, done = client.audio.transcriptions.create(file=file, model=MODEL, stream=True)
    assert len(deltas) > 5
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
    assert RECORDING.error_rate(done.text) <= 0.2


def test_errors_of_the_application(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.audio.transcriptions.create(file=b"not audio at all" * 100, model=MODEL)
    assert (raised.value.param, raised.value.code) == ("file", "invalid_value")
    assert raised.value.request_id


def test_an_upload_that_is_too_large_is_refused_by_its_length(service: Service) -> None:
    with _open_request(service, length=30_000_000) as client:
        status, _, error = _answer_on(client)
    assert (status, error["code"]) == (413, "upload_too_large")


def test_errors_of_serve(service: Service) -> None:
    answer = requests.post(
        f"{service.url}/v1/audio/transcriptions",
        files={"file": RECORDING.path.read_bytes()},
        data={"model": MODEL},
        headers={"x-request-timeout-seconds": "0.001", "x-request-id": "mine"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-request-id"] == "mine"


@pytest.mark.parametrize("path", ["/-/healthz", "/health", "/ready"])
def test_it_says_that_it_is_well(service: Service, path: str) -> None:
    assert requests.get(service.url + path, timeout=60).status_code == 200


def test_the_ingress_dies_with_a_request(service: Service) -> None:
    (ingress,) = [p for p in processes(service) if "ServeReplica:asr:Ingress" in " ".join(p.cmdline())]
    with _open_request(service, length=100_000) as client:
        told = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert client.recv(len(told), socket.MSG_WAITALL) == told, "the replica reads the upload"
        os.kill(ingress.pid, signal.SIGKILL)
        status, headers, error = _answer_on(client)
    assert (status, error["code"]) == (503, "server_is_overloaded")
    assert headers["retry-after"] == "1"
    assert headers["x-request-id"]
    # The SDK's own retries are enough to get through until there is another.
    sdk = openai.OpenAI(base_url=f"{service.url}/v1", api_key="none")
    with RECORDING.path.open("rb") as file:
        answer = sdk.audio.transcriptions.create(file=file, model=MODEL)
    assert RECORDING.error_rate(answer.text) <= 0.2


def _open_request(service: Service, length: int) -> socket.socket:
    """A connection with a request on it whose upload has yet to come."""
    address = urlsplit(service.url)
    client = socket.create_connection((address.hostname, address.port), timeout=60)
    client.sendall(
        f"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    return client


def _answer_on(client: socket.socket) -> tuple[int, HTTPMessage, dict[str, str]]:
    """Status, headers and error of the answer that comes on a connection."""
    answer = HTTPResponse(client)
    answer.begin()
    return answer.status, answer.headers, json.loads(answer.read())["error"]
