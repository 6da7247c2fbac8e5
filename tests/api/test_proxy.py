"""What Serve's proxy answers itself reaches clients in OpenAI's form."""

import re
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from deployments.ingress.proxy import middleware
from tests.api.fakes import TRANSCRIPTIONS, Service, error_of

FRESH = re.compile(r"req_[0-9a-f]{32}")


class Serve:
    """Stands in for Serve's proxy: writes the id of the request as it came, and answers `response` or raises it."""

    def __init__(self, response: Response | Exception) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        (request_id,) = [value for name, value in scope["headers"] if name == b"x-request-id"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"X-Request-ID", request_id)]
            await send(message)

        if isinstance(self.response, Exception):
            raise self.response
        await self.response(scope, receive, send_with_id)


async def request(app: Any, path: str = TRANSCRIPTIONS, **kwargs: Any) -> httpx.Response:
    for layer in middleware():
        app = layer.cls(app, *layer.args, **layer.kwargs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.post(path, **kwargs)


@pytest.mark.parametrize(
    ("status", "told", "code", "retry"),
    [
        (404, 503, "server_is_overloaded", None),
        (408, 504, "deadline_exceeded", "false"),
        (429, 429, "rate_limit_exceeded", None),
        (500, 500, "internal_error", None),
        (503, 503, "server_is_overloaded", None),
    ],
)
async def test_an_error_in_plain_text_gets_the_envelope(status: int, told: int, code: str, retry: str | None) -> None:
    response = await request(Serve(PlainTextResponse("Traceback: secret", status)), headers={"x-request-id": "mine"})
    assert response.status_code == told
    assert error_of(response)["code"] == code
    assert "secret" not in response.text
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers.get("x-should-retry") == retry
    assert ("retry-after" in response.headers) == (told in (429, 503))


async def test_a_failure_of_the_proxy_gets_the_envelope() -> None:
    response = await request(Serve(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")))
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert FRESH.fullmatch(response.headers["x-request-id"])


async def test_a_failure_after_the_first_byte_cuts_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("replica died")

    with pytest.raises(RuntimeError, match="replica died"):
        await request(app)


@pytest.mark.parametrize("sent", [b"a b", b"x" * 129, b"\xff", b"<script>", b""])
async def test_an_unsafe_request_id_never_reaches_serve(sent: bytes) -> None:
    response = await request(Serve(Response("{}")), headers=[(b"x-request-id", sent), (b"x-request-id", sent)])
    (echoed,) = response.headers.get_list("x-request-id")
    assert FRESH.fullmatch(echoed)


async def test_the_application_is_left_alone(service: Service) -> None:
    service.app = service.build(write_request_id=False)
    straight = await service.transcribe(response_format="text")
    through = await request(
        service.app,
        data={"model": "qwen3-asr-demo", "response_format": "text"},
        files={"file": ("a.wav", b"not really audio")},
    )
    assert (through.status_code, through.content) == (200, straight.content)
    assert through.headers["content-type"] == "text/plain; charset=utf-8"
    missing = await request(service.app, "/nowhere")
    assert (missing.status_code, error_of(missing)["message"]) == (404, "Invalid URL (POST /nowhere)")


async def test_serves_own_routes_are_left_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("draining", 503)(scope, receive, send)

    response = await request(app, "/-/healthz")
    assert (response.status_code, response.text) == (503, "draining")
