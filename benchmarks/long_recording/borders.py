"""Whether speech without pauses is cut between two words.

    python -m benchmarks.long_recording.borders

Nothing is transcribed: sentences of voices that tell when each word is said follow each other without a pause, and the
service's own code cuts them. A cut is inside a word if it is so far from both its ends; *by chance* is the share of all
moments that are. Synthesised words often follow each other without any gap: then there is no good place within reach.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks import machine, results
from benchmarks.demo_aligner.speech import speak
from benchmarks.demo_checkpoint import augment, grammar, voices
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.long_recording.cuts import borders_of
from benchmarks.long_recording.speech import UNPAUSED_S
from benchmarks.results import Cell
from deployments.audio.waveform import SAMPLE_RATE, Waveform

DEPTHS_S = (0.02, 0.05)
COLUMNS = ["language", "noise dB", "limit s", "cuts"]
COLUMNS += ["inside by 20 ms %", "by chance %", "inside by 50 ms %", "by chance, 50 ms %"]
_MINUTES = 15.0
_SENTENCES = 60


@dataclass(frozen=True, eq=False)
class Speech:
    """A waveform, and start and end of each word in it; several that are said as one count as one. In seconds."""

    waveform: Waveform
    words: Sequence[tuple[float, float]]


def joined(sentences: Sequence[Speech], seconds: float, noise_db: float | None) -> Speech:
    """Sentences without pauses, for at least so long; with pink noise that much below them."""
    rng = random.Random(7)
    parts: list[Waveform] = []
    words: list[tuple[float, float]] = []
    at = 0.0
    while at < seconds:
        sentence = rng.choice(sentences)
        words += [(at + start, at + end) for start, end in sentence.words]
        pause = np.zeros(round(rng.uniform(*UNPAUSED_S) * SAMPLE_RATE), np.float32)
        parts += [sentence.waveform, pause]
        at += (len(sentence.waveform) + len(pause)) / SAMPLE_RATE
    waveform = np.concatenate(parts)
    if noise_db is not None:
        noise = augment.noise("pink", len(waveform), np.random.default_rng(7))
        waveform = augment.mix(waveform, noise, noise_db).astype(np.float32)
    return Speech(waveform, words)


def spoken(language: Language) -> list[Speech]:
    """Sentences of the test split, by the trained voices in turn."""
    rng = random.Random(f"borders/{language}")
    speakers = voices.voices(language)
    sentences = []
    for number, text in enumerate(grammar.sentences(language, "test", _SENTENCES, seed=5)):
        said = speak(speakers[number % len(speakers)], text, rng)
        waveform = augment.at_level(said.samples.astype(np.float32) / 32768, -6.0)
        sentences.append(Speech(waveform, together(said.times)))
    return sentences


def together(times: Sequence[float | None]) -> list[tuple[float, float]]:
    """Start and end of words, of which those that are said as one are one: between them the times are not known."""
    words: list[tuple[float, float]] = []
    begun: float | None = None
    for start, end in zip(times[::2], times[1::2], strict=True):
        begun = start if start is not None else begun
        if end is not None and begun is not None:
            words.append((begun, end))
            begun = None
    return words


def share_inside(speech: Speech, borders: Sequence[float], depth_s: float) -> float:
    """Share of the borders that are inside a word, so far from its ends at least."""
    inside = [any(start + depth_s < border < end - depth_s for start, end in speech.words) for border in borders]
    return sum(inside) / len(borders)


def share_by_chance(speech: Speech, depth_s: float) -> float:
    """Share of all moments that are inside a word, so far from its ends at least."""
    inside = sum(max(0.0, end - start - 2 * depth_s) for start, end in speech.words)
    return inside / (len(speech.waveform) / SAMPLE_RATE)


def measure(speech: Speech, limit_s: float) -> list[Cell]:
    """How many cuts there are, and for each depth the two shares in percent."""
    borders = borders_of(speech.waveform, limit_s)
    shares: list[Cell] = []
    for depth_s in DEPTHS_S:
        shares += [100 * share_inside(speech, borders, depth_s), 100 * share_by_chance(speech, depth_s)]
    return [len(borders), *shares]


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    voices.require_engines()
    rows: list[list[Cell]] = []
    for language in LANGUAGES:
        sentences = spoken(language)
        for noise_db in (None, 15.0):
            speech = joined(sentences, 60 * _MINUTES, noise_db)
            rows += [[language, noise_db, limit_s, *measure(speech, limit_s)] for limit_s in (12.0, 30.0)]
    print(results.table(COLUMNS, rows))
    if arguments.save:
        print(
            results.save(arguments.save, results.command_line("benchmarks.long_recording.borders"), {}, COLUMNS, rows)
        )


if __name__ == "__main__":
    main()
