"""Answers become one transcript: blanks where the script has them, sentences with the times at which they were said."""

from dataclasses import replace
from itertools import cycle, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.speech import Span
from deployments.transcription.join import join_answers, join_parts, separator
from deployments.transcription.part import Heard, Part
from deployments.transcription.segments import LONGEST_S, segments_of
from deployments.transcription.transcript import Segment, TranscriptWarning, WarningCode
from deployments.transcription.utterance import Token
from deployments.transcription.words import Word
from tests.unit.test_transcriber import answer


def part(text: str, *speech: tuple[float, float], start: float = 0.0, end: float = 30.0, **changes: object) -> Part:
    return Part(start, end, tuple(Span(*times) for times in speech), answer(text, **changes))


def segments(text: str, *speech: tuple[float, float], duration: float = 100.0) -> list[Segment]:
    return list(segments_of(part(text, *speech), duration, 0.0))


def timed(text: str, *speech: tuple[float, float]) -> list[tuple[float, float, str]]:
    return [(segment.start, segment.end, segment.text) for segment in segments(text, *speech)]


class TestSeparators:
    @pytest.mark.parametrize(
        ("before", "after", "between"),
        [
            ("Hello there.", "How are you?", " "),
            ("你好", "世界", ""),
            ("你好。", "世界", ""),
            ("你好。", "Hello", ""),
            ("Hello.", "你好", " "),
            ("我用 iPhone", "很好", " "),
            ("よろしく。", "お願いします", ""),
            ("カタカナー", "ひらがな", ""),
            ("안녕하세요", "세계", " "),
            ("สวัสดี", "ครับ", " "),
            ("مرحبا", "بك", " "),
            ("", "Hello", ""),
            ("Hello", "", ""),
            ("Hello ", "there", ""),
        ],
    )
    def test_follow_the_script(self, before: str, after: str, between: str) -> None:
        assert separator(before, after) == between

    def test_belong_to_the_token_after_them(self) -> None:
        one, two = (
            answer("So.", tokens=(Token(b"So.", -1.0),)),
            answer("It is.", tokens=(Token(b"It", -2.0), Token(b" is.", 0.0))),
        )
        text, tokens = join_answers([one, answer(""), two])
        assert text == "So. It is."
        assert tokens == (Token(b"So.", -1.0), Token(b" It", -2.0), Token(b" is.", 0.0))


class TestTranscripts:
    def test_sum_up_their_parts(self) -> None:
        heard = [
            Heard((part("One.", (0, 2)), part("二。", (3, 9), language="Chinese"))),
            Heard((part("Three.", (10, 13)),), (TranscriptWarning("repetition", "So it was."),)),
        ]
        transcript = join_parts(heard, duration=20.0, temperature=0.5, forced=None)
        assert transcript.text == "One. 二。Three."
        assert transcript.language == "Chinese"
        assert [segment.language for segment in transcript.segments] == ["English", "Chinese", "English"]
        assert {segment.temperature for segment in transcript.segments} == {0.5}
        assert (transcript.usage.seconds, transcript.usage.audio_tokens, transcript.usage.output_tokens) == (
            20.0,
            78,
            12,
        )
        assert transcript.warnings == (TranscriptWarning("repetition", "So it was."),)

    def test_what_is_told_of_pieces_in_a_row_is_told_once(self) -> None:
        def heard(*codes: WarningCode, start: float) -> Heard:
            return Heard((), tuple(TranscriptWarning(code, "It was.", Span(start, start + 9)) for code in codes))

        failed = TranscriptWarning("word_times_unavailable", "Some are estimates.")
        pieces = [
            heard("repetition", start=0),
            heard("speech_without_text", "repetition", start=10),
            heard("speech_without_text", start=20),
            Heard((), (failed,)),
            heard("speech_without_text", start=40),
            Heard((), (failed,)),
        ]
        told = join_parts(pieces, duration=60.0, temperature=0.0, forced=None).warnings
        assert [(warning.code, warning.span) for warning in told] == [
            ("repetition", Span(0, 19)),
            ("speech_without_text", Span(10, 29)),
            ("word_times_unavailable", None),
            ("speech_without_text", Span(40, 49)),
        ]

    def test_a_forced_language_is_told_also_of_silence(self) -> None:
        assert join_parts([], duration=1.0, temperature=0.0, forced="English").language == "English"
        assert join_parts([], duration=1.0, temperature=0.0, forced=None).language is None

    def test_parts_without_text_have_no_say_in_the_language(self) -> None:
        heard = [Heard((part("", (0, 9), language="Chinese"), part("So.", (10, 11))))]
        assert join_parts(heard, duration=20.0, temperature=0.0, forced=None).language == "English"


