"""Noticing that an answer goes round in circles while it is still being decoded.

A pattern of tokens that the answer ends with, over and over, is a loop where

1. it is there `REPEATS` times in a row, which nobody says: the threshold of the `qwen-asr` package for whole answers;
2. or `FEW_REPEATS` times over `FEW_REPEATS_TOKENS` tokens, in an answer that is longer than speech of that duration.

So neither laughter nor zeros nor a chorus are loops, as long as there is time to say them.
"""

import math

REPEATS = 20
FEW_REPEATS = 5
"""A chorus is sung four times."""
FEW_REPEATS_TOKENS = 32
SPEAKABLE_TOKENS = 32
SPEAKABLE_TOKENS_PER_SECOND = 8
"""Fast speech stays under these. The budget of an answer, which ends it whatever it says, is larger."""

_CHECK_EVERY = 8  # tokens: a loop is noticed so much later at most, and most steps cost nothing
_WINDOW = 1280  # tokens that are looked at: patterns of up to 64 tokens, and of up to 256 in answers that are too long


class LoopDetector:
    """Follows the answer to one utterance of so many seconds."""

    def __init__(self, seconds: float):
        self._speakable = SPEAKABLE_TOKENS + math.ceil(SPEAKABLE_TOKENS_PER_SECOND * seconds)

    def found(self, answer: list[int]) -> bool:
        """Whether the answer, which has grown by one token since the last call, ends in a loop."""
        if len(answer) % _CHECK_EVERY:
            return False
        tail = answer[: -_WINDOW - 1 : -1]  # backwards
        is_too_long = len(answer) > self._speakable
        furthest = len(tail) // (FEW_REPEATS if is_too_long else REPEATS)
        period = 0
        while period < furthest:
            try:
                period = tail.index(tail[0], period + 1, furthest + 1)
            except ValueError:
                return False
            same = (_repeats(period, is_too_long=is_too_long) - 1) * period
            # Most candidates differ within their first period; only the others are worth the long comparison.
            if tail[:period] == tail[period : 2 * period] and tail[:same] == tail[period : period + same]:
                return True
        return False


def _repeats(period: int, *, is_too_long: bool) -> int:
    """How often a pattern of so many tokens must be there to be a loop."""
    return min(REPEATS, max(FEW_REPEATS, math.ceil(FEW_REPEATS_TOKENS / period))) if is_too_long else REPEATS
