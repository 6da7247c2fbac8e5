"""The OpenAPI document: complete, and true of every answer that schemathesis can provoke."""

import dataclasses
import json
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from starlette.types import Receive, Scope, Send

from deployments.ingress.form import KNOWN_FIELDS
from deployments.transcription.utterance import Delta, Token
from tests.api.fakes import MODEL, TRANSCRIPT, Service

SERVICE = Service()


async def always_up(scope: Scope, receive: Receive, send: Send) -> None:
    """The application, for a tool that starts and stops it with each request."""
    if scope["type"] != "lifespan":
        await SERVICE.app(scope, receive, send)
        return
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", always_up)


async def document_of(service: Service) -> dict[str, Any]:
    return (await service.request("GET", "/openapi.json")).json()


def form_of(document: dict[str, Any]) -> dict[str, Any]:
    operation = document["paths"]["/v1/audio/transcriptions"]["post"]
    return operation["requestBody"]["content"]["multipart/form-data"]["schema"]


async def test_every_field_is_described(service: Service) -> None:
    schema = form_of(await document_of(service))
    assert schema["required"] == ["file", "model"]
    described = {name.removesuffix("[]") for name in schema["properties"]}
    assert described == KNOWN_FIELDS | {"chunking_strategy"}
    assert schema["properties"]["known_speaker_names[]"]["maxItems"] == 0
    assert schema["properties"]["file"]["format"] == "binary"
    assert schema["properties"]["model"]["enum"] == [MODEL]
    assert schema["properties"]["response_format"]["enum"] == ["json", "text", "srt", "verbose_json", "vtt"]
    assert all(field.get("description") or "enum" in field for field in schema["properties"].values())


async def test_every_error_is_described_with_an_example(service: Service) -> None:
    document = await document_of(service)
    responses = document["paths"]["/v1/audio/transcriptions"]["post"]["responses"]
    assert list(responses) == ["200", "400", "401", "404", "408", "413", "429", "500", "503", "504"]
    for status, response in responses.items():
        if status != "200":
            error = response["content"]["application/json"]["example"]["error"]
            assert list(error) == ["message", "type", "param", "code"]
    assert "422" not in str(document)
    assert "HTTPValidationError" not in str(document)


async def test_every_kind_of_answer_has_an_example_that_is_one(service: Service) -> None:
    document = await document_of(service)
    answers = document["paths"]["/v1/audio/transcriptions"]["post"]["responses"]["200"]["content"]
    assert list(answers["application/json"]["examples"]) == ["json", "verbose_json"]
    assert list(answers["text/plain"]["examples"]) == ["text", "srt", "vtt"]
    assert answers["text/event-stream"]["example"].endswith("data: [DONE]\n\n")
    for schema in ("Transcription", "VerboseTranscription"):
        validate(document, schema, document["components"]["schemas"][schema]["example"])


async def test_keys_are_described_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "securitySchemes" not in (await document_of(Service()))["components"]
    monkeypatch.setenv("API_KEYS", "secret")
    document = await document_of(Service())
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert document["paths"]["/v1/models"]["get"]["security"] == [{"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]


async def test_where_urls_are_taken_the_file_is_not_required() -> None:
    assert form_of(await document_of(Service(url_input=True)))["required"] == ["model"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_for_people(service: Service, path: str) -> None:
    response = await service.request("GET", path)
    assert response.status_code == 200
    assert "/openapi.json" in response.text


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        ("Transcription", {}),
        ("Transcription", {"include[]": "logprobs", "nonsense": "1"}),
        ("VerboseTranscription", {"response_format": "verbose_json", "nonsense": "1"}),
        ("Error", {"temperature": "2"}),
    ],
)
async def test_answers_are_as_described(service: Service, schema: str, fields: dict[str, str]) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, tokens=(Token(b"x", -1.0),))
    validate(await document_of(service), schema, (await service.transcribe(**fields)).json())


async def test_events_are_as_described(service: Service) -> None:
    token = Token(b"Hello", -1.0)
    service.transcriber.said = (Delta("Hello", (token,)),)
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, tokens=(token,))
    response = await service.transcribe(stream="true", include="logprobs", nonsense="1")
    delta, done, end = response.text.removesuffix("\n\n").split("\n\n")
    document = await document_of(service)
    validate(document, "DeltaEvent", json.loads(delta.removeprefix("data: ")))
    validate(document, "DoneEvent", json.loads(done.removeprefix("data: ")))
    assert end == "data: [DONE]"


async def test_model_cards_are_as_described(service: Service) -> None:
    answer = (await service.request("GET", "/v1/models")).json()
    document = await document_of(service)
    validate(document, "ModelList", answer)
    assert set(answer["data"][0]) == set(document["components"]["schemas"]["Model"]["properties"])


def validate(document: dict[str, Any], schema: str, answer: Any) -> None:
    reference = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    jsonschema_rs.validate(reference, answer)


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]


@SCHEMA.parametrize()
@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_request(case: schemathesis.Case) -> None:
    response = case.call()
    assert "x-request-id" in response.headers
    case.validate_response(response, checks=CHECKS)
