"""One voice of the demo checkpoint says a sentence, and tells when it says each word."""

import random
from dataclasses import dataclass

import numpy as np

from benchmarks.demo_aligner import espeak, flite
from benchmarks.demo_aligner.said import Times, tighten, times_of, trim, words_of
from benchmarks.demo_checkpoint.voices import Voice


@dataclass(frozen=True)
class Spoken:
    """samples int16 `(samples,)` at 16 kHz; times of the words that `said.words_of` finds in the text."""

    samples: np.ndarray
    times: Times


def speak(voice: Voice, text: str, rng: random.Random) -> Spoken:
    """Say `text` at a random pace and pitch, as `voices.speak` does.

    Raises:
        OSError: a synthesiser is missing.
        ValueError: it said other words than the text has.
    """
    spoken = text.replace("-", " ")
    if voice.engine == "flite":
        samples, said = flite.speak(voice.speaker, spoken, rng.uniform(0.85, 1.2))
    else:
        slowest, fastest = (130, 190) if voice.language == "English" else (150, 220)
        samples, said = espeak.speak(voice.speaker, spoken, rng.randint(slowest, fastest), rng.randint(30, 70))
    samples, said = trim(samples, tighten(samples, said))
    return Spoken(samples, times_of(words_of(text, voice.language), said))
