"""From a recording to its transcript, with a recognizer that says what it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import Waveform
from deployments.exceptions import EngineFailure, InvalidAudio, ReplicaLost, ServiceUnavailable
from deployments.transcription.options import MAX_SEED, DecodingOptions
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.transcript import Transcript
from deployments.transcription.utterance import Delta, Token, Transcription, Utterance
from tests.listening import Loudness, blocks_of, recorded, said, silence

SPEECH = SpeechOptions()
TOKENS = (Token(b"Five.", -1.0), Token(b" Six.", -1.0))
FOUR_PIECES = recorded(1, 20, 5, 18, 5, 16, 5, 14, 1)


def number_of(utterance: Utterance) -> int:
    """Which of the four pieces this is, from 0."""
    return round((20.6 - utterance.duration) / 2)


def answer(text: str = "Five.", **changes: Any) -> Transcription:
    values: dict[str, Any] = {
        "text": text,
        "language": "English",
        "finish_reason": "stop",
        "audio_tokens": 26,
        "text_tokens": 15,
        "output_tokens": 4,
        "avg_logprob": -0.25,
    }
    return Transcription(**(values | changes))


class FakeRecognizer:
    """Answers each utterance with what `say` returns for it, or raises it. The first one that it is asked is number 0.

    Where `may_speak` has an event of that number, it waits for that first. In a stream the answer comes word by word.
    """

    def __init__(self, say: Callable[[int, Utterance], Transcription | Exception] | None = None):
        self.say = say or (lambda _, utterance: answer(f"Number {number_of(utterance)}."))
        self.heard: list[Utterance] = []
        self.running = 0
        self.most_running = 0
        self.cancelled = 0
        self.may_speak: dict[int, asyncio.Event] = {}

    async def transcribe(self, utterance: Utterance) -> Transcription:
        number = len(self.heard)
        self.heard.append(utterance)
        return await self._answer(number, utterance)

    async def stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription]:
        number = len(self.heard)
        self.heard.append(utterance)
        answered = await self._answer(number, utterance)
        words = answered.text.split(" ")
        for place, word in enumerate(words):
            await asyncio.sleep(0)
            yield Delta(word if place == 0 else f" {word}", answered.tokens[place : place + 1])
        yield answered

    async def _answer(self, number: int, utterance: Utterance) -> Transcription:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if number in self.may_speak:
                await self.may_speak[number].wait()
            else:
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        said = self.say(number, utterance)
        if isinstance(said, Exception):
            raise said
        return said


def transcriber_of(recognizer: FakeRecognizer, *, window: int = 4, guarded: list[str] | None = None) -> Transcriber:
    """What its guards do is added to `guarded`."""
    on_guard = guarded.append if guarded is not None else lambda _: None
    return Transcriber(recognizer, max_utterance_s=30, window=window, listen=Loudness, on_guard=on_guard)


async def transcribe(
    recognizer: FakeRecognizer, waveform: Waveform, options: DecodingOptions | None = None, *, window: int = 4
) -> Transcript:
    recording = blocks_of(waveform)
    return await transcriber_of(recognizer, window=window).transcribe(recording, options or DecodingOptions(), SPEECH)


async def stream(
    recognizer: FakeRecognizer, waveform: Waveform, options: DecodingOptions | None = None
) -> tuple[list[Delta], Transcript]:
    items = transcriber_of(recognizer).stream(blocks_of(waveform), options or DecodingOptions(), SPEECH)
    deltas: list[Delta] = []
    async for item in items:
        if isinstance(item, Transcript):
            assert "".join(delta.text for delta in deltas) == item.text
            assert tuple(token for delta in deltas for token in delta.tokens) == item.tokens
            return deltas, item
        deltas.append(item)
    raise AssertionError("no transcript")


class TestOneUtterance:
    async def test_the_options_reach_the_recognizer(self) -> None:
        recognizer = FakeRecognizer()
        options = DecodingOptions(language="English", prompt="Anna", temperature=0.5, max_new_tokens=7)
        await transcribe(recognizer, said(2), options)
        (utterance,) = recognizer.heard
        assert utterance.options == options
        assert utterance.duration == 2.0

    async def test_it_is_sent_as_it_is(self) -> None:
        recognizer = FakeRecognizer()
        waveform = recorded(2, 20, 2.5, 1, 2)
        await transcribe(recognizer, waveform)
        assert np.array_equal(recognizer.heard[0].waveform, waveform)

    async def test_what_leaves_full_scale_is_divided_by_its_peak(self) -> None:
        recognizer = FakeRecognizer()
        await transcribe(recognizer, said(2) * 40)
        assert np.abs(recognizer.heard[0].waveform).max() == 1

    async def test_the_segment_is_where_the_speech_is(self) -> None:
        transcript = await transcribe(FakeRecognizer(lambda *_: answer()), recorded(1, 1.5, 1))
        assert (transcript.text, transcript.language, transcript.duration) == ("Five.", "English", 3.5)
        (segment,) = transcript.segments
        assert (segment.start, segment.end) == (pytest.approx(1, abs=0.04), pytest.approx(2.5, abs=0.04))
        assert (segment.text, segment.avg_logprob) == ("Five.", -0.25)
        assert (transcript.usage.seconds, transcript.usage.audio_tokens) == (3.5, 26)
        assert transcript.warnings == ()

    async def test_silence_never_reaches_the_model(self) -> None:
        recognizer = FakeRecognizer()
        transcript = await transcribe(recognizer, silence(2))
        assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())
        assert (transcript.duration, transcript.usage.seconds, transcript.usage.output_tokens) == (2.0, 2.0, 0)
        assert recognizer.heard == []
        assert await stream(recognizer, silence(2)) == ([], transcript)

    async def test_silence_by_a_high_threshold_is_told(self) -> None:
        for threshold, codes in [(0.4, []), (0.5, []), (1.0, ["no_speech_found"])]:
            speech = SpeechOptions(threshold=threshold)
            transcript = await transcriber_of(FakeRecognizer()).transcribe(
                blocks_of(silence(2)), DecodingOptions(language="English"), speech
            )
            assert (transcript.text, transcript.language) == ("", "English")
            assert [warning.code for warning in transcript.warnings] == codes

    async def test_nothing_understood_is_no_segment(self) -> None:
        transcript = await transcribe(FakeRecognizer(lambda *_: answer("", language=None)), said(2))
        assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())

    async def test_a_small_budget_of_the_caller_is_told_and_respected(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer(finish_reason="length"))
        transcript = await transcribe(recognizer, said(2), DecodingOptions(max_new_tokens=4))
        (warning,) = transcript.warnings
        assert warning.code == "token_budget_exhausted"
        assert "max_new_tokens" in warning.message
        assert len(recognizer.heard) == 1

    async def test_tokens_are_passed_on(self) -> None:
        tokens = (Token(b"Five", -0.5), Token(b".", -0.25))
        transcript = await transcribe(FakeRecognizer(lambda *_: answer(tokens=tokens)), said(2))
        assert transcript.tokens == tokens

    async def test_a_stream_ends_with_what_transcribe_answers(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("Five. Six.", tokens=TOKENS))
        deltas, last = await stream(recognizer, said(2))
        assert [delta.text for delta in deltas] == ["Five.", " Six."]
        assert last == await transcribe(recognizer, said(2))


class TestLongRecordings:
    async def test_pieces_are_joined_in_order(self) -> None:
        recognizer = FakeRecognizer()
        transcript = await transcribe(recognizer, FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."
        assert transcript.duration == 85.0
        starts = [round(segment.start) for segment in transcript.segments if segment.text == "Number"]
        assert starts == [1, 26, 49, 70]
        assert (transcript.usage.audio_tokens, transcript.usage.output_tokens) == (4 * 26, 4 * 4)

    async def test_every_piece_has_random_numbers_of_its_own(self) -> None:
        for seed, seeds in [(7, [7, 8, 9, 10]), (MAX_SEED, [MAX_SEED, 0, 1, 2]), (None, [None] * 4)]:
            recognizer = FakeRecognizer()
            await transcribe(recognizer, FOUR_PIECES, DecodingOptions(seed=seed), window=1)
            assert [utterance.options.seed for utterance in recognizer.heard] == seeds

    async def test_in_order_also_where_the_first_is_the_last_to_end(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak[0] = asyncio.Event()
        running = asyncio.create_task(transcribe(recognizer, FOUR_PIECES))
        await asyncio.sleep(0.1)
        recognizer.may_speak[0].set()
        assert (await running).text == "Number 0. Number 1. Number 2. Number 3."

    @pytest.mark.parametrize("window", [1, 2, 3])
    async def test_no_more_at_once_than_the_window(self, window: int) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak[0] = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, recognizer.may_speak[0].set)
        recognizer.may_speak |= dict.fromkeys(range(1, window), recognizer.may_speak[0])
        await transcribe(recognizer, FOUR_PIECES, window=window)
        assert recognizer.most_running == window

    async def test_no_more_is_read_than_the_window_needs(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak = {number: asyncio.Event() for number in range(20)}
        drawn = 0

        async def recording() -> AsyncIterator[Waveform]:
            nonlocal drawn
            for _ in range(20):
                drawn += 1
                yield recorded(5, 25)

        items = transcriber_of(recognizer, window=2).transcribe(recording(), DecodingOptions(), SPEECH)
        running = asyncio.create_task(items)
        async with asyncio.timeout(30):  # on a busy machine it takes a while until the window is full
            while len(recognizer.heard) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(recognizer.heard) == 2
        assert drawn <= 5
        for event in recognizer.may_speak.values():
            event.set()
        assert (await running).text.count("Number") == 20

    async def test_the_language_is_the_one_of_most_seconds(self) -> None:
        languages = ["Chinese", "English", "English", "German"]
        recognizer = FakeRecognizer(lambda _, heard: answer("So.", language=languages[number_of(heard)]))
        transcript = await transcribe(recognizer, FOUR_PIECES)
        assert transcript.language == "English"
        assert [segment.language for segment in transcript.segments] == languages

    async def test_an_error_of_one_piece_ends_the_others(self) -> None:
        recognizer = FakeRecognizer(lambda *_: EngineFailure("It broke."))
        recognizer.may_speak = {number: asyncio.Event() for number in (0, 2, 3)}
        with pytest.raises(EngineFailure, match="It broke"):
            await transcribe(recognizer, FOUR_PIECES)
        assert recognizer.running == 0
        assert recognizer.cancelled >= 1

    async def test_an_error_of_the_recording_ends_all_pieces(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak = {number: asyncio.Event() for number in range(4)}

        async def recording() -> AsyncIterator[Waveform]:
            async for block in blocks_of(FOUR_PIECES):
                yield block
            raise InvalidAudio("The file is truncated.")

        with pytest.raises(InvalidAudio, match="truncated"):
            await transcriber_of(recognizer).transcribe(recording(), DecodingOptions(), SPEECH)
        assert recognizer.running == 0
        assert recognizer.cancelled == len(recognizer.heard) > 0

    async def test_cancelling_cancels_all_pieces(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak = {number: asyncio.Event() for number in range(4)}
        running = asyncio.create_task(transcribe(recognizer, FOUR_PIECES))
        while recognizer.running < 4:  # noqa: ASYNC110  # nothing tells
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert recognizer.cancelled == 4

    async def test_a_piece_that_finds_no_place_waits_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        waited: list[float] = []
        sleep = asyncio.sleep

        async def note(seconds: float) -> None:
            waited.append(seconds)
            await sleep(0)

        def say(_: int, heard: Utterance) -> Transcription | Exception:
            if number_of(heard) == 1 and waited.count(3) < 20:
                return ServiceUnavailable("Full.", retry_after_s=3)
            return answer(f"Number {number_of(heard)}.")

        monkeypatch.setattr(asyncio, "sleep", note)
        assert (await transcribe(FakeRecognizer(say), FOUR_PIECES)).text == "Number 0. Number 1. Number 2. Number 3."
        assert waited.count(3) == 20
        waited.clear()
        _, transcript = await stream(FakeRecognizer(say), FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."
        assert waited.count(3) == 20

    @pytest.mark.parametrize(("offset", "given"), [(0.0, 0.0), (0.02, 0.02), (0.5, 0.0), (3.0, 0.0)])
    async def test_an_offset_louder_than_the_sound_is_not_given_to_the_model(self, offset: float, given: float) -> None:
        recognizer = FakeRecognizer()
        sound = said(2)
        await transcribe(recognizer, sound + np.float32(offset))
        (heard,) = recognizer.heard
        assert np.allclose(heard.waveform, sound + np.float32(given), atol=1e-5)

    async def test_the_first_piece_is_refused_at_once(self) -> None:
        recognizer = FakeRecognizer(lambda *_: ServiceUnavailable("Full."))
        with pytest.raises(ServiceUnavailable):
            await transcribe(recognizer, said(2))
        with pytest.raises(ServiceUnavailable):
            await stream(recognizer, said(2))
        assert len(recognizer.heard) == 2, "nobody asks twice"

    async def test_a_piece_that_replicas_die_of_is_not_asked_for_again(self) -> None:
        killed: list[Utterance] = []

        def say(_: int, heard: Utterance) -> Transcription | Exception:
            if number_of(heard) == 2:
                killed.append(heard)
                return ReplicaLost("Restarting.")
            return answer(f"Number {number_of(heard)}.")

        for hear in (transcribe, stream):
            with pytest.raises(ReplicaLost):
                await hear(FakeRecognizer(say), FOUR_PIECES)
        assert len(killed) == 2


class TestSecondQuestions:
    """What cannot be believed is asked again, for which there may be no place either."""

    OPTIONS = DecodingOptions(prompt="Ada Lovelace")
    DOUBTFUL = (answer("on and " * 30), answer("It goes on", finish_reason="length"), answer("Ada Lovelace"))

    def recognizer(self, doubtful: Transcription, piece: int, *refusals: ServiceUnavailable) -> FakeRecognizer:
        """Doubtful is what it hears in one of four pieces; asked again it refuses first.

        The first piece says nothing before that, so that nothing of a further one is told.
        """
        left, asked_again = list(refusals), asyncio.Event()

        def say(_: int, heard: Utterance) -> Transcription | Exception:
            if self.is_second(heard):
                asked_again.set()
                return left.pop(0) if left else answer("Again.")
            return doubtful if number_of(heard) == piece else answer(f"Number {number_of(heard)}.")

        recognizer = FakeRecognizer(say)
        if piece > 0:
            recognizer.may_speak[0] = asked_again
        return recognizer

    def is_second(self, heard: Utterance) -> bool:
        is_whole = abs(heard.duration - (20.6 - 2 * number_of(heard))) < 0.1
        return heard.options != self.OPTIONS or not is_whole

    async def hear(self, recognizer: FakeRecognizer, streamed: bool) -> Transcript:
        if streamed:
            return (await stream(recognizer, FOUR_PIECES, self.OPTIONS))[1]
        return await transcribe(recognizer, FOUR_PIECES, self.OPTIONS)

    @pytest.mark.parametrize("doubtful", DOUBTFUL, ids=["loop", "no end", "echo"])
    @pytest.mark.parametrize("streamed", [False, True])
    async def test_wait_for_a_place_as_first_ones_do(self, doubtful: Transcription, streamed: bool) -> None:
        refusal = ServiceUnavailable("Full.", retry_after_s=0)
        recognizer = self.recognizer(doubtful, 1, refusal, refusal)
        transcript = await self.hear(recognizer, streamed)
        halves = doubtful.finish_reason == "length"
        assert transcript.text == f"Number 0. {'Again. Again.' if halves else 'Again.'} Number 2. Number 3."
        assert len(transcript.warnings) == 1
        assert sum(map(self.is_second, recognizer.heard)) == (4 if halves else 3)
        assert len(recognizer.heard) == (8 if halves else 7), "no first question is asked again"

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_are_refused_at_once_where_replicas_die_of_them(self, streamed: bool) -> None:
        recognizer = self.recognizer(self.DOUBTFUL[0], 1, ReplicaLost("Restarting."))
        with pytest.raises(ReplicaLost):
            await self.hear(recognizer, streamed)
        assert sum(map(self.is_second, recognizer.heard)) == 1

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_are_refused_at_once_in_the_first_piece(self, streamed: bool) -> None:
        recognizer = self.recognizer(self.DOUBTFUL[2], 0, ServiceUnavailable("Full.", retry_after_s=0))
        with pytest.raises(ServiceUnavailable):
            await self.hear(recognizer, streamed)
        assert sum(map(self.is_second, recognizer.heard)) == 1


class TestStreams:
    async def test_deltas_come_in_order(self) -> None:
        deltas, transcript = await stream(FakeRecognizer(), FOUR_PIECES)
        assert [delta.text for delta in deltas][:3] == ["Number", " 0.", " Number"]
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."

    async def test_the_first_unfinished_piece_is_told_live_and_the_others_wait(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak = {1: asyncio.Event()}
        items = transcriber_of(recognizer).stream(blocks_of(FOUR_PIECES), DecodingOptions(), SPEECH)
        assert [await anext(items), await anext(items)] == [Delta("Number"), Delta(" 0.")]
        following = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.1)
        assert not following.done(), "pieces 2 and 3 are done, and wait"
        recognizer.may_speak[1].set()
        assert await following == Delta(" Number")
        rest = [item async for item in items]
        assert [item.text for item in rest[:-1]] == [" 1.", " Number 2.", " Number 3."]

    async def test_closing_early_cancels_all_pieces(self) -> None:
        recognizer = FakeRecognizer()
        recognizer.may_speak = {number: asyncio.Event() for number in (1, 2, 3)}
        items = transcriber_of(recognizer).stream(blocks_of(FOUR_PIECES), DecodingOptions(), SPEECH)
        assert await anext(items) == Delta("Number")
        await asyncio.sleep(0.1)
        await items.aclose()
        assert recognizer.cancelled == 3
        assert recognizer.running == 0

    async def test_a_different_task_may_draw_each_item(self) -> None:
        items = transcriber_of(FakeRecognizer()).stream(blocks_of(FOUR_PIECES), DecodingOptions(), SPEECH)
        drawn: list[Any] = []
        while not drawn or not isinstance(drawn[-1], Transcript):
            drawn.append(await asyncio.ensure_future(anext(items)))
        assert drawn[-1].text == "Number 0. Number 1. Number 2. Number 3."

    async def test_errors_are_raised_as_they_are(self) -> None:
        recognizer = FakeRecognizer(lambda _, heard: EngineFailure("It broke.") if number_of(heard) == 1 else answer())
        with pytest.raises(EngineFailure, match="It broke"):
            await stream(recognizer, FOUR_PIECES)

    async def test_a_piece_that_was_not_told_is_asked_for_again(self) -> None:
        refused: list[Utterance] = []

        def say(_: int, heard: Utterance) -> Transcription | Exception:
            if number_of(heard) == 2 and not refused:
                refused.append(heard)
                return ServiceUnavailable("Restarting.")
            return answer(f"Number {number_of(heard)}.")

        _, transcript = await stream(FakeRecognizer(say), FOUR_PIECES)
        assert transcript.text == "Number 0. Number 1. Number 2. Number 3."

    async def test_tokens_of_several_pieces_make_up_the_text(self) -> None:
        recognizer = FakeRecognizer(lambda *_: answer("So it.", tokens=(Token(b"So", -1.0), Token(b" it.", -0.5))))
        _, transcript = await stream(recognizer, FOUR_PIECES)
        assert b"".join(token.data for token in transcript.tokens).decode() == transcript.text
        assert transcript.tokens == (await transcribe(recognizer, FOUR_PIECES)).tokens
