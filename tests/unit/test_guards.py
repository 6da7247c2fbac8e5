"""A recognizer that loops, echoes, never ends: what is believed of its answers, and what is told about it."""

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.speech import Span
from deployments.transcription.guards import has_loop, is_echo, without_circle, without_loops
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Transcription, Utterance
from tests.listening import blocks_of, recorded, said
from tests.unit.test_transcriber import (
    FOUR_PIECES,
    SPEECH,
    FakeRecognizer,
    answer,
    number_of,
    stream,
    transcribe,
    transcriber_of,
)

LOOP = "Turn " + "on and " * 30 + "on"
CIRCLE = "So. " + "The plane leaves at one. " * 5 + "The plane"
"""Too few times for a loop, were it not for the engine, which knows that there was no time to say it."""


class TestLoops:
    @pytest.mark.parametrize(
        ("looping", "once"),
        [
            ("像" * 119, "像"),
            ("我" + "很好，" * 25 + "谢谢。", "我很好，谢谢。"),
            (LOOP, "Turn on and"),
            ("ha " * 40, "ha"),
            ("a" * 50 + " b" * 50 + " end", "a b end"),
            ("I said " + "that I said this. " * 21 + "Yes.", "I said that I said this. Yes."),
        ],
    )
    def test_are_said_once(self, looping: str, once: str) -> None:
        assert has_loop(looping)
        assert without_loops(looping) == once

    @pytest.mark.parametrize("text", ["", "no", "ha " * 19, "nineteen " * 10, "The 100000000 and the 10.", "很好" * 19])
    def test_less_than_a_loop_is_left_alone(self, text: str) -> None:
        assert not has_loop(text)
        assert without_loops(text) == text

    def test_are_looked_for_quickly(self) -> None:
        text = " ".join(str(number) for number in range(2000))
        started = time.perf_counter()
        assert not has_loop(text)
        assert time.perf_counter() - started < 0.5

    async def test_are_asked_again_with_a_penalty(self) -> None:
        def say(_: int, utterance: Utterance) -> Transcription:
            return answer("Turn on.") if utterance.options.repetition_penalty > 1 else answer(LOOP)

        recognizer = FakeRecognizer(say)
        transcript = await transcribe(recognizer, said(3))
        assert transcript.text == "Turn on."
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert [heard.options.repetition_penalty for heard in recognizer.heard] == [1.0, 1.15]

    async def test_that_come_again_are_said_once(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer(LOOP, finish_reason="length"))
        transcript = await transcribe(recognizer, said(3))
        assert transcript.text == "Turn on and"
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert len(recognizer.heard) == 2

    async def test_of_one_piece_leave_the_others_alone(self) -> None:
        transcript = await transcribe(FakeRecognizer(self.say_with_one_loop), FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Again. Number 3."
        assert "From 48.7 s to 65.3 s." in str(transcript.warnings[0])

    async def test_are_not_told_in_a_stream_for_ever(self) -> None:
        _, transcript = await stream(FakeRecognizer(lambda *_: answer(LOOP + " and on" * 200)), said(3))
        assert 0 < len(transcript.text) < 300
        assert [warning.code for warning in transcript.warnings] == ["repetition"]

    async def test_that_were_not_told_yet_are_asked_again(self) -> None:
        recognizer = FakeRecognizer(self.say_with_one_loop)
        recognizer.may_speak[0] = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, recognizer.may_speak[0].set)
        _, transcript = await stream(recognizer, FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Again. Number 3."

    async def test_that_come_again_under_the_callers_own_penalty_are_said_once(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer(LOOP))
        transcript = await transcribe(recognizer, said(3), DecodingOptions(repetition_penalty=1.05))
        assert transcript.text == "Turn on and"
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert [heard.options.repetition_penalty for heard in recognizer.heard] == [1.05]

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_are_let_where_the_service_does_not_look_for_them(self, streamed: bool) -> None:
        recognizer, options = FakeRecognizer(lambda *_: answer(LOOP)), DecodingOptions(loop_detection=False)
        if streamed:
            _, transcript = await stream(recognizer, said(3), options)
        else:
            transcript = await transcribe(recognizer, said(3), options)
        assert (transcript.text, transcript.warnings, len(recognizer.heard)) == (LOOP, (), 1)

    @staticmethod
    def say_with_one_loop(_: int, heard: Utterance) -> Transcription:
        if number_of(heard) != 2:
            return answer(f"Number {number_of(heard)}.")
        return answer("Again." if heard.options.repetition_penalty > 1 else LOOP)


class TestStoppedAnswers:
    """The engine stops what goes round in circles, and says so."""

    async def test_are_asked_again_with_a_penalty(self) -> None:
        recognizer = FakeRecognizer(
            lambda number, _: answer(CIRCLE, finish_reason="repetition") if number == 0 else answer("So. It leaves.")
        )
        transcript = await transcribe(recognizer, said(3))
        assert transcript.text == "So. It leaves."
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert [heard.options.repetition_penalty for heard in recognizer.heard] == [1.0, 1.15]

    async def test_that_are_stopped_again_are_said_once(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer(CIRCLE, finish_reason="repetition"))
        transcript = await transcribe(recognizer, said(3))
        assert transcript.text == "So. The plane leaves at one."
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert len(recognizer.heard) == 2

    async def test_what_a_stream_told_of_them_stands(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer(CIRCLE, finish_reason="repetition"))
        deltas, transcript = await stream(recognizer, said(3))
        assert "".join(delta.text for delta in deltas) == transcript.text == CIRCLE
        assert [warning.code for warning in transcript.warnings] == ["repetition"]
        assert len(recognizer.heard) == 1

    async def test_that_were_not_told_yet_are_asked_again(self) -> None:
        def say(_: int, heard: Utterance) -> Transcription:
            if number_of(heard) == 2 and heard.options.repetition_penalty == 1:
                return answer(CIRCLE, finish_reason="repetition")
            return answer(f"Number {number_of(heard)}.")

        recognizer = FakeRecognizer(say)
        recognizer.may_speak[0] = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, recognizer.may_speak[0].set)
        _, transcript = await stream(recognizer, FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."

    @pytest.mark.parametrize(
        ("stopped", "once"),
        [
            (CIRCLE, "So. The plane leaves at one."),
            ("call 0000 " * 6 + "call 00", "call 0000"),
            ("我" + "很好，" * 9, "我很好，"),
            ("la " * 30, "la"),
            ("It ends. Here.", "It ends. Here."),
            ("", ""),
        ],
    )
    def test_are_said_once(self, stopped: str, once: str) -> None:
        assert without_circle(stopped) == once

    @given(
        before=st.text("abcd", max_size=30),
        pattern=st.text("wxyz", min_size=1, max_size=40),
        times=st.integers(5, 30),
        rest=st.integers(0, 39),
    )
    def test_nothing_but_the_repetitions_is_lost(self, before: str, pattern: str, times: int, rest: int) -> None:
        shortest = next(n for n in range(1, len(pattern) + 1) if pattern[:n] * (len(pattern) // n) == pattern)
        assert without_circle(before + pattern * times + pattern[:rest]) == before + pattern[:shortest]

    def test_long_ones_are_mended_quickly(self) -> None:
        started = time.perf_counter()
        assert len(without_circle("word " + "".join(map(str, range(2000))) * 5)) < 50_000
        assert time.perf_counter() - started < 0.5


class TestAnswersWithoutAnEnd:
    async def test_are_cut_in_the_longest_pause(self) -> None:
        def say(number: int, _: Utterance) -> Transcription:
            return answer("It goes on and", finish_reason="length") if number == 0 else answer(f"Half {number}.")

        recognizer = FakeRecognizer(say)
        transcript = await transcribe(recognizer, recorded(0, 4, 1, 4))
        assert transcript.text == "Half 1. Half 2."
        assert [round(heard.duration, 1) for heard in recognizer.heard] == [9.0, 4.5, 4.5]
        assert [(round(segment.start), round(segment.end)) for segment in transcript.segments] == [(0, 4), (5, 9)]
        assert [warning.code for warning in transcript.warnings] == ["utterance_cut"]

    async def test_that_have_none_in_halves_either_are_told(self) -> None:
        recognizer = FakeRecognizer(lambda number, _: answer(f"Part {number}", finish_reason="length"))
        transcript = await transcribe(recognizer, recorded(0, 4, 1, 4))
        assert transcript.text == "Part 1 Part 2"
        cut, exhausted = transcript.warnings
        assert (cut.code, exhausted.code) == ("utterance_cut", "token_budget_exhausted")
        assert exhausted.span == cut.span == Span(0.0, 9.0)
        assert len(recognizer.heard) == 3

    async def test_halves_are_checked_as_the_whole_was(self) -> None:
        def say(number: int, heard: Utterance) -> Transcription:
            if number == 0:
                return answer("It goes on and", finish_reason="length")
            if heard.options.repetition_penalty > 1:
                return answer("Again.")
            return answer(LOOP, finish_reason="repetition") if number == 1 else answer("Half.")

        guarded: list[str] = []
        transcriber = transcriber_of(FakeRecognizer(say), guarded=guarded)
        transcript = await transcriber.transcribe(blocks_of(recorded(0, 4, 1, 4)), DecodingOptions(), SPEECH)
        assert transcript.text == "Again. Half."
        assert guarded == [warning.code for warning in transcript.warnings] == ["utterance_cut", "repetition"]

    async def test_a_very_short_piece_is_not_cut(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("On and on", finish_reason="length"))
        transcript = await transcribe(recognizer, said(0.9))
        assert (transcript.text, len(recognizer.heard)) == ("On and on", 1)
        assert [warning.code for warning in transcript.warnings] == ["token_budget_exhausted"]

    async def test_what_was_told_stands(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("It goes on and", finish_reason="length"))
        _, transcript = await stream(recognizer, recorded(0, 4, 1, 4))
        assert transcript.text == "It goes on and"
        assert [warning.code for warning in transcript.warnings] == ["token_budget_exhausted"]


class TestSpeechWithoutText:
    @pytest.mark.parametrize("streamed", [False, True])
    async def test_is_told(self, streamed: bool) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("", language=None))
        if streamed:
            _, transcript = await stream(recognizer, recorded(1, 3, 0.5))
        else:
            transcript = await transcribe(recognizer, recorded(1, 3, 0.5))
        (warning,) = transcript.warnings
        assert (transcript.text, warning.code) == ("", "speech_without_text")
        assert len(recognizer.heard) == 1

    async def test_a_cough_is_none(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("", language=None))
        assert (await transcribe(recognizer, recorded(1, 1.5, 0.5))).warnings == ()

    async def test_silence_is_none(self) -> None:
        assert (await transcribe(FakeRecognizer(), recorded(20))).warnings == ()


class TestEchoes:
    OPTIONS = DecodingOptions(prompt="Names: Ada Lovelace, Grace Hopper.")

    @staticmethod
    def recognizer(echo: str, plain: str) -> FakeRecognizer:
        say: Callable[[int, Utterance], Transcription] = lambda _, heard: answer(  # noqa: E731
            echo if heard.options.prompt else plain
        )
        return FakeRecognizer(say)

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_of_the_prompt_on_silence_are_dropped(self, streamed: bool) -> None:
        recognizer = self.recognizer("Ada Lovelace, Grace Hopper.", "")
        if streamed:
            deltas, transcript = await stream(recognizer, said(3), self.OPTIONS)
            assert deltas == []
        else:
            transcript = await transcribe(recognizer, said(3), self.OPTIONS)
        assert (transcript.text, transcript.segments) == ("", ())
        assert [warning.code for warning in transcript.warnings] == ["prompt_echo", "speech_without_text"]

    async def test_who_says_the_name_is_heard(self) -> None:
        transcript = await transcribe(self.recognizer("Ada Lovelace.", "Aida Loveless."), said(3), self.OPTIONS)
        assert transcript.text == "Ada Lovelace."
        assert transcript.warnings == ()

    async def test_what_is_heard_without_the_prompt_replaces_it(self) -> None:
        transcript = await transcribe(self.recognizer("Grace Hopper", "Hm."), said(3), self.OPTIONS)
        assert transcript.text == "Hm."
        assert [warning.code for warning in transcript.warnings] == ["prompt_echo"]

    async def test_a_text_that_begins_like_the_prompt_is_told(self) -> None:
        recognizer = self.recognizer("Ada Lovelace, Grace Hopper and I.", "")
        deltas, transcript = await stream(recognizer, said(3), self.OPTIONS)
        assert [delta.text for delta in deltas] == ["Ada", " Lovelace,", " Grace", " Hopper", " and", " I."]
        assert transcript.warnings == ()
        assert len(recognizer.heard) == 1

    @pytest.mark.parametrize(
        ("text", "prompt", "echoes"),
        [
            ("Ada Lovelace", "ada lovelace, grace hopper", True),
            ("张伟和王芳", "名字：张伟和王芳。", True),
            ("Yes", "yesterday", False),
            ("Ada Byron", "ada lovelace", False),
            ("Hello there", "", False),
        ],
    )
    def test_are_parts_of_the_prompt(self, text: str, prompt: str, echoes: bool) -> None:
        assert is_echo(text, prompt) is echoes


class TestWhatWasDone:
    """Each thing that a guard does is told to whoever counts, and logged without a word of the text."""

    @pytest.mark.parametrize(
        ("finish_reason", "text", "code"),
        [
            ("repetition", CIRCLE, "repetition"),
            ("length", "It goes on", "utterance_cut"),
            ("stop", "Ada Lovelace", "prompt_echo"),
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True])
    async def test_is_counted_and_logged(
        self, finish_reason: str, text: str, code: str, streamed: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        recognizer = FakeRecognizer(
            lambda number, _: answer(text, finish_reason=finish_reason) if number == 0 else answer("Secret.")
        )
        guarded: list[str] = []
        transcriber = transcriber_of(recognizer, guarded=guarded)
        options = DecodingOptions(prompt="Ada Lovelace")
        with caplog.at_level(logging.WARNING, "ray.serve.asr"):
            if streamed:
                items = [item async for item in transcriber.stream(blocks_of(said(3)), options, SPEECH)]
                warnings = items[-1].warnings  # type: ignore[union-attr]
            else:
                warnings = (await transcriber.transcribe(blocks_of(said(3)), options, SPEECH)).warnings
        if streamed and finish_reason == "length":
            code = "token_budget_exhausted"  # it was told already and cannot be cut
        assert guarded == [warning.code for warning in warnings] == [code]
        (record,) = caplog.records
        assert code in record.getMessage()
        assert not any(word in record.getMessage() for word in (text, "Secret"))

    async def test_is_nothing_where_nothing_is_wrong(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded: list[str] = []
        transcriber = transcriber_of(FakeRecognizer(), guarded=guarded)
        await transcriber.transcribe(blocks_of(FOUR_PIECES), DecodingOptions(prompt="Ada"), SPEECH)
        assert guarded == []
        assert caplog.records == []


class TestNoLanguage:
    async def test_where_the_model_hears_nobody_nothing_was_said(self) -> None:
        def say(_: int, heard: Utterance) -> Transcription:
            if number_of(heard) == 1:
                return answer("", language=None)
            return answer(f"Number {number_of(heard)}.")

        transcript = await transcribe(FakeRecognizer(say), FOUR_PIECES)
        assert transcript.text == "Number 0. Number 2. Number 3."
        assert transcript.language == "English"
        assert all(segment.text for segment in transcript.segments)
        assert [warning.code for warning in transcript.warnings] == ["speech_without_text"]
