"""The OpenAPI document. The routes read their forms and build their answers themselves, so FastAPI cannot know them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deployments.ingress.form import (
    MAX_NEW_TOKENS,
    MAX_PROMPT_CHARS,
    MAX_REPETITION_PENALTY,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MAX_URL_CHARS,
    MIN_REPETITION_PENALTY,
    RESPONSE_FORMATS,
    UNSUPPORTED_ARRAYS,
)
from deployments.ingress.schemas import SCHEMAS
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.languages import CODE_TO_NAME
from deployments.transcription.options import MAX_SEED

Json = dict[str, Any]

_DESCRIPTION = """OpenAI-compatible speech-to-text: point any OpenAI client at `/v1`.

Fields marked *Extension* are not in OpenAI's API. A field is honoured, or refused with an error that names it."""
_EXTENSION = "*Extension.* "
_TRANSCRIPTIONS = "/v1/audio/transcriptions"
_TRANSLATIONS = "/v1/audio/translations"


def describe(app: FastAPI, served: ServedModel, settings: Settings) -> None:
    """Make `app` answer `/openapi.json` with the whole contract."""

    def document() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, served, settings)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI, served: ServedModel, settings: Settings) -> Json:
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    document["components"] = {"schemas": SCHEMAS}
    paths = document["paths"]
    paths[_TRANSCRIPTIONS]["post"] |= {
        "requestBody": _form(_transcription_fields(served, settings), ["model"] if settings.url_input else None),
        "responses": {"200": _TRANSCRIPT, **_errors(400, 401, 404, 408, 413, 429, 500, 503, 504)},
    }
    paths[_TRANSLATIONS]["post"] |= {
        "requestBody": _form({"file": _FILE, "model": _model(served)}),
        "responses": _errors(400, 401, 404, 408, 413, 429, 503, 504),
    }
    paths["/v1/models"]["get"]["responses"] = {"200": _json("The models.", "ModelList"), **_errors(401)}
    retrieve = paths["/v1/models/{model_id}"]["get"]
    retrieve["parameters"][0]["example"] = served.id
    retrieve["responses"] = {"200": _json("The model.", "Model"), **_errors(401, 404)}
    paths["/ready"]["get"]["responses"] |= _errors(503)
    if settings.api_keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in paths.items():
            if path.startswith("/v1/"):
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return document


def _form(properties: Json, required: list[str] | None = None) -> Json:
    schema = {"type": "object", "required": required or ["file", "model"], "properties": properties}
    # Arrays are repeated parts, as the SDKs send them; without this, tools would send JSON.
    encoding = {name: {"style": "form", "explode": True} for name in properties if name.endswith("[]")}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}


_FILE = {
    "type": "string",
    "format": "binary",
    "description": "The recording, in any common audio or video format; its content decides, not its name.",
}


def _model(served: ServedModel) -> Json:
    return {"type": "string", "enum": list(served.ids), "description": "An id that GET /v1/models lists."}


def _transcription_fields(served: ServedModel, settings: Settings) -> Json:
    language = {"type": "string", "enum": list(CODE_TO_NAME)}
    terms = {"type": "string", "maxLength": MAX_PROMPT_CHARS}
    return {
        "file": _FILE,
        "model": _model(served),
        "language": language
        | {"description": "Language to force; English names and tags such as `en-US` do as well. Detected by default."},
        "prompt": {
            "type": "string",
            "maxLength": MAX_PROMPT_CHARS,
            "description": "Names, terms or the text before: context for the model.",
            "example": "Names: Ada Lovelace, Grace Hopper.",
        },
        "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS), "default": "json"},
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": MAX_TEMPERATURE,
            "default": 0,
            "description": "0 is greedy and repeatable, more samples.",
        },
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["segment", *(["word"] if settings.aligner is not None else [])]},
            "description": "With response_format verbose_json only. `word` needs an aligner, see /v1/models.",
        },
        "include[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["logprobs"]},
            "description": "With response_format json only: the log probability of each token.",
        },
        "stream": {
            "type": "boolean",
            "default": False,
            "description": "Answer with server-sent events while the model decodes. With json and text only.",
        },
        "chunking_strategy": {
            "description": "What is speech, and where a long recording is cut: `auto`, or an object, as JSON text or "
            "as parts `chunking_strategy[type]` and so on.",
            "oneOf": [{"type": "string", "enum": ["auto"]}, {"$ref": "#/components/schemas/ServerVad"}],
        },
        "languages[]": {
            "type": "array",
            "items": language,
            "minItems": 1,
            "description": "Detect one of these languages only.",
        },
        "keywords[]": {
            "type": "array",
            "items": terms,
            "description": "Terms to expect; put under the prompt as one line, and counted with it.",
        },
        # Nothing but none of them is valid.
        **{
            f"{name}[]": {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": 0,
                "description": "Not supported: this service does not tell speakers apart.",
            }
            for name in UNSUPPORTED_ARRAYS
        },
        "hotwords": terms | {"description": _EXTENSION + "As keywords[], under the name other servers use."},
        "top_p": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": 1,
            "description": _EXTENSION + "Sample from the likeliest tokens that together have this probability.",
        },
        "top_k": {
            "type": "integer",
            "minimum": -1,
            "maximum": MAX_TOP_K,
            "default": 0,
            "description": _EXTENSION + "Sample from this many of the likeliest tokens; 0 or -1 from all.",
        },
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SEED,
            "description": _EXTENSION + "The same seed gives the same sample.",
        },
        "repetition_penalty": {
            "type": "number",
            "minimum": MIN_REPETITION_PENALTY,
            "maximum": MAX_REPETITION_PENALTY,
            "default": 1,
            "description": _EXTENSION + "Above 1, what was said already becomes less likely.",
        },
        "max_new_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_NEW_TOKENS,
            "description": _EXTENSION + "Token budget of the answer; it grows with the recording by default. More than "
            "there is room for is refused with the largest that fits.",
        },
        "max_completion_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_NEW_TOKENS,
            "description": _EXTENSION + "As max_new_tokens, under the name other servers use; send one of them.",
        },
        "url": {
            "type": "string",
            "format": "uri",
            "maxLength": MAX_URL_CHARS,
            "description": _EXTENSION
            + "Where to fetch the recording, in place of `file`. "
            + ("" if settings.url_input else "Not enabled on this server."),
        },
    }


