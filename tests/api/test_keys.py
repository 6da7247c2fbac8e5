"""API keys: where they come from, what they open, and that nobody gets to see them."""

import json
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
import websockets
from pydantic import ValidationError

from deployments.api_keys import parse_api_keys
from deployments.exceptions import ServiceUnavailable
from deployments.settings import Settings
from tests.api.fakes import AUDIO, MODEL, Service, error_of, served

SECRET = "sk-alice-0123456789abcdef"
OTHER = "sk-bob"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("ASR_API_KEYS", f"alice:{SECRET}, {OTHER}")
    return Service()


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def secrets(settings: Settings) -> dict[str, str]:
    return {key.name: key.secret.get_secret_value() for key in settings.api_keys}


ROUTES = [
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("GET", "/v1/models"),
    ("GET", f"/v1/models/{MODEL}"),
    ("GET", "/v1/nowhere"),
    ("DELETE", "/v1/models"),
    ("GET", "/v1"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key(service: Service, method: str, path: str) -> None:
    response = await service.request(method, path)
    assert response.status_code == 401
    assert error_of(response) == {
        "message": "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert response.headers["www-authenticate"] == 'Bearer realm="OpenAI API"'
    assert response.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_with_a_wrong_key(service: Service, method: str, path: str) -> None:
    response = await service.request(method, path, headers=bearer("sk-wrong-0123456789xyz"))
    assert response.status_code == 401
    assert error_of(response) == {
        "message": "Incorrect API key provided: sk-****9xyz.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        (SECRET, None),
        (f"Basic {SECRET}", None),
        (f"Bearer {SECRET[:-1]}", "invalid_api_key"),
        (f"Bearer {SECRET}x", "invalid_api_key"),
        (f"Bearer {SECRET} {SECRET}", "invalid_api_key"),
        (f"Bearer alice:{SECRET}", "invalid_api_key"),
        ("Bearer alice", "invalid_api_key"),
        ("Bearer \xe9\xff", "invalid_api_key"),
        ("Bearer x", "invalid_api_key"),
    ],
)
async def test_everything_else_is_no_key(service: Service, authorization: str, code: str | None) -> None:
    headers = {b"authorization": authorization.encode("latin-1")}
    response = await service.request("GET", "/v1/models", headers=headers)
    assert response.status_code == 401
    assert error_of(response)["code"] == code
    assert SECRET not in response.text


@pytest.mark.parametrize("authorization", [f"Bearer {SECRET}", f"bearer  {SECRET} ", f"Bearer {OTHER}"])
async def test_the_right_keys(service: Service, authorization: str) -> None:
    headers = {"authorization": authorization}
    assert (await service.request("GET", "/v1/models", headers=headers)).status_code == 200
    assert (await service.request("GET", "/v1/nowhere", headers=headers)).status_code == 404


@pytest.mark.parametrize("path", ["/health", "/docs", "/openapi.json", "/nowhere", "/v10"])
async def test_other_paths_need_no_key(service: Service, path: str) -> None:
    assert (await service.request("GET", path)).status_code in (200, 404)


async def test_the_key_is_checked_before_the_body_is_read(service: Service) -> None:
    response = await service.request("POST", "/v1/audio/transcriptions", content=b"no form at all")
    assert response.status_code == 401
    assert response.headers["connection"] == "close"  # the server need not read on to the end


async def test_a_large_upload_without_a_key_gets_its_answer(service: Service) -> None:
    async with served(service) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        response = await client.post("/v1/audio/transcriptions", files={"file": ("a", b"x" * 8_000_000)})
    assert response.status_code == 401


async def test_a_prefix_of_the_application_does_not_open_it(service: Service) -> None:
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": []}
    scope |= {"path": "/asr/v1/models", "root_path": "/asr"}
    await service.app(scope, receive, send)
    assert statuses[0] == 401


@pytest.mark.parametrize(
    ("headers", "code", "reason"),
    [
        ([], None, "invalid_request_error"),
        ([(b"authorization", b"Bearer sk-wrong")], "invalid_api_key", "invalid_request_error.invalid_api_key"),
    ],
)
@pytest.mark.parametrize("offered", [[], ["realtime", f"openai-insecure-api-key.{OTHER}x"]])
async def test_websockets_are_told_and_closed(
    service: Service, headers: list, code: str | None, reason: str, offered: list[str]
) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/realtime", "query_string": b"", "headers": headers}
    await service.app(scope | {"subprotocols": offered}, receive, send)
    accept, event, close = sent
    assert accept == {"type": "websocket.accept", "subprotocol": "realtime" if offered else None}
    told = json.loads(event["text"])
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
    assert (told["error"]["code"], told["error"]["param"], told["error"]["event_id"]) == (code, None, None)
    assert told["error"]["message"]
    assert close == {"type": "websocket.close", "code": 3000, "reason": reason}


async def test_the_sdk_hears_why_its_websocket_is_closed(service: Service) -> None:
    async with served(service) as port:
        client = openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-wrong")
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            event = await connection.recv()
            assert event.type == "error"
            assert event.error.code == "invalid_api_key"
            with pytest.raises(websockets.exceptions.ConnectionClosedError) as closed:
                await connection.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (3000, "invalid_request_error.invalid_api_key")


async def test_through_the_sdk(service: Service) -> None:
    def client(key: str) -> openai.AsyncOpenAI:
        transport = httpx2.ASGITransport(service.app)
        return openai.AsyncOpenAI(
            http_client=httpx2.AsyncClient(transport=transport), base_url="http://service/v1", api_key=key
        )

    assert (await client(SECRET).audio.transcriptions.create(file=AUDIO, model=MODEL)).text
    with pytest.raises(openai.AuthenticationError) as caught:
        await client("sk-wrong").audio.transcriptions.create(file=AUDIO, model=MODEL)
    assert caught.value.code == "invalid_api_key"
    assert len(service.transcriber.calls) == 1


async def test_without_configured_keys_any_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "")
    service = Service()
    assert (await service.request("GET", "/v1/models", headers=bearer("anything"))).status_code == 200


def test_the_start_up_log_tells(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Service()
    assert caplog.messages == ["no API keys are configured: the service is open to everybody who reaches it"]
    caplog.clear()
    monkeypatch.setenv("API_KEYS", f"alice:{SECRET},{OTHER}")
    Service()
    assert caplog.messages == ["API keys are required: alice, key-2"]


async def test_log_lines_name_the_key(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.transcriber.answer = ServiceUnavailable("no")
    caplog.clear()
    headers = bearer(SECRET) | {"x-request-id": "mine"}
    await service.request(
        "POST", "/v1/audio/transcriptions", files={"file": ("a", AUDIO), "model": (None, MODEL)}, headers=headers
    )
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["POST '/v1/audio/transcriptions' (request mine, key alice) answered with 503: no"]


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", OTHER)
    assert secrets(Settings()) == {"key-1": OTHER}
    monkeypatch.setenv("ASR_API_KEYS", f"alice:{SECRET}  # until June")
    assert secrets(Settings()) == {"alice": SECRET, "key-2": OTHER}, "neither name hides the other's"


@pytest.mark.parametrize("empty", ["ASR_API_KEYS", "asr_api_keys", "API_KEYS"])
def test_an_empty_variable_takes_no_key_away(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    monkeypatch.setenv(empty, "")
    monkeypatch.setenv("API_KEYS" if empty != "API_KEYS" else "ASR_API_KEYS", SECRET)
    assert secrets(Settings()) == {"key-1": SECRET}


def test_a_variable_that_names_no_file_stops_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(SECRET)
    monkeypatch.setenv("ASR_API_KEYS_FILE", "")
    with pytest.raises(ValidationError, match="api_keys_file is empty"):
        Settings(api_keys_file=file)


def test_from_a_mounted_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# who may\nalice:{SECRET}  # since May\n\n{OTHER}\n")
    monkeypatch.setenv("ASR_API_KEYS_FILE", str(file))
    assert secrets(Settings()) == {"alice": SECRET, "key-2": OTHER}
    monkeypatch.setenv("API_KEYS", "carol:k")
    assert secrets(Settings(api_keys_file=file)) == {"carol": "k", "alice": SECRET, "key-2": OTHER}


@pytest.mark.parametrize("content", [b"", b"# nobody\n", b"a b:\n", b"\xff\xfe"])
def test_a_file_without_usable_keys_stops_the_start(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValidationError, match="keys"):
        Settings(api_keys_file=file)
    with pytest.raises(ValidationError, match="No such file"):
        Settings(api_keys_file=tmp_path / "missing")


def test_not_from_the_config_file() -> None:
    with pytest.raises(ValidationError, match="api_keys is a secret: set ASR_API_KEYS"):
        Settings.model_validate({"api_keys": SECRET})


@pytest.mark.parametrize("text", [",,", "a,,b", "alice:", ":sk-1", "n:a:b", "a\x00b", "größe", "sk-1;x\x7f"])
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"entry \d is no API key: write `key` or `name:key`") as caught:
        parse_api_keys(text)
    assert text not in str(caught.value)


def test_settings_show_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", f"alice:{SECRET}")
    settings = Settings()
    assert secrets(pickle.loads(pickle.dumps(settings))) == {"alice": SECRET}
    assert SECRET not in f"{settings!r} {settings!s} {settings.model_dump()} {settings.model_dump_json()}"
    for wrong in ({"slots": 0}, {"slot_tokens": 256}, {"bogus": 1}):
        with pytest.raises(ValidationError) as caught:
            Settings.model_validate(wrong)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
    monkeypatch.setenv("API_KEYS", f"alice:{SECRET}:x")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
