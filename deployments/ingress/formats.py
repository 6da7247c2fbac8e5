"""One transcript, in the format the client asked for. Bodies are those of OpenAI's API, key by key."""

import math
import zlib
from collections.abc import Container, Mapping, Sequence

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.ingress.form import Granularity, TranscriptionRequest
from deployments.ingress.subtitles import to_srt, to_vtt
from deployments.transcription.languages import NAME_TO_CODE
from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning
from deployments.transcription.utterance import Token

LOWEST_LOGPROB = -9999.0
"""What OpenAI's API says for a probability of zero, whose logarithm no JSON number is."""
_MAX_WARNING_CHARS = 500
_MAX_WARNINGS_HEADER_CHARS = 980  # proxies take headers of some kilobytes


def render(result: Transcript, asked: TranscriptionRequest) -> Response:
    """Answer with `result`. Warnings about the request are told before those about the transcript.

    Warnings are not in OpenAI's contract: they are a header (`x-asr-warnings`) in every format and a list in the JSON
    ones, both absent where there are none.
    """
    warnings = (*asked.warnings, *result.warnings)
    headers = warnings_header(warnings)
    match asked.response_format:
        case "text":
            return PlainTextResponse(f"{result.text}\n", headers=headers)
        case "srt":
            return PlainTextResponse(to_srt(result.segments), headers=headers)
        case "vtt":
            return PlainTextResponse(to_vtt(result.segments), headers=headers)
        case "verbose_json":
            body = _verbose_json(result, asked.granularities)
        case "json":
            body = _json(result, logprobs=asked.options.logprobs)
    return JSONResponse(body | warnings_list(warnings), headers=headers)


def _json(result: Transcript, *, logprobs: bool) -> dict:
    # Log probabilities are a matter of tokens, and OpenAI's models that have them are billed by tokens.
    usage = token_usage(result) if logprobs else _duration_usage(result)
    return {
        "text": result.text,
        "languages": language_codes(result),
        **logprobs_of(result.tokens if logprobs else ()),
        "usage": usage,
    }


def _verbose_json(result: Transcript, granularities: Container[Granularity]) -> dict:
    timed: dict[str, list[dict]] = {}
    # Segments take the place of words that could not be had.
    if "segment" in granularities or any(warning.code == "word_times_unavailable" for warning in result.warnings):
        timed["segments"] = [_segment(index, segment) for index, segment in enumerate(result.segments)]
    if "word" in granularities:
        timed["words"] = [{"word": word.text, "start": word.start, "end": word.end} for word in result.words]
    return {
        "task": "transcribe",
        "language": _whispers_name(result.language),
        "duration": result.duration,
        "text": result.text,
        "languages": language_codes(result),
        **timed,
        "usage": _duration_usage(result),
    }


def _segment(index: int, segment: Segment) -> dict:
    """OpenAI's ten keys, none of them null: typed SDKs require them. The model has no seek, tokens and no_speech_prob.

    `language` is ours: speakers may change it, and each piece of a recording is detected on its own.
    """
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
        "language": _whispers_name(segment.language),
    }


def _whispers_name(language: str | None) -> str:
    """The English name in lower case. The contract wants a string; where nothing was said there is no language."""
    return (language or "").lower()


def compression_ratio(text: str) -> float:
    """How far zlib shrinks the text, as openai/whisper computes it: above 2.4 it is likely a loop."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def language_codes(result: Transcript) -> list[dict[str, str]]:
    """The languages that were heard, each once, in their order; none where nothing was said, even if one was forced."""
    if not result.text:
        return []
    names = dict.fromkeys([*(segment.language for segment in result.segments), result.language])
    return [{"code": NAME_TO_CODE[name]} for name in names if name is not None]


def logprobs_of(tokens: Sequence[Token]) -> dict[str, list[dict]]:
    """The key `logprobs`, absent where there are no tokens."""
    if not tokens:
        return {}
    return {
        "logprobs": [
            {
                "token": token.data.decode(errors="replace"),
                "logprob": max(token.logprob, LOWEST_LOGPROB) if not math.isnan(token.logprob) else LOWEST_LOGPROB,
                "bytes": list(token.data),
            }
            for token in tokens
        ]
    }


def _duration_usage(result: Transcript) -> dict:
    """What OpenAI bills for models by duration: seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(result.usage.seconds)}


def token_usage(result: Transcript) -> dict:
    """What OpenAI bills for models by token."""
    usage = result.usage
    input_tokens = usage.text_tokens + usage.audio_tokens
    return {
        "type": "tokens",
        "total_tokens": input_tokens + usage.output_tokens,
        "input_tokens": input_tokens,
        "input_token_details": {"text_tokens": usage.text_tokens, "audio_tokens": usage.audio_tokens},
        "output_tokens": usage.output_tokens,
    }


def warnings_list(warnings: Sequence[TranscriptWarning]) -> dict[str, list[dict]]:
    """The key `warnings`, absent where there are none; with `start` and `end` where one is about a part."""
    told: list[dict] = []
    for warning in warnings:
        told.append({"code": warning.code, "message": str(warning)})
        if warning.span is not None:
            told[-1] |= {"start": round(warning.span.start, 3), "end": round(warning.span.end, 3)}
    return {"warnings": told} if told else {}


def warnings_header(warnings: Sequence[TranscriptWarning]) -> Mapping[str, str]:
    """The header, absent where there are none: as many as it has room for, and how many more there are.

    It holds printable ASCII only: the rest is as in a Python literal.
    """
    lines = [
        f"{warning.code}: {warning}".encode("unicode_escape").decode("ascii")[:_MAX_WARNING_CHARS]
        for warning in warnings
    ]
    while sum(len(line) + 2 for line in lines) > _MAX_WARNINGS_HEADER_CHARS:
        lines.pop()
    if more := len(warnings) - len(lines):
        lines.append(f"and {more} more")
    return {"x-asr-warnings": "; ".join(lines)} if lines else {}
