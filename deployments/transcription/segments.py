"""Segments: sentences with the times at which they were said.

Where an aligner has found the words, a sentence lasts from its first to its last. Else the recognizer tells what was
said in a stretch of the recording, the speech finder when somebody spoke in it. Each
sentence gets as much of that speech as it has of the letters; where it ends near a pause, it ends in that pause. So the
times at pauses are true, and those of sentences without a pause in between are estimates.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from deployments.audio.speech import Span
from deployments.transcription.part import Part
from deployments.transcription.scripts import CLOSING_QUOTES, LINE_WIDTH, UNSPACED, count_wide, width
from deployments.transcription.transcript import Segment
from deployments.transcription.words import times_of, words_in

LONGEST_S = 7.0
"""A segment is at most as long as a subtitle is shown, unless it is a single word."""
MAX_WIDTH = 2 * LINE_WIDTH
"""Two lines of a subtitle."""

_SNAP_S = 1.5
"""Seconds of speech that the estimated end of a sentence may be away from the pause that it ends in."""

_SENTENCE = re.compile(
    rf".+?(?:[.!?\u2026\u0964\u06d4\u061f]+[{CLOSING_QUOTES}]*(?=\s|$|[{UNSPACED}])"
    rf"|[\u3002\uff01\uff1f]+[{CLOSING_QUOTES}]*|$)",
    re.DOTALL,
)
_CLAUSE_END = re.compile(rf"(?:[,;:\u060c\u061b][{CLOSING_QUOTES}]*\s|[\uff0c\u3001\uff1b\uff1a][{CLOSING_QUOTES}]*)")
_WORD_END = re.compile(rf"\s+|(?<=[{UNSPACED}])(?=\w)")
_WIDE_SAYS = 3  # letters that take as long to say as a character of Chinese


@dataclass(frozen=True)
class _Pause:
    after_s: float
    """Seconds of speech before it."""
    start: float
    end: float


def segments_of(part: Part, duration: float, temperature: float) -> tuple[Segment, ...]:
    """The sentences of one part, none where nothing was said; in order, without overlap, inside the recording."""
    transcription = part.transcription
    texts = _sentences(transcription.text)
    if not texts:
        return ()
    if part.words:
        timed = _short(texts, lambda texts: [Span(*times) for times in times_of(texts, part.words)])
    else:
        speech = part.speech or (Span(part.start, part.end),)
        timed = _short(texts, lambda texts: _times(texts, speech))
    words = words_in([text for text, _ in timed], part.words)
    return tuple(
        Segment(
            start=min(round(span.start, 3), duration),
            end=min(round(span.end, 3), duration),
            text=text,
            language=transcription.language,
            temperature=temperature,
            avg_logprob=transcription.avg_logprob,
            words=own,
        )
        for (text, span), own in zip(timed, words, strict=True)
    )


def _sentences(text: str) -> list[str]:
    """The sentences of a text, none of which is mere punctuation unless the text is."""
    sentences: list[str] = []
    for sentence in _SENTENCE.findall(text):
        if sentences and not (_has_letters(sentence) and _has_letters(sentences[-1])):
            sentences[-1] += sentence
        else:
            sentences.append(sentence)
    return [sentence.strip() for sentence in sentences if sentence.strip()]


def _has_letters(text: str) -> bool:
    return any(map(str.isalnum, text))


def _short(texts: list[str], times: Callable[[list[str]], list[Span]]) -> list[tuple[str, Span]]:
    """Texts with their times, those that are too long for a subtitle cut until they are not."""
    while True:
        spans = times(texts)
        shorter: list[str] = []
        for text, span in zip(texts, spans, strict=True):
            is_long = span.end - span.start > LONGEST_S or width(text) > MAX_WIDTH
            shorter += _halves(text) if is_long else [text]
        if len(shorter) == len(texts):
            return list(zip(texts, spans, strict=True))
        texts = shorter


def _halves(text: str) -> list[str]:
    """Two texts, cut at the clause end or else the word end that is nearest to the middle; one if it is one word."""
    for ends in (_CLAUSE_END, _WORD_END):
        places = [match.end() for match in ends.finditer(text)]
        cuts = [place for place in places if text[:place].strip() and text[place:].strip()]
        cut = min(cuts, key=lambda place: abs(place - len(text) / 2), default=None)
        if cut is not None and (ends is _WORD_END or len(text) / 5 <= cut <= len(text) * 4 / 5):
            return [text[:cut].strip(), text[cut:].strip()]
    return [text]


def _times(texts: Sequence[str], speech: Sequence[Span]) -> list[Span]:
    """When each text was said: all of the speech shared out, in order."""
    said = list(accumulate((span.end - span.start for span in speech), initial=0.0))
    weights = [_weight(text) for text in texts]
    ends = [said[-1] * weight / sum(weights) for weight in accumulate(weights)]
    pauses = [
        _Pause(after_s, before.end, after.start)
        for after_s, (before, after) in zip(said[1:-1], pairwise(speech), strict=True)
    ]
    first, last = speech[0].start, speech[-1].end
    borders = [(first, first), *_borders(ends, pauses, speech, said), (last, last)]
    return [Span(start, end) for (_, start), (end, _) in pairwise(borders)]


def _borders(
    ends: Sequence[float], pauses: Sequence[_Pause], speech: Sequence[Span], said: Sequence[float]
) -> Iterator[tuple[float, float]]:
    """Where each text but the last ends and the next begins: the two sides of a pause, or one moment of speech."""
    for before, end, after in zip((0.0, *ends), ends[:-1], ends[1:], strict=False):
        # At most half way into its neighbours, so that borders stay in order.
        near = [
            pause
            for pause in pauses
            if abs(pause.after_s - end) <= _SNAP_S and (before + end) / 2 < pause.after_s < (end + after) / 2
        ]
        if near:
            pause = min(near, key=lambda pause: abs(pause.after_s - end))
            yield pause.start, pause.end
        else:
            moment = _moment(end, speech, said)
            yield moment, moment


def _moment(after_s: float, speech: Sequence[Span], said: Sequence[float]) -> float:
    """The time at which there have been so many seconds of speech."""
    for span, before_s in zip(reversed(speech), reversed(said[:-1]), strict=True):
        if after_s > before_s:
            return min(span.start + after_s - before_s, span.end)
    return speech[0].start


def _weight(text: str) -> float:
    """How long it takes to say, in letters."""
    return max(1, sum(map(str.isalnum, text)) + (_WIDE_SAYS - 1) * count_wide(text))
