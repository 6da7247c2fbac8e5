"""From a recording to its transcript, with a recognizer that says what it is told to."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from deployments.exceptions import InvalidAudio
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import SAMPLE_RATE, Delta, Token, Transcription, Utterance


class FakeRecognizer:
    def __init__(self, answer: Transcription):
        self.answer = answer
        self.heard: list[Utterance] = []
        self.closed = False

    async def transcribe(self, utterance: Utterance) -> Transcription:
        self.heard.append(utterance)
        return self.answer

    async def stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription]:
        try:
            for word in self.answer.text.split():
                yield Delta(word, self.answer.tokens)
            yield await self.transcribe(utterance)
        finally:
            self.closed = True


def _answer(**changes: object) -> Transcription:
    values: dict[str, object] = {
        "text": "Five.",
        "language": "English",
        "finish_reason": "stop",
        "audio_tokens": 26,
        "text_tokens": 15,
        "output_tokens": 4,
        "avg_logprob": -0.25,
    }
    return Transcription(**(values | changes))  # type: ignore[arg-type]


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


async def test_the_options_reach_the_recognizer() -> None:
    recognizer = FakeRecognizer(_answer())
    options = DecodingOptions(language="English", prompt="Anna", temperature=0.5, max_new_tokens=7)
    await Transcriber(recognizer, max_utterance_s=30).transcribe(_silence(2), options)
    (utterance,) = recognizer.heard
    assert utterance.options == options
    assert utterance.duration == 2.0


async def test_one_segment_over_the_recording() -> None:
    transcript = await Transcriber(FakeRecognizer(_answer()), max_utterance_s=30).transcribe(
        _silence(2.5), DecodingOptions()
    )
    assert (transcript.text, transcript.language, transcript.duration) == ("Five.", "English", 2.5)
    (segment,) = transcript.segments
    assert (segment.start, segment.end, segment.text, segment.avg_logprob) == (0.0, 2.5, "Five.", -0.25)
    assert transcript.usage.seconds == 2.5
    assert transcript.warnings == ()


async def test_nothing_said_is_no_segment() -> None:
    transcript = await Transcriber(FakeRecognizer(_answer(text="", language=None)), max_utterance_s=30).transcribe(
        _silence(2), DecodingOptions()
    )
    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())


async def test_running_out_of_tokens_is_never_silent() -> None:
    transcript = await Transcriber(FakeRecognizer(_answer(finish_reason="length")), max_utterance_s=30).transcribe(
        _silence(2), DecodingOptions()
    )
    (warning,) = transcript.warnings
    assert warning.code == "token_budget_exhausted"
    assert "max_new_tokens" in warning.message


async def test_a_recording_over_the_limit_never_reaches_the_model() -> None:
    recognizer = FakeRecognizer(_answer())
    with pytest.raises(InvalidAudio, match=r"audio duration 30\.5 seconds is longer than 30 seconds"):
        await Transcriber(recognizer, max_utterance_s=30).transcribe(_silence(30.5), DecodingOptions())
    assert recognizer.heard == []
    await Transcriber(recognizer, max_utterance_s=30).transcribe(_silence(30), DecodingOptions())


async def test_a_stream_ends_with_what_transcribe_answers() -> None:
    transcriber = Transcriber(
        FakeRecognizer(_answer(text="Five. Six.", tokens=(Token(b"5", -1.0),))), max_utterance_s=30
    )
    options = DecodingOptions(language="English", temperature=0.5, logprobs=True)
    *deltas, last = [item async for item in transcriber.stream(_silence(2), options)]
    assert deltas == [Delta("Five.", (Token(b"5", -1.0),)), Delta("Six.", (Token(b"5", -1.0),))]
    assert last == await transcriber.transcribe(_silence(2), options)


async def test_a_stream_that_is_closed_early_closes_the_recognizer() -> None:
    recognizer = FakeRecognizer(_answer())
    items = Transcriber(recognizer, max_utterance_s=30).stream(_silence(2), DecodingOptions())
    assert await anext(items) == Delta("Five.")
    await items.aclose()
    assert recognizer.closed
    assert recognizer.heard == []


async def test_a_recording_over_the_limit_is_not_streamed() -> None:
    recognizer = FakeRecognizer(_answer())
    with pytest.raises(InvalidAudio, match="longer than 30 seconds"):
        await anext(Transcriber(recognizer, max_utterance_s=30).stream(_silence(30.5), DecodingOptions()))


async def test_tokens_are_passed_on() -> None:
    tokens = (Token(b"Five", -0.5), Token(b".", -0.25))
    transcript = await Transcriber(FakeRecognizer(_answer(tokens=tokens)), max_utterance_s=30).transcribe(
        _silence(2), DecodingOptions(logprobs=True)
    )
    assert transcript.tokens == tokens
