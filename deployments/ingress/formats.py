"""One transcript, in the format the client asked for. Bodies are those of OpenAI's API, key by key."""

import math
import zlib
from collections.abc import Sequence

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.ingress.form import ResponseFormat
from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning

_MAX_WARNINGS = 16
_MAX_WARNINGS_HEADER_CHARS = 1000


def render(result: Transcript, response_format: ResponseFormat, warnings: Sequence[TranscriptWarning] = ()) -> Response:
    """Answer with `result`. `warnings` about the request are told before those about the transcript.

    Warnings are not in OpenAI's contract: they are a header (`x-asr-warnings`) in every format and a list in the JSON
    ones, both absent where there are none.
    """
    warnings = (*warnings, *result.warnings)[:_MAX_WARNINGS]
    headers = {"x-asr-warnings": _header(warnings)} if warnings else None
    if response_format == "text":
        return PlainTextResponse(f"{result.text}\n", headers=headers)
    body = _json(result) if response_format == "json" else _verbose_json(result)
    if warnings:
        body["warnings"] = [{"code": warning.code, "message": warning.message} for warning in warnings]
    return JSONResponse(body, headers=headers)


def _json(result: Transcript) -> dict:
    return {"text": result.text, "usage": _duration_usage(result)}


def _verbose_json(result: Transcript) -> dict:
    return {
        "task": "transcribe",
        # Whisper's lower-case English name. The contract wants a string; where nothing was said there is no language.
        "language": (result.language or "").lower(),
        "duration": result.duration,
        "text": result.text,
        "segments": [_segment(index, segment) for index, segment in enumerate(result.segments)],
        "usage": _duration_usage(result),
    }


def _segment(index: int, segment: Segment) -> dict:
    """All ten keys, none of them null: typed SDKs require them. The model has no seek, tokens and no_speech_prob."""
    return {
        "id": index,
        "seek": 0,
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob if math.isfinite(segment.avg_logprob) else 0.0,
        "compression_ratio": compression_ratio(segment.text),
        "no_speech_prob": 0.0,
    }


def compression_ratio(text: str) -> float:
    """How far zlib shrinks the text, as openai/whisper computes it: above 2.4 it is likely a loop."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _duration_usage(result: Transcript) -> dict:
    """What OpenAI bills for models by duration: seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(result.usage.seconds)}


def _header(warnings: Sequence[TranscriptWarning]) -> str:
    """A header holds printable ASCII only; everything else is escaped as in a Python literal."""
    line = "; ".join(f"{warning.code}: {warning.message}" for warning in warnings)
    return line.encode("unicode_escape").decode("ascii")[:_MAX_WARNINGS_HEADER_CHARS]
