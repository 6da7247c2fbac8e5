"""What answers a request with a recording needs: somebody who decodes it, and somebody who transcribes it."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from typing import BinaryIO, Protocol

from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import Waveform
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import Transcript
from deployments.transcription.utterance import Delta
from deployments.transcription.words import WordTimes


class TranscribesRecordings(Protocol):
    """What `transcriber.Transcriber` does."""

    async def transcribe(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions, *, words: WordTimes
    ) -> Transcript:
        """Transcribe one recording of any length, drawn block by block.

        Raises:
            ServiceError: it cannot be transcribed, or not now; or what drawing it raises.
        """
        ...

    def stream(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions
    ) -> AsyncGenerator[Delta | Transcript, None]:
        """As `transcribe`, telling the text as it is decoded: any number of `Delta`, and last the `Transcript`."""
        ...


class Decodes(Protocol):
    """What `audio.decode.decode_blocks` does: blocking, drawn in threads of its own."""

    def __call__(self, source: BinaryIO, *, max_duration_s: float) -> Generator[Waveform, None, None]:
        """Turn a media file into a waveform, block by block.

        Raises:
            InvalidAudio: there is none in it, or more than `max_duration_s` of it.
        """
        ...
