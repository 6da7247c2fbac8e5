"""How far a transcript is from what was said: words where the script has spaces, characters where it has none."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer

from benchmarks.demo_checkpoint import grammar

COUNTED_BY_CHARACTER = frozenset({"Chinese", "Cantonese", "Japanese", "Thai"})
"""English names."""
_SCRIPTS_WITHOUT_SPACES = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI")


@dataclass(frozen=True)
class Pair:
    """What was said and what was heard."""

    said: str
    heard: str
    language: str | None
    """English name of what was said; None tells by the script."""

    @property
    def by_character(self) -> bool:
        """Whether characters are counted, not words."""
        if self.language is not None:
            return self.language in COUNTED_BY_CHARACTER
        return any(unicodedata.name(char, "").startswith(_SCRIPTS_WITHOUT_SPACES) for char in self.said)


@dataclass(frozen=True)
class ErrorRates:
    """Over whole sets of recordings, in percent; None where there is nothing to count."""

    wer_percent: float | None
    """Errors per word, of languages with spaces."""
    cer_percent: float | None
    """Errors per character, of the others."""
    worst_clip_percent: float | None
    """The same of the worst recording alone."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "ErrorRates":
        """Count the errors of all pairs."""
        words = [pair for pair in pairs if not pair.by_character]
        characters = [pair for pair in pairs if pair.by_character]
        return cls(
            wer_percent=error_percent(words),
            cer_percent=error_percent(characters),
            worst_clip_percent=max((100 * error_rate([pair]) for pair in pairs), default=None),
        )


def error_percent(pairs: Sequence[Pair]) -> float | None:
    """`error_rate` in percent, None of none."""
    return 100 * error_rate(pairs) if pairs else None


def error_rate(pairs: Sequence[Pair]) -> float:
    """Substitutions, insertions and deletions in all pairs per unit (word or character) that was said."""
    said = [" ".join(units(pair.said, by_character=pair.by_character)) for pair in pairs]
    heard = [" ".join(units(pair.heard, by_character=pair.by_character)) for pair in pairs]
    return float(jiwer.wer(said, heard))


def units(text: str, *, by_character: bool) -> list[str]:
    """What is counted of a text, normalised as for the demo checkpoint: lower case, without punctuation."""
    plain = unicodedata.normalize("NFKC", text).replace("’", "'")
    return grammar.units(grammar.normalise(plain), "Chinese" if by_character else "English")
