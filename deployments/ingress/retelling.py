"""A stream that another replica tells from its start: what the client has is left out, in whatever events it comes.

A piece of a recording that has ended before its turn is told as one delta, and any other as it is decoded. So replicas
that say the same need not say it in the same deltas.
"""

from collections.abc import Sequence

from deployments.ingress.stream import delta_event, text_of_delta
from deployments.transcription.utterance import Delta


class Retelling:
    """Tells what is new in the events of a replica, and whether the others are what the one before it told.

    Args:
        told: the events that the client has.
    """

    def __init__(self, told: Sequence[bytes] = ()) -> None:
        deltas = [text_of_delta(event) for event in told]
        self._text = "".join(delta for delta in deltas if delta is not None)
        self._place = 0
        """How much of the text has been told again."""
        self._others = [event for event, delta in zip(told, deltas, strict=True) if delta is None][::-1]
        """What came after the text and must come again as it was; the last comes first."""

    @property
    def is_due(self) -> bool:
        """Whether something must be told again before anything new can be."""
        return self._place < len(self._text) or bool(self._others)

    def new_in(self, event: bytes) -> bytes | None:
        """While it is due: what the client does not have of the next event; None where that is not what was told.

        A delta that is new in part becomes one of the rest of its text. That has no `logprobs`, since those of the
        delta are also of what was told.
        """
        if (delta := text_of_delta(event)) is None:
            has_come = self._place == len(self._text) and event == self._others.pop()
            return b"" if has_come else None
        again = self._text[self._place : self._place + len(delta)]
        self._place += len(again)
        rest = delta.removeprefix(again)
        if not delta.startswith(again) or (rest and self._others):
            return None
        return delta_event(Delta(rest)) if rest else b""