class TestSegments:
    def test_are_sentences_that_end_in_pauses(self) -> None:
        assert timed("Turn on the light. Who is there? Nobody.", (1.0, 2.5), (3.0, 4.0), (4.5, 5.0)) == [
            (1.0, 2.5, "Turn on the light."),
            (3.0, 4.0, "Who is there?"),
            (4.5, 5.0, "Nobody."),
        ]

    def test_a_pause_within_a_sentence_is_none_of_its_ends(self) -> None:
        assert timed("Turn on, I said, the light. No.", (0.0, 0.5), (0.7, 3.0), (3.5, 4.0)) == [
            (0.0, 3.0, "Turn on, I said, the light."),
            (3.5, 4.0, "No."),
        ]

    def test_without_a_pause_the_end_is_estimated_by_letters(self) -> None:
        assert timed("Four. Four four.", (2.0, 5.0)) == [(2.0, 3.0, "Four."), (3.0, 5.0, "Four four.")]

    @pytest.mark.parametrize(
        ("text", "texts"),
        [
            ("It costs 3.50 euros, Mr.Smith. Yes.", ["It costs 3.50 euros, Mr.Smith.", "Yes."]),
            ("你好。今天怎么样？很好！", ["你好。", "今天怎么样？", "很好！"]),
            ("Is it open?上午两点叫我起床。Yes.", ["Is it open?", "上午两点叫我起床。", "Yes."]),
            ('He said "No." Then he left...', ['He said "No."', "Then he left..."]),
            ("no punctuation at all", ["no punctuation at all"]),
            ("  ", []),
        ],
    )
    def test_end_at_punctuation(self, text: str, texts: list[str]) -> None:
        assert [segment.text for segment in segments(text, (0, 3))] == texts

    def test_long_sentences_are_cut_at_their_clauses(self) -> None:
        text = "When you come home in the evening, turn on the light in the kitchen and the hall"
        assert timed(text, (0.0, 5.0), (5.4, 9.4)) == [
            (0.0, 5.0, "When you come home in the evening,"),
            (5.4, 9.4, "turn on the light in the kitchen and the hall"),
        ]

    def test_long_chinese_sentences_too(self) -> None:
        cut = segments("各位旅客您好我们的飞机即将降落请您回到座位上" * 3, (0, 20))
        assert len(cut) >= 3
        assert all(segment.end - segment.start <= LONGEST_S for segment in cut)
        assert all(len(segment.text) <= 40 for segment in cut), "two lines of a subtitle"

    def test_what_two_lines_of_a_subtitle_do_not_hold_is_halved(self) -> None:
        assert [len(segment.text) for segment in segments("各位旅客您好" * 7, (0, 6))] == [21, 21]

    def test_no_speech_was_found(self) -> None:
        assert timed("So.") == [(0.0, 30.0, "So.")]

    def test_mere_punctuation_is_none(self) -> None:
        assert [segment.text for segment in segments("... So it is. ?! No. \u2026", (0, 3))] == [
            "... So it is. ?!",
            "No. \u2026",
        ]

    def test_times_are_inside_the_recording(self) -> None:
        (segment,) = segments("So.", (29.0, 29.984), duration=29.98)
        assert segment.end == 29.98


