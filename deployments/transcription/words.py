"""Words with their times: what an aligner is asked, what it answers, and in which languages it can."""

import importlib.util
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import Protocol

from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.exceptions import UnalignableLanguage

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

_MAX_SKIPPED = 40  # letters between two words that a splitter wrote otherwise


class WordTimes(Enum):
    """What a caller wants to know of the times of words."""

    UNUSED = "unused"
    WELCOME = "welcome"
    """They make what is asked for better, and may be missing."""
    REQUIRED = "required"
    """They are what is asked for."""


@dataclass(frozen=True)
class Word:
    """One word, or one character of Chinese, without punctuation around it.

    Times are seconds from the start of what it was said in: the waveform of a `Reading`, the recording of a transcript.
    """

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
        here = sorted(language for language in ALIGNED_LANGUAGES if _missing_splitter(language) is None)
        raise UnalignableLanguage(
            f"There are no word times in {language}. Leave out timestamp_granularities[]=word, or send a recording in "
            f"one of: {', '.join(here)}."
        )
    if (package := _missing_splitter(language)) is not None:
        raise UnalignableLanguage(
            f"There are no word times in {language}: this service runs without the optional package {package!r}. "
            "Leave out timestamp_granularities[]=word."
        )


def _missing_splitter(language: str) -> str | None:
    """The package that a language needs and that is not here."""
    package = _SPLITTERS.get(language)
    return package if package is not None and importlib.util.find_spec(package) is None else None


def spans_of(words: Sequence[Word], text: str) -> list[tuple[int, int]]:
    """Where in `text` each of its words stands: `text[begin:end]` has the hyphens that the word was stripped of.

    What is between two spans, spaces and punctuation, belongs to no word. A word that a splitter has written otherwise
    gets an empty span where it would stand.
    """
    kept = [place for place, char in enumerate(text) if _is_kept(char)]
    letters = "".join(_folded(text[place]) for place in kept)
    spans: list[tuple[int, int]] = []
    at = 0
    for word in words:
        sought = "".join(_folded(char) for char in word.text if _is_kept(char))
        found = letters.find(sought, at, at + len(sought) + _MAX_SKIPPED)
        if found < 0 or not sought:
            empty = spans[-1][1] if spans else 0
            spans.append((empty, empty))
            continue
        at = found + len(sought)
        spans.append((kept[found], kept[at - 1] + 1))
    return spans


def words_in(texts: Sequence[str], words: Sequence[Word]) -> list[tuple[Word, ...]]:
    """The words of each of `texts`, which one after another are the text of `words`, blanks aside."""
    ends = list(accumulate(map(len, texts)))
    shares: list[list[Word]] = [[] for _ in texts]
    for word, (begin, _) in zip(words, spans_of(words, "".join(texts)), strict=True):
        shares[min(bisect_right(ends, begin), len(texts) - 1)].append(word)
    return [tuple(share) for share in shares]


def times_of(texts: Sequence[str], words: Sequence[Word]) -> list[tuple[float, float]]:
    """When each of `texts` is said, from its first word to its last; one without any takes no time.

    Args:
        texts: as for `words_in`.
        words: at least one.
    """
    times: list[tuple[float, float]] = []
    for own in words_in(texts, words):
        before = times[-1][1] if times else words[0].start
        times.append((own[0].start, own[-1].end) if own else (before, before))
    return times


def _is_kept(char: str) -> bool:
    """Whether it is in the words of a text: the released processor drops what is not."""
    return char == "'" or unicodedata.category(char)[0] in "LN"


def _folded(char: str) -> str:
    """One character for those that splitters write alike, such as full-width letters and digits."""
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) == 1 else char
