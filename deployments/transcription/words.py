"""Words with their times: what an aligner is asked, what it answers, and in which languages it can."""

import importlib.util
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.exceptions import UnalignableLanguage
from deployments.transcription.utterance import SAMPLE_RATE, Waveform

ALIGNED_LANGUAGES = frozenset(
    {
        "Cantonese",
        "Chinese",
        "English",
        "French",
        "German",
        "Italian",
        "Japanese",
        "Korean",
        "Portuguese",
        "Russian",
        "Spanish",
    }
)
"""English names of the languages that Qwen3-ForcedAligner was trained on."""

_SPLITTERS = {"Japanese": "nagisa", "Korean": "soynlp"}
"""Optional packages that split texts into words where spaces do not."""


@dataclass(frozen=True)
class Word:
    """One word, or one character of Chinese, without punctuation. Times are seconds from the start of the waveform."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Reading:
    """An utterance's waveform and the text that is said in it."""

    waveform: Waveform
    text: str
    language: str
    """English name."""

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / SAMPLE_RATE


class Aligns(Protocol):
    """Something that finds the words of a text in its waveform: the Aligner behind a handle, or a fake in a test."""

    async def align(self, waveform: Waveform, text: str, language: str) -> tuple[Word, ...]:
        """The words of `text` in their order, with times that never go back and end within the waveform.

        Args:
            waveform: one utterance, as long as `max_utterance_s` at most.
            text: what is said in it.
            language: English name of the language of `text`.

        Raises:
            UnalignableLanguage: there are no word times in this language.
            ServiceError: the words cannot be found, or not now.
        """
        ...


def check_alignable(language: str) -> None:
    """Raise `UnalignableLanguage` where words of `language` (English name) cannot be given times.

    It looks at this process: a cluster's image with the optional packages is the one of all its replicas.
    """
    if language not in ALIGNED_LANGUAGES:
        raise UnalignableLanguage(
            f"There are no word times in {language}. Leave out timestamp_granularities[]=word, or send a recording in "
            f"one of: {', '.join(sorted(ALIGNED_LANGUAGES))}."
        )
    package = _SPLITTERS.get(language)
    if package is not None and importlib.util.find_spec(package) is None:
        raise UnalignableLanguage(
            f"There are no word times in {language}: this service runs without the optional package {package!r}. "
            "Leave out timestamp_granularities[]=word."
        )


def spans_of(words: Sequence[Word], text: str) -> list[tuple[int, int]]:
    """Where in `text` each of its words stands: `text[begin:end]` has the hyphens that the word was stripped of.

    What is between two spans, spaces and punctuation, belongs to no word. A word that a splitter has written otherwise
    gets an empty span where it would stand.
    """
    kept = [place for place, char in enumerate(text) if char == "'" or unicodedata.category(char)[0] in "LN"]
    letters = "".join(text[place] for place in kept)
    spans: list[tuple[int, int]] = []
    at = 0
    for word in words:
        found = letters.find(word.text, at)
        if found < 0 or not word.text:
            empty = spans[-1][1] if spans else 0
            spans.append((empty, empty))
            continue
        at = found + len(word.text)
        spans.append((kept[found], kept[at - 1] + 1))
    return spans
