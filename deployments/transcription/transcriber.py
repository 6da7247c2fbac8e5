"""From a recording to its transcript: the single place where audio becomes text."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from deployments.exceptions import InvalidAudio
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning, Usage
from deployments.transcription.utterance import Delta, Recognizer, Transcription, Utterance, Waveform

Item = TypeVar("Item")


class Transcriber:
    """Transcribes recordings with a recognizer of single utterances."""

    def __init__(self, recognizer: Recognizer, *, max_utterance_s: float):
        self._recognizer = recognizer
        self._max_utterance_s = max_utterance_s

    async def transcribe(self, waveform: Waveform, options: DecodingOptions) -> Transcript:
        """Transcribe one recording.

        Raises:
            InvalidAudio: the recording is longer than one utterance may be.
            ServiceError: whatever the recognizer raises.
        """
        utterance = self._utterance(waveform, options)
        return _transcript(await self._recognizer.transcribe(utterance), utterance)

    async def stream(self, waveform: Waveform, options: DecodingOptions) -> AsyncGenerator[Delta | Transcript, None]:
        """Transcribe one recording and tell its text as it is decoded.

        Yields any number of `Delta`, and last the `Transcript`, whose text is all of theirs joined. Closing the
        generator early stops the recognizer.

        Raises:
            ServiceError: as `transcribe`.
        """
        utterance = self._utterance(waveform, options)
        async with _closing(self._recognizer.stream(utterance)) as items:
            async for item in items:
                yield item if isinstance(item, Delta) else _transcript(item, utterance)

    def _utterance(self, waveform: Waveform, options: DecodingOptions) -> Utterance:
        utterance = Utterance(waveform, options)
        if utterance.duration > self._max_utterance_s:
            raise InvalidAudio(
                f"audio duration {utterance.duration:.1f} seconds is longer than {self._max_utterance_s:g} seconds "
                "which is the maximum for this model. Send it in shorter pieces."
            )
        return utterance


@asynccontextmanager
async def _closing(items: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close an iterator that can be closed, as generators can, whenever the context ends."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


def _transcript(transcription: Transcription, utterance: Utterance) -> Transcript:
    return Transcript(
        text=transcription.text,
        language=transcription.language,
        duration=utterance.duration,
        segments=_segments(transcription, utterance.duration, utterance.options.temperature),
        usage=Usage(
            seconds=utterance.duration,
            audio_tokens=transcription.audio_tokens,
            text_tokens=transcription.text_tokens,
            output_tokens=transcription.output_tokens,
        ),
        warnings=_warnings(transcription),
        tokens=transcription.tokens,
    )


def _segments(transcription: Transcription, duration: float, temperature: float) -> tuple[Segment, ...]:
    """One segment over the whole utterance, none where nothing was said."""
    if not transcription.text:
        return ()
    return (
        Segment(
            start=0.0,
            end=duration,
            text=transcription.text,
            language=transcription.language,
            temperature=temperature,
            avg_logprob=transcription.avg_logprob,
        ),
    )


def _warnings(transcription: Transcription) -> tuple[TranscriptWarning, ...]:
    if transcription.finish_reason == "stop":
        return ()
    return (
        TranscriptWarning(
            "token_budget_exhausted",
            f"The text may be cut short: its budget of {transcription.output_tokens} tokens ran out before it ended. "
            "Send a larger max_new_tokens or a shorter recording.",
        ),
    )
