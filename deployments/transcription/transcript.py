"""The finished transcript of one recording: the one value that every response format is rendered from."""

from dataclasses import dataclass
from typing import Literal

from deployments.audio.speech import Span
from deployments.transcription.utterance import Token
from deployments.transcription.words import Word

WarningCode = Literal[
    "no_speech_found",
    "prompt_echo",
    "repetition",
    "speech_without_text",
    "token_budget_exhausted",
    "unknown_field",
    "utterance_cut",
    "word_times_unavailable",
]


@dataclass(frozen=True)
class Segment:
    """A span of the recording with its text. Times are seconds from the start of the recording."""

    start: float
    end: float
    text: str
    language: str | None
    temperature: float
    avg_logprob: float
    words: tuple[Word, ...] = ()
    """Empty where their times are not known."""


@dataclass(frozen=True)
class TranscriptWarning:
    """Something the caller should know about an answer that is otherwise good."""

    code: WarningCode
    message: str
    span: Span | None = None
    """What it is about; None for all of the recording, or the request."""

    def __str__(self) -> str:
        if self.span is None:
            return self.message
        return f"{self.message} (From {self.span.start:.1f} s to {self.span.end:.1f} s.)"


@dataclass(frozen=True)
class Usage:
    """What the request cost."""

    seconds: float
    """Seconds of decoded audio."""
    audio_tokens: int
    text_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Transcript:
    text: str
    language: str | None
    """English name of the language most of the recording is in; None where nothing was said."""
    duration: float
    segments: tuple[Segment, ...]
    usage: Usage
    warnings: tuple[TranscriptWarning, ...] = ()
    tokens: tuple[Token, ...] = ()
    """What the text is made of; empty unless the options ask for `logprobs`."""

    @property
    def words(self) -> tuple[Word, ...]:
        """Those whose times are known, in their order."""
        return tuple(word for segment in self.segments for word in segment.words)
