"""Cuts a recording into pieces that are short enough to be decoded in one go, where nobody speaks.

The rules, in their order:

1. A recording that is not longer than the limit and has no pause of `LONG_PAUSE_S`, at its ends neither, is one piece,
   as it is; it is none where nobody speaks in it.
2. Any other is cut in every such pause, and what is silent in between is left out but for some padding.
3. Speech that goes on beyond the limit is cut in the longest pause within reach: the last third of the piece, or else
   its second third.
4. Speech without a pause there is cut where it is quietest in the last third (`quietest`): between two words, if it can
   be told.

Every moment of speech is in exactly one piece, the pieces are in order, and none is longer than the limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from deployments.audio.speech import Listener, Span, SpeechFinder, SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform

LONG_PAUSE_S = 3.0
"""A pause that is better not decoded; shorter ones are heard with the speech around them."""

_TRAILING_S = 0.3  # after speech, where breath and unvoiced endings are; before it the options say how much
_THIRD = 3

_FRAME = SAMPLE_RATE // 100
_WINDOW_FRAMES = 30
_MIN_FRAMES = 3
_PRE_EMPHASIS = 0.97
_SILENCE = 1e-9  # -90 dBFS: 16 bits have nothing below


@dataclass(frozen=True, eq=False)
class Piece:
    """A stretch of a recording that is decoded in one go. Times are seconds from the start of the recording."""

    start: float
    waveform: Waveform
    speech: tuple[Span, ...]
    """Where somebody speaks in it; never empty."""

    @property
    def end(self) -> float:
        return self.start + len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True)
class _Stretch:
    """A `Span` in samples."""

    start: int
    end: int


class Cutter:
    """Takes a recording block by block and gives its pieces as soon as they are certain.

    It keeps the samples of at most one piece and one block.

    Args:
        listener: hears this recording.
        limit_s: longest piece, in seconds.
        options: what is speech.
    """

    def __init__(self, listener: Listener, *, limit_s: float, options: SpeechOptions):
        # A pause that is cut out has ended the speech before it: else the next speech would begin with it.
        self._finder = SpeechFinder(listener, replace(options, silence_s=min(options.silence_s, LONG_PAUSE_S)))
        self._limit = round(limit_s * SAMPLE_RATE)
        self._padding = min(round(options.padding_s * SAMPLE_RATE), self._limit // 4)
        self._trailing = min(round(_TRAILING_S * SAMPLE_RATE), self._limit // 4)
        self._samples = 0
        self._kept = np.empty(0, np.float32)
        self._kept_from = 0
        self._ended: list[_Stretch] = []
        """Speech that is in no piece yet."""
        self._cut = 0
        """Where the last piece ends."""

    @property
    def duration(self) -> float:
        """Seconds of the recording so far."""
        return self._samples / SAMPLE_RATE

    def push(self, block: Waveform) -> list[Piece]:
        """Take the next samples; return the pieces that are certain now. Blocks, for 0.5 % of their length."""
        self._samples += len(block)
        self._kept = np.concatenate([self._kept, block])
        self._note(self._finder.push(block))
        return list(self._pieces(last=False)) if self._samples > self._limit else []

    def finish(self) -> list[Piece]:
        """End the recording; return its last pieces."""
        self._note(self._finder.finish())
        if self._samples <= self._limit and not self._has_long_pause():
            return [self._piece(0, self._samples, self._ended)] if self._ended else []
        return list(self._pieces(last=True))

    def _has_long_pause(self) -> bool:
        """Whether somebody speaks, but for so long nobody does: models invent speech there, or hear none anywhere."""
        ends = [0, *(speech.end for speech in self._ended)]
        starts = [*(speech.start for speech in self._ended), self._samples]
        return any(start - end >= LONG_PAUSE_S * SAMPLE_RATE for end, start in zip(ends, starts, strict=True))

    def _note(self, spans: list[Span]) -> None:
        self._ended += [self._stretch(span) for span in spans]

    def _stretch(self, span: Span) -> _Stretch:
        """In samples, without what is in a piece already; the last frame may be longer than the recording."""
        start, end = (min(round(time * SAMPLE_RATE), self._samples) for time in (span.start, span.end))
        return _Stretch(max(start, self._cut), max(end, self._cut))

    def _pieces(self, *, last: bool) -> Iterator[Piece]:
        while (piece := self._next(last=last)) is not None:
            yield piece
        self._forget()

    def _next(self, *, last: bool) -> Piece | None:
        """The next piece, or None where the recording has to go on to tell; with `last` it does not go on."""
        unsent = [speech for speech in self._ended if speech.end > self._cut]
        self._ended = [_Stretch(max(speech.start, self._cut), speech.end) for speech in unsent]
        heard = self._samples if last else round(self._finder.heard * SAMPLE_RATE)
        going_on = self._going_on()
        known = [*self._ended, going_on] if going_on is not None else self._ended
        if not known:
            return None
        group, is_complete = self._group(known, heard, last=last)
        start = max(self._cut, group[0].start - self._padding)
        limit = start + self._limit
        if group[-1].end > limit:
            return self._cut_within(group, start, limit)
        if not is_complete and heard <= limit:
            return None
        following = known[len(group)].start if len(group) < len(known) else None
        return self._take(group, start, limit, following)

    def _going_on(self) -> _Stretch | None:
        span = self._finder.speaking
        speech = self._stretch(span) if span is not None else None
        return speech if speech is not None and speech.end > speech.start else None

    def _group(self, known: list[_Stretch], heard: int, *, last: bool) -> tuple[list[_Stretch], bool]:
        """The speech up to the first long pause, and whether that pause, or the end, is there."""
        long_pause = LONG_PAUSE_S * SAMPLE_RATE
        for count, (before, after) in enumerate(pairwise(known), start=1):
            if after.start - before.end >= long_pause:
                return known[:count], True
        return known, last or heard - known[-1].end >= long_pause

    def _cut_within(self, group: list[_Stretch], start: int, limit: int) -> Piece:
        """The piece from `start` on of speech that goes on beyond `limit`."""
        for third in (1, 2):
            reach = limit - third * self._limit // _THIRD
            pauses = [
                (min(after.start, limit) - before.end, count, after.start)
                for count, (before, after) in enumerate(pairwise(group), start=1)
                if before.end <= limit and after.start > reach
            ]
            if pauses:
                _, count, following = max(pauses)
                return self._take(group[:count], start, limit, following)
        at = self._quietest(limit - self._limit // _THIRD, limit)
        before = [_Stretch(speech.start, min(speech.end, at)) for speech in group if speech.start < at]
        return self._take(before, start, at, None)

    def _take(self, speech: list[_Stretch], start: int, limit: int, following: int | None) -> Piece:
        """The piece with `speech`, from `start`, and with a part of the pause between it and the `following` speech."""
        ends = speech[-1].end
        self._cut = min(ends + self._trailing, limit, self._samples)
        if following is not None:
            self._cut = min(self._cut, (ends + following) // 2)
        return self._piece(start, self._cut, speech)

    def _piece(self, start: int, end: int, speech: list[_Stretch]) -> Piece:
        waveform = self._kept[start - self._kept_from : end - self._kept_from]
        spans = tuple(Span(stretch.start / SAMPLE_RATE, stretch.end / SAMPLE_RATE) for stretch in speech)
        return Piece(start / SAMPLE_RATE, waveform.copy(), spans)

    def _quietest(self, start: int, end: int) -> int:
        return start + quietest(self._kept[start - self._kept_from : end - self._kept_from])

    def _forget(self) -> None:
        """Keep what may be in a piece to come."""
        begins = [speech.start for speech in self._ended if speech.end > self._cut]
        going_on = self._finder.speaking
        if going_on is not None:
            begins.append(self._stretch(going_on).start)
        begins.append(round(self._finder.heard * SAMPLE_RATE))
        keep = max(self._cut, min(begins) - self._padding, self._kept_from)
        self._kept = self._kept[keep - self._kept_from :].copy()
        self._kept_from = keep


def quietest(waveform: Waveform) -> int:
    """Where a cut is most likely between two words: the middle of what is quiet for longest, the last of equals.

    It is where the mean level in decibels is lowest, over 300 ms of which the middle counts most. A pause between words
    is a dip in it as deep and as wide as the pause; that of lips which close for a consonant is narrow, and that of a
    soft vowel is shallow. High frequencies count more, as in any recogniser's ear: where a hiss is part of a word, or
    the hum of a room fills its pauses.
    """
    count = len(waveform) // _FRAME
    if count < _MIN_FRAMES:
        return len(waveform) // 2
    emphasised = waveform - np.float32(_PRE_EMPHASIS) * np.concatenate([waveform[:1], waveform[:-1]])
    frames = emphasised[: count * _FRAME].reshape(count, _FRAME)
    levels = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + _SILENCE)
    window = np.hanning(min(_WINDOW_FRAMES, count) + 2)[1:-1]
    means = np.convolve(levels, window / window.sum(), "valid").round(2)
    first = len(means) - 1 - int(np.argmin(means[::-1]))
    return round((first + len(window) / 2) * _FRAME)


def halve(piece: Piece) -> tuple[Piece, Piece]:
    """Cut a piece in two: in the longest pause that lies in its middle half, or else where it is quietest there."""
    quarter = len(piece.waveform) // 4
    low, high = piece.start + quarter / SAMPLE_RATE, piece.end - quarter / SAMPLE_RATE
    pauses = [(after.start - before.end, (before.end + after.start) / 2) for before, after in pairwise(piece.speech)]
    within = [pause for pause in pauses if low <= pause[1] <= high]
    if within:
        at = round((max(within)[1] - piece.start) * SAMPLE_RATE)
    else:
        at = quarter + quietest(piece.waveform[quarter : len(piece.waveform) - quarter])
    time = piece.start + at / SAMPLE_RATE
    first = tuple(Span(span.start, min(span.end, time)) for span in piece.speech if span.start < time)
    second = tuple(Span(max(span.start, time), span.end) for span in piece.speech if span.end > time)
    return Piece(piece.start, piece.waveform[:at], first), Piece(time, piece.waveform[at:], second)
