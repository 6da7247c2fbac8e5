"""Web pages may call the service only where it is configured."""

import pytest
from pydantic import ValidationError

from deployments.exceptions import EngineFailure, TooManyRequests
from deployments.ingress import proxy
from deployments.settings import Settings
from deployments.transcription.transcript import Transcript
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPT, TRANSCRIPTIONS, Service, error_of

ORIGIN = "https://app.example.com"
PREFLIGHT = {
    "origin": ORIGIN,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization",
}


async def test_off_by_default(service: Service) -> None:
    response = await service.request("GET", "/v1/models", headers={"origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (await service.request("OPTIONS", "/v1/models", headers=PREFLIGHT)).status_code == 405


@pytest.mark.parametrize("origins", [(ORIGIN,), ("https://other.example", ORIGIN), ("*",)])
async def test_configured(origins: tuple[str, ...]) -> None:
    service = Service(cors_origins=origins)
    response = await service.request("GET", "/v1/models", headers={"origin": ORIGIN})
    assert response.headers["access-control-allow-origin"] in (ORIGIN, "*")
    assert "x-request-id" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in response.headers


async def test_preflight_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "secret")
    service = Service(cors_origins=(ORIGIN,))
    response = await service.request("OPTIONS", "/v1/audio/transcriptions", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in response.headers["access-control-allow-headers"]
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"origin": "https://evil.example"}, "Disallowed CORS origin"),
        ({"access-control-request-method": "DELETE"}, "Disallowed CORS method"),
    ],
)
async def test_a_refused_preflight_has_openais_form_in_the_proxy_too(asked: dict[str, str], problem: str) -> None:
    service = Service(cors_origins=(ORIGIN,))
    service.app = proxy.ProxyMiddleware(service.build(write_request_id=False))  # type: ignore[assignment]
    response = await service.request("OPTIONS", "/v1/audio/transcriptions", headers=PREFLIGHT | asked)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["message"], error["type"]) == (f"{problem}: see the setting cors_origins.", "invalid_request_error")
    assert ("access-control-allow-origin" in response.headers) == ("origin" not in asked)
    assert "Origin" in response.headers["vary"]


async def test_errors_can_be_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "secret")
    service = Service(cors_origins=(ORIGIN,), max_upload_bytes=500)
    service.transcriber.answer = RuntimeError()
    headers = {"origin": ORIGIN, "authorization": "Bearer secret"}
    fields = {"model": (None, service.model.id)}
    answers = [
        await service.request("GET", "/v1/models", headers={"origin": ORIGIN}),
        await service.request("GET", "/v1/nowhere", headers=headers),
        await service.request("POST", "/v1/audio/transcriptions", headers=headers),
        await service.request("POST", "/v1/audio/transcriptions", headers=headers, content=b"x" * 501),
        await service.request(
            "POST", "/v1/audio/transcriptions", headers=headers, files={"file": ("a", b"x"), **fields}
        ),
    ]
    assert [answer.status_code for answer in answers] == [401, 404, 400, 400, 500]
    assert {answer.headers["access-control-allow-origin"] for answer in answers} == {ORIGIN}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (EngineFailure("no"), {"x-should-retry"}),
        (TooManyRequests("no"), {"retry-after", "retry-after-ms"}),
        (TRANSCRIPT, {"x-asr-warnings"}),
    ],
    ids=["failed", "too many", "answered"],
)
async def test_a_web_page_can_read_every_header_of_ours(answer: Transcript | Exception, told: set[str]) -> None:
    service = Service(cors_origins=(ORIGIN,))
    service.transcriber.answer = answer
    parts = {"file": ("a.wav", AUDIO), "model": (None, MODEL), "nobody_knows_this": (None, "x")}
    response = await service.request("POST", TRANSCRIPTIONS, headers={"origin": ORIGIN}, files=parts)
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    own = {name for name in response.headers if name.startswith(("x-", "openai-", "retry-"))}
    assert own == told | {"x-request-id", "openai-processing-ms"}
    assert own <= exposed


async def test_another_origin() -> None:
    service = Service(cors_origins=(ORIGIN,))
    response = await service.request("GET", "/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "ftp://x", "https://x y", "null"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match="is no origin"):
        Settings(cors_origins=(origin,))


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_CORS_ORIGINS", f"{ORIGIN}, http://localhost:3000")
    assert Settings().cors_origins == (ORIGIN, "http://localhost:3000")
