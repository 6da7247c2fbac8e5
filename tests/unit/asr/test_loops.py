"""Loops are noticed while they are decoded; what somebody may really have said is left alone."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.asr import loops
from deployments.asr.loops import FEW_REPEATS, FEW_REPEATS_TOKENS, REPEATS, LoopDetector

NOTICED_WITHIN = 8
"""Tokens."""
TOKENS = st.integers(0, 3)  # so few that patterns occur by chance


def found_after(answer: list[int], seconds: float) -> int | None:
    """How long the answer is when its loop is noticed; None where it never is."""
    detector = LoopDetector(seconds)
    return next((end for end in range(1, len(answer) + 1) if detector.found(answer[:end])), None)


def speakable(seconds: float) -> int:
    return loops.SPEAKABLE_TOKENS + math.ceil(loops.SPEAKABLE_TOKENS_PER_SECOND * seconds)


def repeats_at_the_end(answer: list[int], period: int) -> int:
    """How often, one place after the other."""
    same = 0
    while same + period < len(answer) and answer[-1 - same] == answer[-1 - same - period]:
        same += 1
    return same // period + 1


def is_loop(answer: list[int], seconds: float) -> bool:
    """The rule of the module, word by word."""
    for period in range(1, len(answer) // FEW_REPEATS + 1):
        repeats = repeats_at_the_end(answer, period)
        few = repeats >= FEW_REPEATS and repeats * period >= FEW_REPEATS_TOKENS
        if repeats >= REPEATS or (few and len(answer) > speakable(seconds)):
            return True
    return False


def words(text: str) -> list[int]:
    """Tokens as they come: words and marks, characters of Chinese."""
    pieces = text.replace(",", " ,").replace(".", " .").split() if text.isascii() else list(text)
    return [hash(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("no no no no", 1.0),
        ("No, no, no, no, no, no, no, no, no, no.", 4.0),
        ("哈哈哈哈", 0.5),
        ("哈" * 19, 2.0),
        ("对对对对对对对，我知道", 1.5),
        ("0 0 0 0", 1.0),
        ("The number is 0 0 0 0 0 0 0 0 0 0 0 0 1", 5.0),
        ("1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0", 3.0),
        ("la la la la la la la la la la la la la la la la", 5.0),
        ("row row row your boat gently down the stream " * 4, 12.0),
        ("we will we will rock you " * 4 + "sing it " + "we will we will rock you " * 4, 20.0),
        ("Attention please, leave the building by the nearest exit. " * 8, 30.0),
    ],
)
def test_what_may_have_been_said_is_no_loop(said: str, seconds: float) -> None:
    assert found_after(words(said), seconds) is None


@pytest.mark.parametrize("pattern", ["and", "no,", "on and", "I said that", "thank you for watching.", "谢谢"])
def test_what_is_said_over_and_over_is_noticed(pattern: str) -> None:
    loop = words("Well then") + words(pattern) * 60
    noticed = found_after(loop, seconds=30.0)
    assert noticed is not None
    assert noticed <= 2 + REPEATS * len(words(pattern)) + NOTICED_WITHIN


def test_a_sentence_again_and_again_is_noticed_when_there_was_no_time_to_say_it() -> None:
    sentence = words("the plane to Sydney leaves at one twenty five from gate nine.")
    assert found_after(sentence * 6, seconds=30.0) is None
    noticed = found_after(sentence * 20, seconds=3.0)
    assert noticed is not None
    assert noticed <= FEW_REPEATS * len(sentence) + NOTICED_WITHIN


@given(
    before=st.lists(TOKENS, max_size=40),
    pattern=st.lists(TOKENS, min_size=1, max_size=64),
    seconds=st.floats(0.1, 30),
)
def test_every_loop_is_noticed_soon(before: list[int], pattern: list[int], seconds: float) -> None:
    answer = before + pattern * (REPEATS + NOTICED_WITHIN)
    noticed = found_after(answer, seconds)
    assert noticed is not None
    assert noticed <= len(before) + REPEATS * len(pattern) + NOTICED_WITHIN


@given(
    st.lists(st.tuples(st.lists(TOKENS, min_size=1, max_size=12), st.integers(1, 30)), max_size=12),
    st.floats(0.1, 30),
)
def test_what_is_noticed_is_a_loop_and_the_first_one(parts: list[tuple[list[int], int]], seconds: float) -> None:
    answer = [token for pattern, times in parts for token in pattern * times]
    looked_at = range(NOTICED_WITHIN, len(answer) + 1, NOTICED_WITHIN)
    expected = next((end for end in looked_at if is_loop(answer[:end], seconds)), None)
    assert found_after(answer, seconds) == expected


@given(st.lists(st.tuples(st.lists(TOKENS, min_size=1, max_size=20), st.integers(1, 4)), max_size=12))
def test_nothing_is_noticed_where_there_is_time_and_nothing_is_there_so_often(
    parts: list[tuple[list[int], int]],
) -> None:
    marked = [[*pattern, 100 + place] * times for place, (pattern, times) in enumerate(parts)]
    answer = [token for part in marked for token in part]
    assert found_after(answer, seconds=len(answer) / loops.SPEAKABLE_TOKENS_PER_SECOND) is None
