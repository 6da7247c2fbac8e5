"""Cues that players show as they are meant: two short lines, cut where a reader would."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.ingress.subtitles import Cue, cues, to_srt, to_vtt
from deployments.transcription.segments import LONGEST_S
from deployments.transcription.transcript import Segment
from deployments.transcription.words import Word

LONG = (
    "Ladies and gentlemen, we are about to land. Please return to your seats, fasten your seat belts and put your "
    "bags under the seat in front of you. Thank you for flying with us today."
)
CHINESE = (
    "各位旅客您好，我们的飞机即将降落。请您回到座位上，系好安全带，收起小桌板，并将行李放在前排座椅下方。感谢您的配合！"
)


def segment(text: str, start: float = 0.0, end: float = 10.0) -> Segment:
    return Segment(start, end, text, "English", 0.0, 0.0)


def timed(text: str, *times: tuple[float, float]) -> Segment:
    """A segment whose words, those between blanks, are said at these times."""
    letters = ["".join(filter(str.isalnum, word)) for word in text.split()]
    words = tuple(Word(word, *own) for word, own in zip(letters, times, strict=True))
    return Segment(words[0].start, words[-1].end, text, "English", 0.0, 0.0, words)


def lines(text: str) -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues([segment(text)])]


def test_a_short_text_is_one_line() -> None:
    assert lines("Hello there.") == [("Hello there.",)]


def test_blanks_are_single() -> None:
    assert lines("  Hello \n\n there.\t") == [("Hello there.",)]


def test_a_longer_one_is_two_lines_of_like_width() -> None:
    text = "Please return to your seats and fasten your seat belts."
    assert lines(text) == [("Please return to your seats", "and fasten your seat belts.")]


def test_a_long_one_is_cut_after_its_punctuation() -> None:
    assert lines(LONG) == [
        ("Ladies and gentlemen,", "we are about to land."),
        ("Please return to your seats, fasten your", "seat belts and put your bags under the"),
        ("seat in front of you.", "Thank you for flying with us today."),
    ]


def test_chinese_lines_have_twenty_characters() -> None:
    assert lines(CHINESE) == [
        ("各位旅客您好，我们的飞机即将降落。",),
        ("请您回到座位上，系好安全带，收起小桌板，", "并将行李放在前排座椅下方。感谢您的配合！"),
    ]


def test_closing_punctuation_never_begins_a_line() -> None:
    for cue in lines("好" * 20 + "，" + "的" * 19 + "。" + "吗" * 20 + "？"):
        assert not any(line[0] in "，。？" for line in cue)


def test_korean_is_cut_at_blanks() -> None:
    assert all(" ".join(cue).split() for cue in lines("안녕하세요 " * 10))
    assert {word for cue in lines("안녕하세요 " * 10) for line in cue for word in line.split()} == {"안녕하세요"}


def test_a_word_without_end_is_cut_anywhere() -> None:
    assert lines("a" * 100) == [("a" * 42, "a" * 42), ("a" * 16,)]


def test_times_are_shared_out_by_characters() -> None:
    first, second = cues([segment("a" * 84 + "b" * 42, 2.0, 5.0)])
    assert (first.start, first.end) == (2.0, 4.0)
    assert (second.start, second.end) == (4.0, 5.0)


def test_words_tell_when_a_cue_is_shown() -> None:
    text = f"{'a' * 40}, {'b' * 40}. {'c' * 40}"
    first, second = cues([timed(text, (1.0, 2.0), (2.5, 3.0), (4.0, 4.5))])
    assert (first.start, first.end) == (1.0, 3.0)
    assert (second.start, second.end) == (4.0, 4.5)


def test_no_word_is_shown_for_ever() -> None:
    for endless in (timed("So.", (1.0, 20.0)), segment("So.", 1.0, 20.0)):
        (cue,) = cues([endless])
        assert (cue.start, cue.end) == (1.0, 8.0)


def test_what_nobody_could_read_is_shown_with_what_follows() -> None:
    """An aligner may hear a word in no time at all."""
    shown = list(cues([timed("So.", (1.0, 1.0)), timed("It is.", (1.0, 1.0), (1.0, 1.0)), timed("No.", (1.0, 1.5))]))
    assert shown == [Cue(1.0, 1.5, ("So. It is. No.",))]
    shown = list(cues([timed("好。", (1.0, 1.1)), timed("是。", (1.1, 1.4))]))
    assert shown == [Cue(1.0, 1.4, ("好。是。",))]


def test_every_cue_takes_some_time_and_none_overlaps() -> None:
    """Players refuse such cues; what follows has no room for one more word."""
    full = timed("word " * 16, *[(1.0, 1.4)] * 16)
    shown = list(cues([timed("So.", (1.0, 1.0)), full]))
    assert [(cue.start, cue.end) for cue in shown] == [(1.0, 1.001), (1.001, 1.4)]


def test_a_short_cue_stays_to_be_read_where_there_is_room() -> None:
    shown = list(cues([timed("So.", (1.0, 1.0)), timed("It is.", (3.0, 3.0), (3.1, 3.2)), timed("No.", (3.5, 3.6))]))
    assert [(cue.start, cue.end) for cue in shown] == [(1.0, 1.833), (3.0, 3.5), (3.5, 3.6)]


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_no_text_is_no_cue(text: str) -> None:
    assert lines(text) == []
    assert to_srt([segment(text)]) == ""
    assert to_vtt([segment(text)]) == "WEBVTT\n\n"


def test_srt() -> None:
    segments = [segment("One.", 0.0, 1.0), segment("Two.", 3599.9996, 3601.5), segment("3.", 359999.0, 360000.5)]
    assert to_srt(segments) == (
        "1\n00:00:00,000 --> 00:00:01,000\nOne.\n\n2\n01:00:00,000 --> 01:00:01,500\nTwo.\n\n"
        "3\n99:59:59,000 --> 100:00:00,500\n3.\n\n"
    )


def test_vtt() -> None:
    assert to_vtt([segment("One.", 0.0, 1.25)]) == "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nOne.\n\n"


def test_what_would_be_markup_is_text() -> None:
    assert "R&amp;B &lt;i&gt; a --&gt; b" in to_vtt([segment("R&B <i> a --> b")])
    assert "R&B <i> a -> b" in to_srt([segment("R&B <i> a --> b")])


PIECES = st.one_of(
    st.text(max_size=30), st.sampled_from(["word", "你好，", "end.", "안녕", " ", "\n", "。", "-->", "&", "สวัสดี" * 9])
)
CUE_TIMES = re.compile(r"\d\d:\d\d:\d\d[.,]\d{3} --> \d\d:\d\d:\d\d[.,]\d{3}")


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text(text: str) -> None:
    shown = list(cues([segment(text, 0.0, LONGEST_S)]))
    assert "".join("".join(cue.lines) for cue in shown).replace(" ", "") == "".join(text.split())
    for cue in shown:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 and line == line.strip() for line in cue.lines)
    for one, following in pairwise(shown):
        assert one.end == following.start
    if shown:
        assert shown[0].start == 0.0
        assert math.isclose(shown[-1].end, LONGEST_S)
    for rendered in (to_srt([segment(text)]), to_vtt([segment(text)])):
        assert rendered.count("-->") == len(CUE_TIMES.findall(rendered)) == len(shown)
        assert "\n\n\n" not in rendered


WORDS = st.sampled_from(["word", "end.", "clause,", "你好，", "。好", "안녕", "a" * 43, "-", "don't"])


@given(st.lists(st.tuples(WORDS, st.floats(0, 2), st.floats(0, 9)), min_size=1, max_size=40))
def test_any_words(said: list[tuple[str, float, float]]) -> None:
    times, now = [], 0.0
    for _, pause, length in said:
        times.append((round(now + pause, 3), round(now + pause + length, 3)))
        now += pause + length
    shown = list(cues([timed(" ".join(word for word, *_ in said), *times)]))
    assert "".join("".join(cue.lines) for cue in shown).replace(" ", "") == "".join(word for word, *_ in said)
    for cue in shown:
        assert 0 < cue.end - cue.start <= LONGEST_S + 0.001
        assert 1 <= len(cue.lines) <= 2
    for one, following in pairwise(shown):
        assert one.end <= following.start
