"""Words in a row that took no time get some."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.speech import Span
from deployments.transcription.lost_words import in_their_time
from deployments.transcription.words import Word


def test_several_in_a_row_share_the_time_around_them() -> None:
    lost = [Word(text, 2.0, 2.0) for text in ("Is", "it", "blue")]
    words = [Word("No", 0.5, 1.0), Word("tea", 1.0, 2.0), *lost, Word("Yes", 2.0, 2.4)]
    found = in_their_time(words)
    assert [word.text for word in found] == ["No", "tea", "Is", "it", "blue", "Yes"]
    times = [(round(word.start, 3), round(word.end, 3)) for word in found]
    assert times == [(0.5, 1.0), (1.0, 1.3), (1.3, 1.5), (1.5, 1.7), (1.7, 2.1), (2.1, 2.4)]


def test_one_is_said_so_fast() -> None:
    words = (Word("It", 0.5, 0.5), Word("is", 0.5, 0.6), Word("not", 0.6, 1.0), Word("a", 1.0, 1.0))
    assert in_their_time(words) == words


def test_a_pause_beside_them_stays() -> None:
    lost = [Word("I", 3.0, 3.0), Word("am", 3.0, 3.0)]
    before, *_, last = in_their_time([Word("Hello", 0.5, 1.0), *lost, Word("not", 3.0, 3.6)])
    assert (before, last) == (Word("Hello", 0.5, 1.0), Word("not", 3.3, 3.6))
    assert in_their_time([before, *lost, Word("So", 4.0, 4.5)]) == (before, *lost, Word("So", 4.0, 4.5))


def test_a_word_between_two_such_places_gives_to_both() -> None:
    lost = [Word("a", 1.0, 1.0)] * 2
    found = in_their_time([*lost, Word("b", 1.0, 2.0), *[Word("c", 2.0, 2.0)] * 2, Word("d", 2.0, 3.0)])
    assert all(one.start < one.end <= following.start + 1e-9 for one, following in pairwise(found))


def test_a_sentence_that_was_passed_over_is_where_somebody_speaks() -> None:
    """As a demo aligner does with somebody quiet: all words at the end of who spoke before."""
    lost = [Word(text, 2.0, 2.0) for text in ("Is", "that", "blue")]
    speech = [Span(0.4, 2.2), Span(3.0, 3.9), Span(4.5, 6.0)]
    found = in_their_time([Word("No", 0.5, 1.0), Word("tea", 1.0, 2.0), *lost, Word("Yes", 4.6, 5.0)], speech)
    assert found[:2] == (Word("No", 0.5, 1.0), Word("tea", 1.0, 2.0))
    assert [(word.text, round(word.start, 3), round(word.end, 3)) for word in found[2:5]] == [
        ("Is", 3.0, 3.18),
        ("that", 3.18, 3.54),
        ("blue", 3.54, 3.9),
    ]
    assert found[5] == Word("Yes", 4.6, 5.0)


def test_none_of_its_words_lasts_across_a_pause() -> None:
    lost = [Word(text, 2.0, 2.0) for text in ("One", "two", "three")]
    found = in_their_time([Word("So", 1.5, 2.0), *lost], [Span(1.4, 2.1), Span(3.0, 4.0), Span(5.0, 6.0)])
    assert [(word.start, word.end) for word in found[1:]] == [
        pytest.approx((3.0, 3.545), abs=0.001),
        pytest.approx((3.545, 4.0), abs=0.001),
        pytest.approx((5.091, 6.0), abs=0.001),
    ]


def _words(said: list[tuple[float, float]]) -> list[Word]:
    words: list[Word] = []
    now = 0.0
    for pause, length in said:
        words.append(Word("word", now + pause, now + pause + length))
        now = words[-1].end
    return words


_SAID = st.lists(st.tuples(st.just(0.0) | st.floats(0, 1), st.sampled_from([0.0, 0.0, 0.4])), max_size=30)


@given(_SAID, st.lists(st.floats(0, 20), max_size=12))
def test_times_never_go_back(said: list[tuple[float, float]], bounds: list[float]) -> None:
    words = _words(said)
    bounds = sorted(bounds)
    speech = [Span(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=False)]
    found = in_their_time(words, speech)
    assert [word.text for word in found] == [word.text for word in words]
    for word in found:
        assert word.start <= word.end
    for one, following in pairwise(found):
        assert one.end <= following.start + 1e-9
    lasts = max([word.end for word in words] + [span.end for span in speech], default=0.0)
    assert all(word.start >= 0 and word.end <= lasts + 1e-9 for word in found)


@given(_SAID)
def test_without_speech_they_stay_where_they_were(said: list[tuple[float, float]]) -> None:
    words = _words(said)
    found = in_their_time(words)
    if words:
        assert found[0].start >= words[0].start
        assert found[-1].end <= words[-1].end + 1e-9
