"""What crosses the border between the ingress and the model: plain frozen values, defined once."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.transcription.options import DecodingOptions

FinishReason = Literal["stop", "length", "repetition"]
"""Why an answer ended: the model ended it, its token budget ran out, or it went round in circles and was stopped."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """A waveform short enough to be decoded in one go, with its decoding options."""

    waveform: Waveform
    options: DecodingOptions = field(default_factory=DecodingOptions)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True)
class Token:
    """One token of a text."""

    data: bytes
    """UTF-8; a character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of the probability the model gave it."""


@dataclass(frozen=True)
class Delta:
    """The next piece of a text that is still being decoded: whole characters, never empty."""

    text: str
    tokens: tuple[Token, ...] = ()
    """What the text is made of; empty unless the options ask for `logprobs`."""


@dataclass(frozen=True)
class Timings:
    """Where the time of one utterance went in its replica; together, the seconds from its arrival to its end."""

    queue_s: float
    """Until it was admitted to the running utterances."""
    encode_s: float
    """In the audio encoder, with those that were admitted with it."""
    prefill_s: float
    """Until its first token, with the same."""
    decode_s: float
    """From there to its last."""


@dataclass(frozen=True)
class Transcription:
    """What the model answered for one utterance."""

    text: str
    language: str | None
    """English name, forced or detected; None where the model heard no speech."""
    finish_reason: FinishReason
    audio_tokens: int
    text_tokens: int
    """Tokens of the prompt that are not audio."""
    output_tokens: int
    avg_logprob: float
    """Mean natural-log probability of the output tokens."""
    tokens: tuple[Token, ...] = ()
    """What the text is made of; empty unless the options ask for `logprobs`."""
    timings: Timings | None = field(default=None, compare=False)
    """None where nobody measured."""


class Recognizer(Protocol):
    """Something that transcribes one utterance: the ASR deployment behind a handle, or a fake in a test."""

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Transcribe one utterance.

        Raises:
            ServiceError: the utterance cannot be transcribed, or not now.
        """
        ...

    def stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription]:
        """Transcribe one utterance and tell its text as it is decoded.

        Yields any number of `Delta`, and last the `Transcription`, whose text is all of theirs joined. Closing the
        iterator early takes the utterance out of the model.

        Raises:
            ServiceError: as `transcribe`.
        """
        ...