class TestSegmentsWithWords:
    def test_last_from_their_first_word_to_their_last(self) -> None:
        words = (Word("So", 1.2, 1.5), Word("it", 1.5, 1.6), Word("is", 1.6, 2.0), Word("No", 4.1, 4.4))
        one, two = segments_of(replace(part("So it is. No!", (1.0, 5.0)), words=words), 10.0, 0.0)
        assert (one.text, one.start, one.end, one.words) == ("So it is.", 1.2, 2.0, words[:3])
        assert (two.text, two.start, two.end, two.words) == ("No!", 4.1, 4.4, words[3:])

    def test_are_cut_where_they_would_be_shown_for_too_long(self) -> None:
        words = (Word("So", 1.0, 1.5), Word("it", 1.5, 2.0), Word("is", 12.0, 12.5))
        cut = segments_of(replace(part("So it is.", (1.0, 13.0)), words=words), 20.0, 0.0)
        assert [(segment.text, segment.start, segment.end) for segment in cut] == [
            ("So", 1.0, 1.5),
            ("it", 1.5, 2.0),
            ("is.", 12.0, 12.5),
        ]

    def test_of_a_script_without_blanks(self) -> None:
        words = tuple(Word(char, at / 4, (at + 1) / 4) for at, char in enumerate("你好世界"))
        cut = segments_of(replace(part("你好。世界！", (0.0, 2.0)), words=words), 2.0, 0.0)
        assert [(segment.text, segment.start, segment.end) for segment in cut] == [
            ("你好。", 0.0, 0.5),
            ("世界！", 0.5, 1.0),
        ]


TEXTS = st.lists(
    st.text(max_size=20)
    | st.sampled_from(["word ", "So it is. ", "你好，", "好。", "very, ", "안녕? ", "สวัสดี", "a" * 100]),
    max_size=30,
).map("".join)
GAPS = st.lists(st.tuples(st.floats(0.2, 3), st.floats(0.1, 9)), min_size=1, max_size=8)


@given(TEXTS, GAPS)
def test_any_segments(text: str, gaps: list[tuple[float, float]]) -> None:
    speech, now = [], 0.0
    for pause, length in gaps:
        speech.append((now + pause, now + pause + length))
        now += pause + length
    cut = segments(text, *speech, duration=now)
    assert "".join("".join(segment.text.split()) for segment in cut) == "".join(text.split())
    for segment in cut:
        assert 0 <= segment.start <= segment.end <= now + 0.001
        assert segment.text == segment.text.strip() != ""
        assert segment.end - segment.start <= LONGEST_S + 0.002 or " " not in segment.text
    for one, following in pairwise(cut):
        assert one.end <= following.start


STEPS = st.lists(st.tuples(st.floats(0, 3), st.floats(0, 9)), min_size=1, max_size=40)


@given(
    st.lists(
        st.sampled_from(["word", "So,", "is.", "\u4f60\u597d\uff0c", "\u597d\u3002", "?!", "\u2014", "a" * 50]),
        max_size=40,
    ),
    STEPS,
)
def test_any_segments_with_words(pieces: list[str], steps: list[tuple[float, float]]) -> None:
    text = " ".join(pieces)
    words, now = [], 0.0
    for piece, (pause, length) in zip(pieces, cycle(steps), strict=False):
        if letters := "".join(filter(str.isalnum, piece)):
            words.append(Word(letters, now + pause, now + pause + length))
            now += pause + length
    spoken = replace(part(text, (0.0, now), end=now), words=tuple(words))
    cut = segments_of(spoken, now, 0.0)
    assert "".join("".join(segment.text.split()) for segment in cut) == "".join(pieces)
    assert [word for segment in cut for word in segment.words] == words
    for segment in cut:
        assert 0 <= segment.start <= segment.end <= now
    for one, following in pairwise(cut):
        assert one.end <= following.start
