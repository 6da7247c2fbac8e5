"""What HAProxy answers itself, with the configuration that Ray Serve writes and the program that it starts."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from fastapi import Request
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

from deployments import exceptions
from deployments.ingress import errors
from deployments.ingress.haproxy import ANSWERS, STARTING, OwnAnswer

TRANSCRIPTIONS = "/v1/audio/transcriptions"
FRESH = re.compile(r"req_[0-9a-f]{32}")


class Replica(BaseHTTPRequestHandler):
    """Is healthy, tells the request id it got, and drops the connection of whoever asks for /gone."""

    protocol_version = "HTTP/1.1"  # connections are kept

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.close_connection = True
            return
        body = self.headers.get("x-request-id", "").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        if self.path == "/says-its-id":
            self.send_header("x-request-id", "the-applications")
        self.end_headers()
        with suppress(ConnectionError):  # of health checks, which do not wait for it
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def replica() -> Iterator[int]:
    """The port of one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def haproxy(folder: Path, replica: int | None) -> Iterator[str]:
    """HAProxy as Serve's manager starts it, before one replica or before none; its URL."""
    port = free_port()
    config = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        metrics_port=free_port(),
        stats_port=free_port(),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        has_received_routes=True,
        has_received_servers=True,
        is_head=True,
    )
    backend = BackendConfig("http-asr", "/", app_name="asr", servers=[ServerConfig("one", "127.0.0.1", replica or 0)])

    async def write() -> None:
        api = HAProxyApi(config, {} if replica is None else {"asr": backend}, str(folder / "haproxy.cfg"))
        api._generate_config_file_internal()

    asyncio.run(write())
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.ingress.haproxy", "-db", "-f", folder / "haproxy.cfg", "-dR"],
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            if process.poll() is not None:
                break
            try:
                requests.get(f"{url}/-/healthz", timeout=5)
            except requests.ConnectionError:
                time.sleep(0.05)
            else:
                yield url
                return
        raise AssertionError((folder / "log").read_text())
    finally:
        process.kill()
        process.wait()


def check_shape(answer: requests.Response, expected: OwnAnswer) -> None:
    assert f"{answer.status_code} {answer.reason}" == expected.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == expected.body
    for name, value in expected.headers.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (STARTING, exceptions.ServiceUnavailable("", retry_after_s=1)),
        (ANSWERS[502], exceptions.ServiceUnavailable("", retry_after_s=1)),
        (ANSWERS[503], exceptions.ServiceUnavailable("", retry_after_s=1)),
        (ANSWERS[504], exceptions.DeadlineExceeded("")),
    ],
)
async def test_it_says_what_the_application_would(answer: OwnAnswer, error: Exception) -> None:
    """The table here is a second one, since HAProxy shall not wait for FastAPI to be imported."""
    scope = {"type": "http", "method": "POST", "path": TRANSCRIPTIONS, "headers": [], "state": {}}
    applications = await errors.answer_error(Request(scope), error)
    ours, theirs = json.loads(answer.body), json.loads(bytes(applications.body))
    assert ours["error"].pop("message")
    theirs["error"].pop("message")
    assert (ours, int(answer.status[:3])) == (theirs, applications.status_code)
    told = {name: value for name, value in applications.headers.items() if "retry" in name}
    assert {name: value for name, value in answer.headers.items() if "retry" in name} == told


def test_before_any_application(tmp_path: Path) -> None:
    with haproxy(tmp_path, None) as url:
        answer = requests.post(url + TRANSCRIPTIONS, headers={"x-request-id": "mine"}, timeout=10)
        check_shape(answer, STARTING)
        assert answer.headers["x-request-id"] == "mine"
        assert requests.get(f"{url}/-/healthz", timeout=10).text == "success"


def test_no_replica_listens(tmp_path: Path) -> None:
    with haproxy(tmp_path, free_port()) as url:
        answer = requests.get(url + TRANSCRIPTIONS, timeout=10)
        check_shape(answer, ANSWERS[503])
        assert FRESH.fullmatch(answer.headers["x-request-id"])


def test_a_replica_that_goes_with_the_request(tmp_path: Path, replica: int) -> None:
    with haproxy(tmp_path, replica) as url, requests.Session() as client:
        for _ in range(3):  # of a connection that was used before, HAProxy would say nothing by itself
            assert client.get(f"{url}/", timeout=10).ok
        answer = client.get(f"{url}/gone", timeout=10)
        check_shape(answer, ANSWERS[502])
        assert FRESH.fullmatch(answer.headers["x-request-id"])


@pytest.mark.parametrize("unsafe", [b"a b", b"x" * 129, b"\xff", b"<script>", b"", b"a,b"])
def test_an_unsafe_request_id_is_replaced(tmp_path: Path, replica: int, unsafe: bytes) -> None:
    with haproxy(tmp_path, replica) as url:
        answer = requests.get(f"{url}/", headers={"x-request-id": unsafe}, timeout=10)
        assert FRESH.fullmatch(answer.text), "what the replica got"
        assert answer.headers["x-request-id"] == answer.text


def test_the_applications_answers_are_left_alone(tmp_path: Path, replica: int) -> None:
    with haproxy(tmp_path, replica) as url:
        assert requests.get(f"{url}/", headers={"x-request-id": "mine"}, timeout=10).text == "mine"
        assert requests.get(f"{url}/says-its-id", timeout=10).headers["x-request-id"] == "the-applications"


def test_metrics_and_statistics_listen_where_the_service_does(tmp_path: Path) -> None:
    with haproxy(tmp_path, None):
        binds = re.findall(r"^ *bind (.*):\d+$", (tmp_path / "haproxy.cfg").read_text(), re.MULTILINE)
    assert binds == ["127.0.0.1"] * 3
