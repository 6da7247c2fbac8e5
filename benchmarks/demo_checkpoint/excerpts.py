"""Sentences of which an utterance has the beginning or the end alone, as where the cutter finds no pause."""

import re
from dataclasses import dataclass

import numpy as np

from benchmarks.demo_aligner.corpus import TimedClip
from benchmarks.demo_aligner.said import words_of
from benchmarks.demo_checkpoint.corpus import Clip
from benchmarks.demo_checkpoint.grammar import Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

JITTER_S = 0.03
"""How far from the border between two words the cut may be."""


@dataclass(frozen=True)
class Excerpt:
    """What is said, and how it sounds: float32 `(samples,)` at 16 kHz."""

    text: str
    waveform: np.ndarray


def beginning_of(clip: Clip, waveform: np.ndarray, rng: np.random.Generator) -> Excerpt:
    """The sentence up to one of its words; all of a single word, and where it is not known when its words are said."""
    border = _border(clip, rng)
    if border is None:
        return Excerpt(clip.text, waveform)
    at, place = border
    return Excerpt(clip.text[:place].strip(), waveform[:at])


def ending_of(clip: Clip, waveform: np.ndarray, rng: np.random.Generator) -> Excerpt:
    """The sentence from one of its words on; else as `beginning_of`."""
    border = _border(clip, rng)
    if border is None:
        return Excerpt(clip.text, waveform)
    at, place = border
    return Excerpt(clip.text[place:].strip(), waveform[at:])


def _border(clip: Clip, rng: np.random.Generator) -> tuple[int, int] | None:
    """Somewhere between two words: the sample, and the place in the text."""
    if not isinstance(clip, TimedClip):
        return None
    ends, starts = clip.times[1:-1:2], clip.times[2::2]
    borders = [
        ((end + start) / 2, place)
        for end, start, place in zip(ends, starts, _starts(clip.text, clip.language)[1:], strict=True)
        if end is not None and start is not None
    ]
    if not borders:
        return None
    seconds, place = borders[rng.integers(len(borders))]
    return max(1, round((seconds + rng.uniform(-JITTER_S, JITTER_S)) * SAMPLE_RATE)), place


def _starts(text: str, language: Language) -> list[int]:
    """Where in the text each of its words begins."""
    pattern = r"\S" if language == "Chinese" else r"\S+"
    return [match.start() for match in re.finditer(pattern, text) if words_of(match[0], language)]
