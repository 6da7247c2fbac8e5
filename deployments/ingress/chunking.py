"""`chunking_strategy` in each of its spellings: `auto`, a JSON object as text, or one part for each of its keys."""

import json
import re
from typing import cast

from deployments.audio.speech import SpeechOptions
from deployments.exceptions import InvalidRequest
from deployments.ingress.multipart import Form, quoted

NAME = "chunking_strategy"
_KEY = re.compile(r"chunking_strategy\[(.*)\]", re.DOTALL)
_MAX_MS = 60_000
_TEXT_INTEGER = re.compile(r"[0-9]{1,9}")
_TEXT_NUMBER = re.compile(r"([0-9]{1,9}\.?|[0-9]{0,9}\.[0-9]{1,19})([eE][+-]?[0-9]{1,3})?")
"""Python's SDK writes small numbers as `1e-05`."""


def read_chunking(form: Form) -> SpeechOptions:
    """Read `chunking_strategy`, however it was sent: what is speech, and where it may be cut.

    Raises:
        InvalidRequest: it is neither `auto`, null nor an object of `type` `server_vad` with OpenAI's three parameters.
    """
    text = form.text(NAME)
    bracketed = {match[1]: form.text(match[0]) or "" for match in map(_KEY.fullmatch, form.names) if match}
    if bracketed:
        if text is not None:
            raise _invalid("was sent both whole and by key; send it once")
        return _speech_options({key: _from_text(key, value) for key, value in bracketed.items()})
    if text is not None and text != "auto":
        strategy = _parse(text)
        if isinstance(strategy, dict):
            return _speech_options(strategy)
        if strategy not in (None, "auto"):
            raise _invalid(f"must be 'auto' or an object with type 'server_vad', not {quoted(text)}")
    return SpeechOptions()


def is_chunking(name: str) -> bool:
    """Whether a part of this name belongs to the field."""
    return name == NAME or _KEY.fullmatch(name) is not None


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _from_text(key: str, value: str) -> object:
    """A bracket key's value as JSON would have it: what looks like a number is one."""
    if key == "type":
        return value
    if _TEXT_INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _TEXT_NUMBER.fullmatch(value) else value


def _speech_options(strategy: dict[str, object]) -> SpeechOptions:
    _check_object(strategy)
    default = SpeechOptions()
    return SpeechOptions(
        threshold=cast(float, strategy.get("threshold", default.threshold)),
        padding_s=cast(int, strategy.get("prefix_padding_ms", 1000 * default.padding_s)) / 1000,
        silence_s=cast(int, strategy.get("silence_duration_ms", 1000 * default.silence_s)) / 1000,
    )


def _check_object(strategy: dict[str, object]) -> None:
    if "type" not in strategy:
        raise _invalid("needs a type: 'server_vad'")
    for key, value in strategy.items():
        if key == "type":
            if value != "server_vad":
                raise _invalid(f"has type {quoted(str(value))}; the only one is 'server_vad'")
        elif key == "threshold":
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
                raise _invalid(f"has threshold {quoted(str(value))}; expected a number from 0 to 1")
        elif key in ("prefix_padding_ms", "silence_duration_ms"):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_MS:
                raise _invalid(f"has {key} {quoted(str(value))}; expected an integer from 0 to {_MAX_MS}")
        else:
            raise _invalid(
                f"has no parameter {quoted(key)}; those of 'server_vad' are threshold, prefix_padding_ms and "
                "silence_duration_ms"
            )


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"'{NAME}' {problem}.", param=NAME)
