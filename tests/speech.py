"""The recordings in `data/speech`, what they say, and how far an answer is from it."""

import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import jiwer

from deployments.audio.decode import decode
from deployments.audio.waveform import Waveform

FOLDER = Path(__file__).parent / "data" / "speech"


@dataclass(frozen=True)
class Recording:
    """One spoken sentence."""

    path: Path
    language: str
    """English name."""
    text: str

    @property
    def waveform(self) -> Waveform:
        """As the service decodes it."""
        with self.path.open("rb") as file:
            return decode(file, max_duration_s=30)

    def error_rate(self, answer: str) -> float:
        """Word error rate (of characters in Chinese), of lower-case text without punctuation."""
        return error_rate([(self, answer)])


RECORDINGS = tuple(
    Recording(FOLDER / entry["file"], entry["language"], entry["text"])
    for entry in json.loads((FOLDER / "speech.json").read_text(encoding="utf-8"))
)
ENGLISH = tuple(recording for recording in RECORDINGS if recording.language == "English")
CHINESE = tuple(recording for recording in RECORDINGS if recording.language == "Chinese")


def error_rate(answers: list[tuple[Recording, str]]) -> float:
    """Errors in all answers per word (per character in Chinese) of all references."""
    return float(
        jiwer.wer(
            [_words(recording.text, recording.language) for recording, _ in answers],
            [_words(answer, recording.language) for recording, answer in answers],
        )
    )


def _words(text: str, language: str) -> str:
    plain = "".join(" " if unicodedata.category(c)[0] in "PZ" else c for c in text.lower())
    return " ".join(plain.replace(" ", "") if language == "Chinese" else plain.split())
