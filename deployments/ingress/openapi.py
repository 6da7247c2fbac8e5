"""What `/docs` shows of the multipart routes. They read their forms themselves, so FastAPI cannot know the fields."""

from deployments.ingress.form import (
    MAX_NEW_TOKENS,
    MAX_PROMPT_CHARS,
    MAX_TEMPERATURE,
    RESPONSE_FORMATS,
)

_FILE = {"type": "string", "format": "binary", "description": "The recording, in any common audio or video format."}
_MODEL = {"type": "string", "description": "An id that GET /v1/models lists."}
_ERRORS = {
    "400": {"description": "A field or the recording is not valid; `error.param` names it."},
    "404": {"description": "The model is not served here."},
    "413": {"description": "The request body is larger than `max_upload_bytes`."},
}


def _form(properties: dict) -> dict:
    schema = {"type": "object", "required": ["file", "model"], "properties": properties}
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


TRANSCRIPTION = {
    "requestBody": _form(
        {
            "file": _FILE,
            "model": _MODEL,
            "language": {"type": "string", "description": "Code or English name; detected where left out."},
            "prompt": {
                "type": "string",
                "maxLength": MAX_PROMPT_CHARS,
                "description": "Names, terms or the text before: context for the model.",
            },
            "response_format": {"type": "string", "enum": list(RESPONSE_FORMATS), "default": "json"},
            "temperature": {"type": "number", "minimum": 0, "maximum": MAX_TEMPERATURE, "default": 0},
            "timestamp_granularities[]": {
                "type": "array",
                "items": {"type": "string", "enum": ["segment"]},
                "description": "With response_format verbose_json only.",
            },
            "stream": {"type": "boolean", "enum": [False], "default": False},
            "max_new_tokens": {
                "type": "integer",
                "minimum": 1,
                "maximum": MAX_NEW_TOKENS,
                "description": "Token budget of the answer. Not in OpenAI's API.",
            },
        }
    ),
    "responses": {
        "200": {
            "description": "The transcript, as response_format says.",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/plain": {"schema": {"type": "string"}},
            },
        },
        **_ERRORS,
    },
}

TRANSLATION = {"requestBody": _form({"file": _FILE, "model": _MODEL}), "responses": _ERRORS}