def _json(description: str, schema: str) -> Json:
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


_CUES = "Turn on the light in the kitchen.\n\n"
_TRANSCRIPT = {
    "description": "The transcript, as response_format and stream say.",
    "headers": {
        "x-asr-warnings": {
            "description": _EXTENSION + "What the caller should know about an answer that is otherwise good.",
            "schema": {"type": "string"},
        }
    },
    "content": {
        "application/json": {
            "schema": {
                "anyOf": [
                    {"$ref": "#/components/schemas/VerboseTranscription"},
                    {"$ref": "#/components/schemas/Transcription"},
                ]
            },
            "examples": {
                "json": {"value": SCHEMAS["Transcription"]["example"]},
                "verbose_json": {"value": SCHEMAS["VerboseTranscription"]["example"]},
            },
        },
        "text/plain": {
            "schema": {"type": "string"},
            "examples": {
                "text": {"value": "Turn on the light in the kitchen.\n"},
                "srt": {"value": f"1\n00:00:00,000 --> 00:00:02,580\n{_CUES}"},
                "vtt": {"value": f"WEBVTT\n\n00:00:00.000 --> 00:00:02.580\n{_CUES}"},
            },
        },
        "text/event-stream": {
            "schema": {"$ref": "#/components/schemas/Event"},
            "example": 'data: {"type":"transcript.text.delta","delta":"Turn"}\n\n'
            'data: {"type":"transcript.text.done","text":"Turn","languages":[{"code":"en"}],"usage":{"type":"tokens",'
            '"total_tokens":49,"input_tokens":37,"input_token_details":{"text_tokens":0,"audio_tokens":37},'
            '"output_tokens":12}}\n\ndata: [DONE]\n\n',
        },
    },
}

# Status: what it means, and an example of its type, param and code.
_ERRORS: dict[int, tuple[str, str, tuple[str, str | None, str | None]]] = {
    400: (
        "A field or the recording cannot be used; `param` names it.",
        "Invalid temperature '2': expected a number from 0 to 1.",
        ("invalid_request_error", "temperature", "invalid_value"),
    ),
    401: (
        "No API key, or a wrong one, where the server has keys.",
        "Incorrect API key provided: ****.",
        ("invalid_request_error", None, "invalid_api_key"),
    ),
    404: (
        "The model is not served here.",
        "The model `x` does not exist or you do not have access to it.",
        ("invalid_request_error", "model", "model_not_found"),
    ),
    408: (
        "Nothing came of the request body for `upload_stall_s`, or too little.",
        "The upload stalled: nothing came for 30 seconds. Send the request again.",
        ("invalid_request_error", None, "upload_timeout"),
    ),
    413: (
        "The request body is larger than `max_upload_bytes`.",
        "413: Maximum content size limit (26214400) exceeded (26214401 bytes read)",
        ("invalid_request_error", None, "upload_too_large"),
    ),
    429: (
        "The service has as many requests in hand as it takes. Comes with `Retry-After`.",
        "The service already has 256 requests in hand. Try again in a moment.",
        ("requests", None, "rate_limit_exceeded"),
    ),
    500: (
        "Our fault; logged with the request id.",
        "The server had an error while processing your request.",
        ("server_error", None, "internal_error"),
    ),
    503: (
        "No replica can take the request now. Comes with `Retry-After`.",
        "The service is at its capacity. Try again in a moment.",
        ("service_unavailable_error", None, "server_is_overloaded"),
    ),
    504: (
        "The request took longer than `request_timeout_s`.",
        "The request took longer than 540 seconds. Send a shorter recording, or try again later.",
        ("server_error", None, "deadline_exceeded"),
    ),
}


def _errors(*statuses: int) -> Json:
    responses: Json = {}
    for status in statuses:
        description, message, (kind, param, code) = _ERRORS[status]
        response = _json(description, "Error")
        error = {"message": message, "type": kind, "param": param, "code": code}
        response["content"]["application/json"]["example"] = {"error": error}
        responses[str(status)] = response
    return responses
