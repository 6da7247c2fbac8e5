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
                between = separator(self._last_told, delta.text) if delta.text == turn.told else ""
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
    told: str = ""
    """What has been passed on, and cannot be taken back."""
    tokens: tuple[Token, ...] = ()
    """What `told` is made of; empty unless the options ask for `logprobs`."""
    is_over: bool = False

    def say(self, deltas: Iterable[Delta]) -> None:
        """Go on."""
        self._held += deltas
        self._advance()

    def take(self) -> Iterable[Delta]:
        """Yield what was not passed on yet; it is, then."""
        while self._held:
            delta = self._held.pop(0)
            self.told += delta.text
            self.tokens += delta.tokens
            yield delta

    def take_back(self) -> bool:
        """Unsay everything, if nothing was passed on yet; whether that was so."""
        if not self.told:
            self._held.clear()
        return not self.told

    def go_on(self, answers: Iterable[Transcription]) -> bool:
        """Say what `answers` say beyond what was told, if they begin with that; whether they do."""
        text, tokens = join_answers(answers)
        count = len(self.tokens)
        same = [token.data for token in tokens[:count]] == [token.data for token in self.tokens]
        if not (same and text.startswith(self.told)):
            return False
        if len(text) > len(self.told):
            self.say([Delta(text[len(self.told) :], tokens[count:])])
        return True

    def end(self, answers: Iterable[Transcription]) -> None:
        """End the turn. Where nothing was said yet, say all of `answers` first; else they are what was said."""
        text, tokens = join_answers(answers)
        if text and not self.told and not self._held:
            self._held.append(Delta(text, tokens))
        self.is_over = True
        self._advance()
