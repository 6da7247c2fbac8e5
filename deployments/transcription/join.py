"""From the answers to the pieces of a recording to its one transcript."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from deployments.audio.speech import Span
from deployments.transcription.part import Heard, Part
from deployments.transcription.scripts import UNSPACED
from deployments.transcription.segments import segments_of
from deployments.transcription.transcript import Transcript, TranscriptWarning, Usage, WarningCode
from deployments.transcription.utterance import Token, Transcription

_UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")
# Full-width punctuation.
_BRINGS_BLANK = re.compile("[\u3001\u3002\uff01-\uff0f\uff1a-\uff20]")


def separator(before: str, after: str) -> str:
    """What stands between two texts: a blank, or nothing where the script has none or one of them is empty."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return ""
    if _BRINGS_BLANK.match(before[-1]) or all(map(_UNSPACED_CHARACTER.match, (before[-1], after[0]))):
        return ""
    return " "


def join_answers(answers: Iterable[Transcription]) -> tuple[str, tuple[Token, ...]]:
    """One text of several, in their order, and what it is made of."""
    text = ""
    tokens: list[Token] = []
    for answer in answers:
        between = separator(text, answer.text)
        text += between + answer.text
        tokens += separated(answer.tokens, between)
    return text, tuple(tokens)


def join_parts(heard: Sequence[Heard], *, duration: float, temperature: float, forced: str | None) -> Transcript:
    """The transcript of a recording.

    Args:
        heard: what was heard in its pieces, in their order.
        duration: of the recording, in seconds.
        temperature: that the options asked for.
        forced: English name of the language that was forced, which is reported also where nobody speaks.
    """
    parts = [part for each in heard for part in each.parts]
    text, tokens = join_answers(part.transcription for part in parts)
    return Transcript(
        text=text,
        language=_main_language(parts) or forced,
        duration=duration,
        segments=tuple(segment for part in parts for segment in segments_of(part, duration, temperature)),
        usage=Usage(
            seconds=duration,
            audio_tokens=sum(part.transcription.audio_tokens for part in parts),
            text_tokens=sum(part.transcription.text_tokens for part in parts),
            output_tokens=sum(part.transcription.output_tokens for part in parts),
        ),
        warnings=tuple(_merged(heard)),
        tokens=tokens,
    )


def _merged(heard: Iterable[Heard]) -> list[TranscriptWarning]:
    """The warnings of all pieces, in their order; what is told of several pieces in a row is told once."""
    merged: list[TranscriptWarning] = []
    before: dict[tuple[WarningCode, str], int] = {}
    for each in heard:
        here: dict[tuple[WarningCode, str], int] = {}
        for warning in each.warnings:
            kind = warning.code, warning.message
            place = here.get(kind, before.get(kind))
            if warning.span is None:
                merged += [warning] if warning not in merged else []
            elif place is None or (begun := merged[place].span) is None:
                here[kind] = len(merged)
                merged.append(warning)
            else:
                here[kind] = place
                merged[place] = replace(warning, span=Span(begun.start, warning.span.end))
        before = here
    return merged


def separated(tokens: Sequence[Token], separator: str) -> tuple[Token, ...]:
    """Tokens with what stands before them: it belongs to the first, as a blank does to the tokens of the model."""
    if not tokens or not separator:
        return tuple(tokens)
    first, *others = tokens
    return (replace(first, data=separator.encode() + first.data), *others)


def _main_language(parts: Sequence[Part]) -> str | None:
    """The language that most seconds of speech are in; the earlier one of equals."""
    seconds: dict[str, float] = {}
    for part in parts:
        language = part.transcription.language
        if part.transcription.text and language is not None:
            seconds[language] = seconds.get(language, 0.0) + part.seconds_of_speech
    return max(seconds, key=lambda language: seconds[language], default=None)
