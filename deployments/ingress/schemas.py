"""The JSON that goes over the wire, as JSON schemas for the OpenAPI document."""

from typing import Any

from deployments.ingress.errors import RULES

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer", "minimum": 0}


def _object(properties: Json, *, optional: tuple[str, ...] = (), example: Json | None = None) -> Json:
    required = [name for name in properties if name not in optional]
    schema: Json = {"type": "object", "required": required, "properties": properties}
    return schema | ({"example": example} if example else {})


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _one_of(*names: str) -> Json:
    return {"oneOf": [_reference(name) for name in names]}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _only(value: str) -> Json:
    return {"type": "string", "enum": [value]}


SCHEMAS: Json = {
    "Transcription": _object(
        {
            "text": _STRING,
            "languages": _list(_object({"code": _STRING})),
            "logprobs": _list(_reference("TokenLogprob")),
            "usage": _one_of("DurationUsage", "TokenUsage"),
            "warnings": _list(_reference("Warning")),
        },
        optional=("logprobs", "warnings"),
        example={
            "text": "Turn on the light in the kitchen.",
            "languages": [{"code": "en"}],
            "usage": {"type": "duration", "seconds": 3},
        },
    ),
    "VerboseTranscription": _object(
        {
            "task": _only("transcribe"),
            "language": _STRING | {"description": "Lower-case English name; empty where nothing was said."},
            "duration": _NUMBER,
            "text": _STRING,
            "languages": _list(_object({"code": _STRING})),
            "segments": _list(_reference("Segment"))
            | {"description": "Absent where only words were asked for and all have times."},
            "words": _list(_reference("Word")) | {"description": "Where they were asked for."},
            "usage": _reference("DurationUsage"),
            "warnings": _list(_reference("Warning")),
        },
        optional=("segments", "words", "warnings"),
        example={
            "task": "transcribe",
            "language": "english",
            "duration": 2.58,
            "text": "Turn on the light in the kitchen.",
            "languages": [{"code": "en"}],
            "segments": [
                {
                    "id": 0,
                    "seek": 0,
                    "start": 0.0,
                    "end": 2.58,
                    "text": "Turn on the light in the kitchen.",
                    "tokens": [],
                    "temperature": 0.0,
                    "avg_logprob": -0.0621,
                    "compression_ratio": 0.9167,
                    "no_speech_prob": 0.0,
                    "language": "english",
                }
            ],
            "usage": {"type": "duration", "seconds": 3},
        },
    ),
    "Event": _object(
        {
            "data": {
                "anyOf": [
                    _only("[DONE]"),
                    {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": _one_of("DeltaEvent", "DoneEvent", "Error"),
                    },
                ]
            }
        }
    )
    | {"description": "A server-sent event, with stream=true. `[DONE]` is the last after a success."},
    "DeltaEvent": _object(
        {
            "type": _only("transcript.text.delta"),
            "delta": _STRING,
            "logprobs": _list(_reference("TokenLogprob")),
        },
        optional=("logprobs",),
    ),
    "DoneEvent": _object(
        {
            "type": _only("transcript.text.done"),
            "text": _STRING,
            "languages": _list(_object({"code": _STRING})),
            "logprobs": _list(_reference("TokenLogprob")),
            "usage": _reference("TokenUsage"),
            "warnings": _list(_reference("Warning")),
        },
        optional=("logprobs", "warnings"),
    ),
    "Segment": _object(
        {
            "id": _COUNT,
            "seek": _COUNT,
            "start": _NUMBER,
            "end": _NUMBER,
            "text": _STRING,
            "tokens": _list(_COUNT),
            "temperature": _NUMBER,
            "avg_logprob": _NUMBER,
            "compression_ratio": _NUMBER,
            "no_speech_prob": _NUMBER,
            "language": _STRING | {"description": "*Extension.* As that of the whole."},
        }
    ),
    "Word": _object(
        {
            "word": _STRING | {"description": "As in the text, without the punctuation around it."},
            "start": _NUMBER,
            "end": _NUMBER,
        }
    ),
    "TokenLogprob": _object(
        {
            "token": _STRING,
            "logprob": _NUMBER,
            "bytes": _list({"type": "integer", "minimum": 0, "maximum": 255}),
        },
        example={"token": " quick", "logprob": -0.25, "bytes": [32, 113, 117, 105, 99, 107]},
    ),
    "DurationUsage": _object({"type": _only("duration"), "seconds": _NUMBER}),
    "TokenUsage": _object(
        {
            "type": _only("tokens"),
            "total_tokens": _COUNT,
            "input_tokens": _COUNT,
            "input_token_details": _object({"text_tokens": _COUNT, "audio_tokens": _COUNT}),
            "output_tokens": _COUNT,
        }
    ),
    "Warning": _object(
        {"code": _STRING, "message": _STRING, "start": _NUMBER, "end": _NUMBER}, optional=("start", "end")
    )
    | {"description": "*Extension.* With start and end, in seconds, where it is about a part of the recording."},
    "ServerVad": _object(
        {
            "type": _only("server_vad"),
            "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.5},
            "prefix_padding_ms": {"type": "integer", "minimum": 0, "maximum": 60_000, "default": 300},
            "silence_duration_ms": {"type": "integer", "minimum": 0, "maximum": 60_000, "default": 200},
        },
        optional=("threshold", "prefix_padding_ms", "silence_duration_ms"),
    )
    | {"additionalProperties": False},
    "Model": _object(
        {
            "id": _STRING,
            "object": _only("model"),
            "created": _COUNT | {"description": "Unix seconds."},
            "owned_by": _STRING,
            "checkpoint": _STRING | {"description": "*Extension.* What is really served, whatever the id says."},
            "languages": _list(_STRING) | {"description": "*Extension.*"},
            "response_formats": _list(_STRING) | {"description": "*Extension.*"},
            "aligner": {"type": "boolean", "description": "*Extension.* Whether word times can be had."},
            "url_input": {"type": "boolean", "description": "*Extension.* Whether `url` may be sent."},
            "max_duration_s": _NUMBER | {"description": "*Extension.* Longest recording, in seconds."},
            "max_utterance_s": _NUMBER | {"description": "*Extension.* Longest stretch decoded in one go, in seconds."},
            "max_upload_bytes": _COUNT | {"description": "*Extension.*"},
            "max_prompt_chars": _COUNT | {"description": "*Extension.*"},
        }
    ),
    "ModelList": _object({"object": _only("list"), "data": _list(_reference("Model"))}),
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _STRING,
                    "type": {"type": "string", "enum": sorted({rule.type for rule in RULES.values()})},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                }
            )
            | {"additionalProperties": False}
        }
    )
    | {"additionalProperties": False},
}
