"""What was heard in one stretch of a recording."""

from dataclasses import dataclass

from deployments.audio.cutting import Piece
from deployments.audio.speech import Span
from deployments.transcription.transcript import TranscriptWarning
from deployments.transcription.utterance import Transcription
from deployments.transcription.words import Word


@dataclass(frozen=True)
class Part:
    """A finished answer and where it belongs, in seconds from the start of the recording; the sound is not kept."""

    start: float
    end: float
    speech: tuple[Span, ...]
    transcription: Transcription
    words: tuple[Word, ...] = ()
    """All that its text has, where their times are known; times from the start of the recording."""

    @classmethod
    def of(cls, piece: Piece, transcription: Transcription) -> "Part":
        """What was answered to a piece."""
        return cls(piece.start, piece.end, piece.speech, transcription)

    @property
    def seconds_of_speech(self) -> float:
        return sum(span.end - span.start for span in self.speech)


@dataclass(frozen=True)
class Heard:
    """All that was heard in one piece of a recording, and what the caller should know about it."""

    parts: tuple[Part, ...]
    warnings: tuple[TranscriptWarning, ...] = ()
