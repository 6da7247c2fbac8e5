"""Which words of what was said are missing from a text, and which are in it without having been said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import jiwer

from benchmarks.scoring import units

_AROUND = 4  # words on either side of a slip that are shown with it


@dataclass(frozen=True)
class Slip:
    """One word that is missing, or too much."""

    kind: Literal["lost", "added"]
    word: str
    sentences: tuple[int, ...]
    """Numbers of the sentences that it may belong to: two where it was added between them."""
    said: str
    """The words around it, as they were said, and as they were heard."""
    heard: str

    def __str__(self) -> str:
        return f"{self.kind} {self.word!r}: said ... {self.said} ..., heard ... {self.heard} ..."


@dataclass(frozen=True)
class Comparison:
    """A text beside what was said. Words that were heard as others are errors, but no slips."""

    words: int
    errors: int
    slips: tuple[Slip, ...]


Habits = Mapping[str, set[tuple[str, str]]]
"""For each sentence, kind and word of the slips that are made in it when it is sent alone."""


def compare(sentences: Sequence[str], text: str) -> Comparison:
    """Align a text with the sentences that were said, without case and punctuation."""
    said_in = [units(sentence, by_character=False) for sentence in sentences]
    said = [word for words in said_in for word in words]
    heard = units(text, by_character=False)
    ends = list(accumulate(map(len, said_in)))
    alignment = jiwer.process_words(" ".join(said), " ".join(heard))
    slips: list[Slip] = []
    for chunk in alignment.alignments[0]:
        at, there = chunk.ref_start_idx, chunk.hyp_start_idx
        around_said = " ".join(said[max(0, at - _AROUND) : chunk.ref_end_idx + _AROUND])
        around_heard = " ".join(heard[max(0, there - _AROUND) : chunk.hyp_end_idx + _AROUND])
        if chunk.type == "delete":
            slips += [
                Slip("lost", said[place], (_sentence(ends, place),), around_said, around_heard)
                for place in range(at, chunk.ref_end_idx)
            ]
        elif chunk.type == "insert":
            near = tuple(sorted({_sentence(ends, max(0, at - 1)), _sentence(ends, min(at, len(said) - 1))}))
            slips += [Slip("added", word, near, around_said, around_heard) for word in heard[there : chunk.hyp_end_idx]]
    return Comparison(len(said), alignment.substitutions + alignment.deletions + alignment.insertions, tuple(slips))


def habits(singles: Iterable[tuple[str, Comparison]]) -> Habits:
    """What sentences (their texts) are prone to, of how they were heard one by one."""
    found: dict[str, set[tuple[str, str]]] = {}
    for sentence, comparison in singles:
        found.setdefault(sentence, set()).update((slip.kind, slip.word) for slip in comparison.slips)
    return found


def by_joining(comparison: Comparison, sentences: Sequence[str], prone: Habits) -> list[Slip]:
    """The slips that are not made where the same sentence is sent alone."""
    return [
        slip
        for slip in comparison.slips
        if not any((slip.kind, slip.word) in prone.get(sentences[number], ()) for number in slip.sentences)
    ]


def _sentence(ends: Sequence[int], place: int) -> int:
    return next(number for number, end in enumerate(ends) if place < end)
