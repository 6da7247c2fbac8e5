"""Words that an aligner gave no time, several in a row: there it has lost its place."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from deployments.audio.speech import Span
from deployments.transcription.words import Word

_LOST = 2  # one word takes no time where it is said so fast, several do not
_PAUSE_S = 0.1  # one step of a released aligner is 0.08


def in_their_time(words: Sequence[Word], speech: Sequence[Span] = ()) -> tuple[Word, ...]:
    """The words, those that are lost with times of their own.

    Where somebody speaks between their neighbours, and no word is known to be said there, it is they who are. Else they
    share the time of the neighbours that they touch; one beyond a pause keeps its own.

    Args:
        words: in order, with times that never go back.
        speech: where somebody speaks, in order; seconds as those of the words.
    """
    timed = list(words)
    place = 0
    while place < len(words):
        end = place
        while end < len(words) and not _takes_time(words[end]):
            end += 1
        if end - place >= _LOST:
            spans = _wordless(speech, words, place, end)
            if not spans:
                first = place - 1 if place > 0 and _touch(words[place - 1], words[place]) else place
                last = end + 1 if end < len(words) and _touch(words[end - 1], words[end]) else end
                spans = [Span(timed[first].start, timed[last - 1].end)]
            else:
                first, last = place, end
            timed[first:last] = _shared_out(timed[first:last], spans)
        place = end + 1
    return tuple(timed)


def _takes_time(word: Word) -> bool:
    return word.end > word.start


def _touch(word: Word, following: Word) -> bool:
    return following.start - word.end < _PAUSE_S


def _wordless(speech: Sequence[Span], words: Sequence[Word], first: int, last: int) -> list[Span]:
    """The speech between the words before `first` and from `last` on in which no word takes time."""
    begins = words[first - 1].end if first > 0 else 0.0
    ends = words[last].start if last < len(words) else float("inf")
    middles = [(word.start + word.end) / 2 for word in words if _takes_time(word)]
    between = [Span(max(span.start, begins), min(span.end, ends)) for span in speech if not _hold(span, middles)]
    return [span for span in between if span.end > span.start]


def _hold(span: Span, moments: Sequence[float]) -> bool:
    return any(span.start <= moment <= span.end for moment in moments)


def _shared_out(words: Sequence[Word], spans: Sequence[Span]) -> Iterator[Word]:
    """The words one after another in all of the spans, each as long as it has letters."""
    room = list(accumulate((span.end - span.start for span in spans), initial=0.0))
    said = list(accumulate((max(1, len(word.text)) for word in words), initial=0))
    for word, before, after in zip(words, said, said[1:], strict=False):
        # In the span that most of it is in: nothing is said across a pause.
        middle = room[-1] * (before + after) / 2 / said[-1]
        at = min(bisect_right(room, middle), len(spans)) - 1
        start, end = (
            min(max(spans[at].start + room[-1] * letters / said[-1] - room[at], spans[at].start), spans[at].end)
            for letters in (before, after)
        )
        yield Word(word.text, start, end)
