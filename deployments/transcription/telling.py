"""Telling a transcript in order, while its pieces are decoded side by side."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from deployments.transcription.join import join_answers, separated, separator
from deployments.transcription.utterance import Delta, Token, Transcription


class Telling:
    """Passes on what the first unfinished piece says as it comes, and keeps what the later ones say until their turn.

    Args:
        tell: is called with every delta; all of them joined are the joined texts of the pieces.
    """

    def __init__(self, tell: Callable[[Delta], None]):
        self._tell = tell
        self._turns: deque[Turn] = deque()
        self._last_told = ""

    def turn(self) -> "Turn":
        """The turn of the next piece."""
        self._turns.append(Turn(self._advance))
        return self._turns[-1]

    def _advance(self) -> None:
        while self._turns:
            turn = self._turns[0]
            for delta in turn.take():
                between = "" if turn.has_begun else separator(self._last_told, delta.text)
                turn.note(delta)
                self._last_told = delta.text
                self._tell(replace(delta, text=between + delta.text, tokens=separated(delta.tokens, between)))
            if not turn.is_over:
                return
            self._turns.popleft()


@dataclass(eq=False)
class Turn:
    """What one piece says."""

    _advance: Callable[[], None]
    _held: list[Delta] = field(default_factory=list)
    has_begun: bool = False
    """Whether something has been passed on, which cannot be taken back."""
    told: str = ""
    """What has been passed on."""
    tokens: tuple[Token, ...] = ()
    """What `told` is made of; empty unless the options ask for `logprobs`."""
    is_over: bool = False

    def say(self, deltas: Iterable[Delta]) -> None:
        """Go on."""
        self._held += deltas
        self._advance()

    def take(self) -> list[Delta]:
        """Hand over what is to be passed on now."""
        taken, self._held = self._held, []
        return taken

    def note(self, delta: Delta) -> None:
        """Keep in mind that a delta is passed on."""
        self.has_begun = True
        self.told += delta.text
        self.tokens += delta.tokens

    def take_back(self) -> bool:
        """Unsay everything, if nothing was passed on yet; whether that was so."""
        if not self.has_begun:
            self._held.clear()
        return not self.has_begun

    def end(self, answers: Iterable[Transcription]) -> None:
        """End the turn. Where nothing was said yet, say all of `answers` first; else they are what was said."""
        text, tokens = join_answers(answers)
        if text and not self.has_begun and not self._held:
            self._held.append(Delta(text, tokens))
        self.is_over = True
        self._advance()
