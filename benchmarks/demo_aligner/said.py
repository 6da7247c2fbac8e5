"""Spoken words with their times, from whatever a synthesiser calls a word to the words of the forced aligner."""

import re
import unicodedata
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.demo_checkpoint.grammar import Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

MARGIN_S = 0.03
"""Silence that is kept before the first word and after the last."""

_FRAME = 80  # 5 ms, the step at which the ends of words beside a pause are measured
_QUIET = 1e-4  # 40 dB below the loudest frame
_PAUSE_S = 0.02  # what the synthesisers leave between words is either none or a pause of more than this


@dataclass(frozen=True)
class Said:
    """A word, or several that the synthesiser says as one, in seconds from the start of the samples."""

    text: str
    start: float
    end: float


Times = list[float | None]
"""Start and end of every word in turn, in seconds; None where the synthesiser does not tell."""


def words_of(text: str, language: Language) -> list[str]:
    """The words of a sentence of the domain as the forced aligner splits it: `forty-five` is `fortyfive`."""
    if language == "Chinese":
        return [char for char in text if _is_kept(char)]
    words = ("".join(char for char in word if char == "'" or _is_kept(char)) for word in text.split())
    return [word for word in words if word]


def times_of(words: list[str], said: list[Said]) -> Times:
    """Match the two by their letters: a time is known wherever a word of both begins or ends at the same letter.

    Raises:
        ValueError: they are not the same letters.
    """
    starts: dict[int, float] = {}
    ends: dict[int, float] = {}
    at = 0
    for part in said:
        starts[at] = part.start
        at += len(_letters(part.text))
        ends[at] = part.end
    if _letters("".join(words)) != _letters("".join(part.text for part in said)):
        raise ValueError(f"{words} is not what was said: {[part.text for part in said]}")
    times: Times = []
    at = 0
    for word in words:
        times.append(starts.get(at))
        at += len(_letters(word))
        times.append(ends.get(at))
    return times


def tighten(samples: np.ndarray, said: list[Said]) -> list[Said]:
    """Move ends of words that are beside a pause to where sound begins and stops.

    A synthesiser counts the silence of a closing mouth to the word; after a pause nobody can hear that.
    """
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float32)
    energy = (frames**2).mean(axis=1)
    loud = energy > energy.max() * _QUIET
    tightened = list(said)
    for index, word in enumerate(said):
        first, last = int(word.start * SAMPLE_RATE) // _FRAME, int(word.end * SAMPLE_RATE) // _FRAME + 1
        heard = np.flatnonzero(loud[first:last]) + first
        if not heard.size:
            continue
        if index == 0 or word.start - said[index - 1].end > _PAUSE_S:
            tightened[index] = replace(word, start=max(word.start, float(heard[0]) * _FRAME / SAMPLE_RATE))
        if index == len(said) - 1 or said[index + 1].start - word.end > _PAUSE_S:
            end = min(word.end, float(heard[-1] + 1) * _FRAME / SAMPLE_RATE)
            tightened[index] = replace(tightened[index], end=end)
    return tightened


def trim(samples: np.ndarray, said: list[Said]) -> tuple[np.ndarray, list[Said]]:
    """Cut both ends to `MARGIN_S` of silence."""
    start = max(0, int((said[0].start - MARGIN_S) * SAMPLE_RATE))
    end = int((said[-1].end + MARGIN_S) * SAMPLE_RATE)
    offset = start / SAMPLE_RATE
    moved = [replace(word, start=word.start - offset, end=word.end - offset) for word in said]
    return samples[start:end], moved


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def _is_kept(char: str) -> bool:
    return unicodedata.category(char)[0] in "LN"
