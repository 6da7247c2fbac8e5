"""Times of words in a recording, with an aligner that says what it is told to."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from deployments.audio.pauses import KEPT_S
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.exceptions import EngineFailure, ServiceError, ServiceUnavailable, UnalignableLanguage
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.transcript import Transcript
from deployments.transcription.words import Word, WordTimes
from tests.listening import Loudness, blocks_of, recorded, said
from tests.unit.test_transcriber import FOUR_PIECES, SPEECH, FakeRecognizer, answer, number_of

REQUIRED, WELCOME, UNUSED = WordTimes.REQUIRED, WordTimes.WELCOME, WordTimes.UNUSED


class FakeAligner:
    """Shares the waveform out among the letters and digits between blanks, or raises what `say` returns."""

    def __init__(self, say: Callable[[str, str], Exception | None] = lambda text, language: None):
        self.say = say
        self.asked: list[tuple[Waveform, str, str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.cancelled = 0

    async def align(self, waveform: Waveform, text: str, language: str) -> tuple[Word, ...]:
        self.asked.append((waveform, text, language))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        error = self.say(text, language)
        if error is not None:
            raise error
        words = [letters for word in text.split() if (letters := "".join(filter(str.isalnum, word)))]
        each = len(waveform) / SAMPLE_RATE / len(words)
        return tuple(Word(word, place * each, (place + 1) * each) for place, word in enumerate(words))


def transcriber_of(recognizer: FakeRecognizer, aligner: FakeAligner | None) -> Transcriber:
    return Transcriber(recognizer, max_utterance_s=30, window=4, aligner=aligner, listen=Loudness)


async def transcribe(
    recognizer: FakeRecognizer,
    aligner: FakeAligner | None,
    waveform: Waveform = FOUR_PIECES,
    words: WordTimes = REQUIRED,
) -> Transcript:
    transcriber = transcriber_of(recognizer, aligner)
    return await transcriber.transcribe(blocks_of(waveform), DecodingOptions(), SPEECH, words=words)


def saying(text: str, language: str | None = "English") -> FakeRecognizer:
    return FakeRecognizer(lambda *_: answer(text, language=language))


class TestTimes:
    async def test_count_from_the_start_of_the_recording(self) -> None:
        aligner = FakeAligner()
        transcript = await transcribe(FakeRecognizer(), aligner)
        assert [word.text for word in transcript.words] == ["Number", "0", "Number", "1", "Number", "2", "Number", "3"]
        for (waveform, _, _), word in zip(aligner.asked, transcript.words[::2], strict=True):
            begin = round(word.start * SAMPLE_RATE)
            assert np.array_equal(FOUR_PIECES[begin : begin + len(waveform)], waveform)
        for before, after in pairwise(transcript.words):
            assert before.start <= before.end <= after.start
        assert transcript.words[-1].end <= transcript.duration

    async def test_segments_last_from_their_first_word_to_their_last(self) -> None:
        transcript = await transcribe(saying("Turn on the light. Now!"), FakeAligner(), said(5))
        assert [(segment.start, segment.end, segment.text) for segment in transcript.segments] == [
            (0.0, 4.0, "Turn on the light."),
            (4.0, 5.0, "Now!"),
        ]
        assert [len(segment.words) for segment in transcript.segments] == [4, 1]

    async def test_never_leave_the_recording(self) -> None:
        class Late(FakeAligner):
            async def align(self, waveform: Waveform, text: str, language: str) -> tuple[Word, ...]:
                return (Word("Five", 1.9, 2.08),)

        waveform = said(2)[:-5]
        (word,) = (await transcribe(saying("Five."), Late(), waveform)).words
        assert word.end == len(waveform) / SAMPLE_RATE

    async def test_words_are_spelled_as_in_the_text(self) -> None:
        transcript = await transcribe(
            saying("At 10.5, twenty-five \u201cdon\u2019ts\u201d \u2013 R&D?"), FakeAligner(), said(5)
        )
        assert [word.text for word in transcript.words] == ["At", "10.5", "twenty-five", "don\u2019ts", "R&D"]

    async def test_halves_of_a_piece_are_aligned_with_their_own_sound(self) -> None:
        waveform = recorded(0, 4.5, 0.5, 5)

        def say(number: int, _: object) -> object:
            return answer("Forever.", finish_reason="length") if number == 0 else answer(f"Half {number}.")

        aligner = FakeAligner()
        transcript = await transcribe(FakeRecognizer(say), aligner, waveform)  # type: ignore[arg-type]
        assert [text for _, text, _ in aligner.asked] == ["Half 1.", "Half 2."]
        assert np.array_equal(np.concatenate([sound for sound, _, _ in aligner.asked]), waveform)
        first, last = transcript.words[0], transcript.words[-1]
        assert (first.start, last.end) == (0.0, 10.0)
        assert transcript.words[2].start == transcript.words[1].end == pytest.approx(4.75, abs=0.1)

    async def test_no_word_is_said_in_a_long_pause(self) -> None:
        waveform = recorded(0, 2, 2, 2)
        aligner = FakeAligner()
        transcript = await transcribe(saying("One two three four."), aligner, waveform)
        ((heard, _, _),) = aligner.asked
        assert len(heard) / SAMPLE_RATE == pytest.approx(6 - 2 + 2 * KEPT_S, abs=0.1)
        two, three = transcript.words[1:3]
        assert two.end == pytest.approx(2 + KEPT_S, abs=0.1)
        assert three.start == pytest.approx(4 - KEPT_S, abs=0.1)

    async def test_silence_and_pieces_without_text_need_no_aligner(self) -> None:
        aligner = FakeAligner()
        assert (await transcribe(saying("", None), aligner, said(2))).words == ()
        assert aligner.asked == []

    async def test_what_leaves_full_scale_is_divided_by_its_peak(self) -> None:
        aligner = FakeAligner()
        await transcribe(saying("Five."), aligner, said(2) * 40)
        assert np.abs(aligner.asked[0][0]).max() == 1


class TestWhenTheAlignerIsAsked:
    async def test_as_soon_as_a_piece_has_its_text(self) -> None:
        recognizer, aligner = FakeRecognizer(), FakeAligner()
        recognizer.may_speak[0] = asyncio.Event()
        running = asyncio.create_task(transcribe(recognizer, aligner))
        async with asyncio.timeout(5):
            while len(aligner.asked) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        recognizer.may_speak[0].set()
        assert len((await running).words) == 8

    @pytest.mark.parametrize("aligner", [FakeAligner(), None])
    async def test_not_where_nobody_wants_to_know(self, aligner: FakeAligner | None) -> None:
        transcript = await transcribe(FakeRecognizer(), aligner, words=UNUSED)
        assert transcript.words == ()
        assert transcript.segments
        assert aligner is None or aligner.asked == []

    async def test_again_where_it_has_no_place_for_a_piece(self) -> None:
        refusals = [ServiceUnavailable("Full.", retry_after_s=0) for _ in range(3)]
        recognizer = FakeRecognizer()
        aligner = FakeAligner(lambda text, _: refusals.pop() if "2" in text and refusals else None)
        assert len((await transcribe(recognizer, aligner)).words) == 8
        assert (len(recognizer.heard), len(aligner.asked)) == (4, 7), "what was heard stands"

    async def test_not_for_streams(self) -> None:
        aligner = FakeAligner()
        items = transcriber_of(FakeRecognizer(), aligner).stream(blocks_of(FOUR_PIECES), DecodingOptions(), SPEECH)
        *_, transcript = [item async for item in items]
        assert isinstance(transcript, Transcript)
        assert aligner.asked == []

    async def test_cancelling_cancels_it(self) -> None:
        aligner = FakeAligner()
        aligner.may_answer.clear()
        running = asyncio.create_task(transcribe(FakeRecognizer(), aligner))
        async with asyncio.timeout(5):
            while len(aligner.asked) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert aligner.cancelled == 4


class TestWhatGoesWrong:
    async def test_a_language_without_words_is_told_once(self) -> None:
        aligner = FakeAligner()
        transcript = await transcribe(
            FakeRecognizer(lambda *_: answer("Hyv\u00e4\u00e4.", language="Finnish")), aligner
        )
        assert transcript.words == ()
        assert len(transcript.segments) == 4
        (warning,) = transcript.warnings
        assert warning.code == "word_times_unavailable"
        assert "Finnish" in warning.message
        assert aligner.asked == [], "it is known here already"

    async def test_the_other_languages_have_their_words(self) -> None:
        def say(_: int, heard: object) -> object:
            return answer("So.", language="Finnish" if number_of(heard) == 1 else "English")  # type: ignore[arg-type]

        transcript = await transcribe(FakeRecognizer(say), FakeAligner())  # type: ignore[arg-type]
        assert len(transcript.words) == 3
        assert len(transcript.segments) == 4
        assert len(transcript.warnings) == 1

    async def test_nor_is_there_a_warning_where_words_were_not_asked_for(self) -> None:
        transcript = await transcribe(saying("Hyv\u00e4\u00e4.", "Finnish"), FakeAligner(), words=WELCOME)
        assert transcript.warnings == ()
        assert transcript == await transcribe(saying("Hyv\u00e4\u00e4.", "Finnish"), None, words=UNUSED)

    async def test_text_without_a_language(self) -> None:
        transcript = await transcribe(saying("Hm.", None), FakeAligner(), said(2))
        assert [warning.code for warning in transcript.warnings] == ["word_times_unavailable"]
        assert transcript.text == "Hm."

    async def test_what_the_aligner_does_not_know_is_as_if_known_here(self) -> None:
        def no_package(*_: str) -> ServiceError:
            return UnalignableLanguage("There are no word times in English: its package is missing.")

        (warning,) = (await transcribe(FakeRecognizer(), FakeAligner(no_package))).warnings
        assert warning.message == "There are no word times in English: its package is missing."

    @pytest.mark.parametrize("error", [EngineFailure("No."), RuntimeError("CUDA error")])
    async def test_a_failure_fails_who_asked_for_words(self, error: Exception) -> None:
        with pytest.raises(type(error), match=str(error)):
            await transcribe(FakeRecognizer(), FakeAligner(lambda *_: error))

    @pytest.mark.parametrize("error", [EngineFailure("No."), RuntimeError("CUDA error")])
    async def test_and_nobody_else(self, error: Exception) -> None:
        def say(text: str, _: str) -> Exception | None:
            return error if text != "Number 2." else None

        transcript = await transcribe(FakeRecognizer(), FakeAligner(say), words=WELCOME)
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."
        assert [word.text for word in transcript.words] == ["Number", "2"]
        (warning,) = transcript.warnings
        assert (warning.code, "estimates" in warning.message) == ("word_times_unavailable", True)

    async def test_having_no_time_now_is_no_failure(self, caplog: pytest.LogCaptureFixture) -> None:
        busy = FakeAligner(lambda *_: ServiceUnavailable("Full."))
        (warning,) = (await transcribe(FakeRecognizer(), busy, words=WELCOME)).warnings
        assert (warning.code, "no time now" in warning.message) == ("word_times_unavailable", True)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 4
