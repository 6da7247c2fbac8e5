"""A waveform whose quiet speakers are as loud as the others, for models that are to find words, not to judge sound."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from deployments.audio.speech import Span
from deployments.audio.waveform import SAMPLE_RATE, Waveform

FAR_BELOW = 10 ** (-10 / 20)
"""Speech that is closer to the loudest stays as it is: sentences differ by so much by themselves."""
MAX_GAIN = 10 ** (40 / 20)


def evened(waveform: Waveform, speech: Sequence[Span]) -> Waveform:
    """Raise speech that is far below the loudest to its level, from the middle of the pause before it to that after it.

    Forced aligners pass over somebody quiet between two who are loud. Times stay what they are.

    Args:
        waveform: of one utterance.
        speech: where somebody speaks in it, in seconds from its start, in order.
    """
    levels = [_level(waveform, span) for span in speech]
    loudest = max(levels, default=0.0)
    if all(level >= FAR_BELOW * loudest for level in levels):
        return waveform
    middles = [round((one.end + following.start) / 2 * SAMPLE_RATE) for one, following in pairwise(speech)]
    even = waveform.copy()
    for level, (start, end) in zip(levels, pairwise([0, *middles, len(waveform)]), strict=True):
        if 0 < level < FAR_BELOW * loudest:
            even[start:end] *= np.float32(min(loudest / level, MAX_GAIN))
    return even


def _level(waveform: Waveform, span: Span) -> float:
    """Root mean square; 0 where there is nothing."""
    said = waveform[max(0, round(span.start * SAMPLE_RATE)) : round(span.end * SAMPLE_RATE)]
    return float(np.sqrt(np.mean(np.square(said, dtype=np.float64)))) if len(said) else 0.0
