"""The fields of a transcription request: what OpenAI's contract allows, checked before any audio is touched.

A field is honoured, or refused with a message that names it; a field that no contract knows is ignored, as OpenAI's
API does, and named in a warning. Of several errors the first in this order is reported: model, file, fields that are
not supported, then the fields in the order of the contract.
"""

import re
from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

from deployments.exceptions import InvalidRequest, UnknownModel
from deployments.ingress.multipart import Form, quoted
from deployments.served_model import ServedModel
from deployments.transcription.languages import resolve_language
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import TranscriptWarning

ResponseFormat = Literal["json", "text", "verbose_json"]
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = get_args(ResponseFormat)
OTHER_RESPONSE_FORMATS = ("srt", "vtt", "diarized_json")
"""OpenAI's formats that are not supported: told apart from typing errors by their error code."""

MAX_PROMPT_CHARS = 4000
"""Bounds the system turn of the model's prompt to some 1,000 tokens of English; OpenAI's models read 224 tokens."""
MAX_TEMPERATURE = 1.0
MAX_NEW_TOKENS = 4096

_TEXT_FIELDS = (
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "stream",
    "max_new_tokens",
)
_UNSUPPORTED_ARRAYS = (
    "languages",
    "keywords",
    "include",
    "known_speaker_names",
    "known_speaker_references",
)
_GRANULARITIES = "timestamp_granularities"
_CHUNKING = "chunking_strategy"
_KNOWN_FIELDS = {"file", *_TEXT_FIELDS, _CHUNKING} | {
    spelling for name in (*_UNSUPPORTED_ARRAYS, _GRANULARITIES) for spelling in (name, f"{name}[]")
}
_MAX_UNKNOWN_NAMED = 8

# float() and int() also take nan, infinity, 1_0, blanks and digits of other scripts: no numbers on the wire.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_INTEGER = re.compile(r"\+?[0-9]{1,9}")


@dataclass(frozen=True)
class TranscriptionRequest:
    """A valid request. `file` is open only as long as the form it came from."""

    file: BinaryIO
    options: DecodingOptions
    response_format: ResponseFormat
    warnings: tuple[TranscriptWarning, ...]


def transcription_request(form: Form, served: ServedModel, default_language: str | None) -> TranscriptionRequest:
    """Check every field of `form`.

    Args:
        form: the parts of the request.
        served: the model that requests may name.
        default_language: English name of the language to force where the request names none.

    Raises:
        InvalidRequest: a field is missing, invalid or not supported; `param` names it.
        UnknownModel: `model` is not served here.
    """
    requested_model(form, served)
    file = form.file("file")
    if file is None:
        raise InvalidRequest(
            "you must provide a file: the recording to transcribe",
            param="file",
            code="missing_required_parameter",
        )
    _refuse_unsupported(form)
    language = resolve_language(form.text("language")) or default_language
    prompt = form.text("prompt", max_chars=MAX_PROMPT_CHARS) or ""
    response_format = _response_format(form)
    temperature = _temperature(form)
    _check_granularities(form, response_format)
    _check_stream(form)
    options = DecodingOptions(
        language=language, prompt=prompt, temperature=temperature, max_new_tokens=_max_new_tokens(form)
    )
    return TranscriptionRequest(file, options, response_format, _unknown_fields(form))


def requested_model(form: Form, served: ServedModel) -> str:
    """Return the id the client sent as `model`.

    Raises:
        InvalidRequest: it sent none.
        UnknownModel: it is not served here.
    """
    model = form.text("model")
    if not model:
        raise InvalidRequest("you must provide a model parameter", param="model", code="missing_required_parameter")
    if model not in served.ids:
        raise UnknownModel(
            f"The model `{quoted(model)[1:-1]}` does not exist or you do not have access to it.", param="model"
        )
    return model


def _refuse_unsupported(form: Form) -> None:
    for name in form.names:
        base = name.split("[", 1)[0]
        if base == _CHUNKING or (base in _UNSUPPORTED_ARRAYS and name in _KNOWN_FIELDS):
            raise InvalidRequest(
                f"'{base}' is not supported by this service; leave it out.",
                param=base,
                code="unsupported_value",
            )


def _response_format(form: Form) -> ResponseFormat:
    value = form.text("response_format")
    if value is None:
        return "json"
    for supported in RESPONSE_FORMATS:
        if value == supported:
            return supported
    choices = ", ".join(repr(name) for name in RESPONSE_FORMATS)
    if value in OTHER_RESPONSE_FORMATS:
        raise InvalidRequest(
            f"response_format '{value}' is not supported by this service. Use one of {choices} instead.",
            param="response_format",
            code="unsupported_value",
        )
    raise InvalidRequest(
        f"Invalid response_format {quoted(value)}. Supported values are: {choices}.", param="response_format"
    )


def _temperature(form: Form) -> float:
    value = form.text("temperature")
    if value is None:
        return 0.0
    if not _NUMBER.fullmatch(value) or not 0.0 <= float(value) <= MAX_TEMPERATURE:
        raise InvalidRequest(
            f"Invalid temperature {quoted(value)}: expected a number from 0 to 1.", param="temperature"
        )
    return abs(float(value))  # no minus zero


def _max_new_tokens(form: Form) -> int | None:
    value = form.text("max_new_tokens")
    if value is None:
        return None
    if not _INTEGER.fullmatch(value) or not 1 <= int(value) <= MAX_NEW_TOKENS:
        raise InvalidRequest(
            f"Invalid max_new_tokens {quoted(value)}: expected an integer from 1 to {MAX_NEW_TOKENS}.",
            param="max_new_tokens",
        )
    return int(value)


def _check_granularities(form: Form, response_format: ResponseFormat) -> None:
    """`segment` is what verbose_json always has; `word` needs an aligner, and no time stamp is ever invented."""
    granularities = form.texts(_GRANULARITIES)
    for value in granularities:
        if value == "word":
            raise InvalidRequest(
                "timestamp_granularities[] 'word' is not supported by this service. Use 'segment' instead.",
                param=_GRANULARITIES,
                code="unsupported_value",
            )
        if value != "segment":
            raise InvalidRequest(
                f"Invalid timestamp_granularities[] {quoted(value)}. Supported values are: 'segment'.",
                param=_GRANULARITIES,
            )
    if granularities and response_format != "verbose_json":
        raise InvalidRequest("timestamp_granularities[] requires response_format 'verbose_json'.", param=_GRANULARITIES)


def _check_stream(form: Form) -> None:
    value = form.text("stream")
    if value is None or value.lower() in ("false", "0"):
        return
    if value.lower() in ("true", "1"):
        # The SDK reads a plain body that answers stream=True as a stream without events: never ignore it.
        raise InvalidRequest(
            "stream=true is not supported by this service. Leave it out for one complete answer.",
            param="stream",
            code="unsupported_value",
        )
    raise InvalidRequest(f"Invalid stream {quoted(value)}: expected 'true' or 'false'.", param="stream")


def _unknown_fields(form: Form) -> tuple[TranscriptWarning, ...]:
    unknown = [name for name in form.names if name not in _KNOWN_FIELDS]
    messages = [f"The unknown field {quoted(name)} was ignored." for name in unknown[:_MAX_UNKNOWN_NAMED]]
    if len(unknown) > _MAX_UNKNOWN_NAMED:
        messages.append(f"{len(unknown) - _MAX_UNKNOWN_NAMED} more unknown fields were ignored.")
    return tuple(TranscriptWarning("unknown_field", message) for message in messages)
