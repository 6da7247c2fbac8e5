"""A waveform without the middle of its long pauses, and what its times are in the waveform as it was.

Forced aligners are taught on sentences: in a pause that is longer than those they know, they lose the thread and place
words of one side on the other. What they are given has no such pause.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from deployments.audio.speech import Span
from deployments.audio.waveform import SAMPLE_RATE, Waveform

LONG_S = 1.0
"""A pause of so much, or silence before or after all speech."""
KEPT_S = 0.3
"""Of a pause at each of its ends: breath, unvoiced sounds, and what the finding of speech is off by."""


@dataclass(frozen=True, eq=False)
class Shortened:
    """The result of `without_long_pauses`."""

    waveform: Waveform
    cuts: tuple[tuple[float, float], ...]
    """Where something was left out, in seconds of the waveform as it is now, and how many seconds of it."""

    def original(self, start: float, end: float) -> tuple[float, float]:
        """Where the span from `start` to `end` of this waveform is in the one that it was made of (seconds).

        Nothing is said across a pause that was cut: it belongs to the side that its middle is on. Nothing is said
        before a cut at the very start, or after one at the very end.
        """
        middle = (start + end) / 2
        left_out, after = 0.0, 0.0
        for at, seconds in self.cuts:
            if at > 0 and (at >= middle or at >= len(self.waveform) / SAMPLE_RATE):
                start, end = min(start, at), min(end, at)
                break
            left_out += seconds
            after = at
        return max(start, after) + left_out, max(end, after) + left_out


def without_long_pauses(waveform: Waveform, speech: Sequence[Span]) -> Shortened:
    """Leave out of pauses of `LONG_S` or more what is further than `KEPT_S` from any speech.

    Args:
        waveform: of one utterance.
        speech: where somebody speaks in it, in seconds from its start, in order. Without any it stays as it is.
    """
    if not speech:
        return Shortened(waveform, ())
    bounds = [0.0, *(bound for span in speech for bound in (span.start, span.end)), len(waveform) / SAMPLE_RATE]
    gaps = []
    for start_s, end_s in zip(bounds[::2], bounds[1::2], strict=True):
        if end_s - start_s < LONG_S:
            continue
        start = round((start_s + KEPT_S) * SAMPLE_RATE) if start_s > 0 else 0
        end = round((end_s - KEPT_S) * SAMPLE_RATE) if end_s < bounds[-1] else len(waveform)
        gaps.append((start, end))
    if not gaps:
        return Shortened(waveform, ())
    edges = [0, *(edge for gap in gaps for edge in gap), len(waveform)]
    stretches = [waveform[start:end] for start, end in list(pairwise(edges))[::2]]
    cuts, left_out = [], 0
    for start, end in gaps:
        cuts.append(((start - left_out) / SAMPLE_RATE, (end - start) / SAMPLE_RATE))
        left_out += end - start
    return Shortened(np.concatenate(stretches), tuple(cuts))
