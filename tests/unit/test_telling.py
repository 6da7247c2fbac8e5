"""What the pieces of a recording say is told in their order, with what stands between them."""

from deployments.transcription.telling import Telling, Turn
from deployments.transcription.utterance import Delta, Token
from tests.unit.test_transcriber import answer


class Heard:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.telling = Telling(self.deltas.append)

    @property
    def texts(self) -> list[str]:
        return [delta.text for delta in self.deltas]


def say(turn: Turn, *texts: str) -> None:
    turn.say([Delta(text, (Token(text.encode(), -1.0),)) for text in texts])


def test_a_blank_stands_before_the_first_delta_of_a_turn_alone() -> None:
    heard = Heard()
    first, second = heard.telling.turn(), heard.telling.turn()
    say(first, "No")
    say(first, "No", "NoNo")
    first.end([answer("NoNoNoNo")])
    say(second, "No", "No")
    say(second, "NoNo")
    assert heard.texts == ["No", "No", "NoNo", " No", "No", "NoNo"]
    assert b"".join(token.data for delta in heard.deltas for token in delta.tokens).decode() == "".join(heard.texts)
    assert (second.told, second.tokens[0]) == ("NoNoNoNo", Token(b"No", -1.0))


def test_what_is_held_is_told_in_its_turn_and_not_again() -> None:
    heard = Heard()
    first, second = heard.telling.turn(), heard.telling.turn()
    say(second, "Two")
    second.end([answer("Two")])
    assert (heard.texts, second.has_begun, second.told) == ([], False, "")
    first.end([answer("One")])
    assert heard.texts == ["One", " Two"]
    assert (second.has_begun, second.told) == (True, "Two")


def test_only_what_is_held_can_be_taken_back() -> None:
    heard = Heard()
    first, second = heard.telling.turn(), heard.telling.turn()
    say(first, "One")
    say(second, "Two")
    assert not first.take_back()
    assert second.take_back()
    first.end([answer("One")])
    second.end([answer("Other")])
    assert heard.texts == ["One", " Other"]


def test_a_turn_gives_away_what_it_holds_once_and_has_begun_only_when_that_is_noted() -> None:
    turn = Turn(lambda: None)
    say(turn, "One", "One")
    taken = turn.take()
    assert ([delta.text for delta in taken], turn.take()) == (["One", "One"], [])
    assert (turn.has_begun, turn.told) == (False, "")
    for delta in taken:
        turn.note(delta)
    assert (turn.has_begun, turn.told) == (True, "OneOne")
