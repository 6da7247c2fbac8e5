"""Measure the demo aligner on speech it never saw.

    python -m benchmarks.demo_aligner.evaluate [--checkpoint DIR] [--sentences 300]

Aligns with the service's own aligner, which hears no long pauses. Prints one line per group of recordings and per
voice, writes the same to `metrics.json` beside the weights, and puts the table into the model card there. Needs flite
and espeak-ng.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.demo_aligner import testset
from benchmarks.demo_aligner.export import EXPORTED
from benchmarks.demo_aligner.said import words_of
from benchmarks.demo_aligner.scoring import Score, align, errors_of
from benchmarks.demo_aligner.testset import TimedItem
from benchmarks.demo_checkpoint.card import write_metrics
from benchmarks.demo_checkpoint.grammar import Language
from deployments.aligner.checkpoint import load_aligner
from deployments.audio.levels import evened
from deployments.audio.pauses import Shortened, without_long_pauses
from deployments.audio.silero import SileroVad
from deployments.audio.speech import Span, SpeechFinder, SpeechOptions
from deployments.audio.waveform import Waveform
from deployments.transcription.lost_words import in_their_time
from deployments.transcription.words import Word

GOAL_MS = 60.0
"""Mean absolute error that unseen sentences of trained voices must stay within."""


def evaluate(checkpoint: Path, sentences: int) -> list[Score]:
    """Score every group of the test set, then every trained voice on its own."""
    loaded = load_aligner(str(checkpoint), dtype=torch.float32, device=torch.device("cpu"))
    scores: list[Score] = []
    by_voice: dict[tuple[Language, str], list[list[float]]] = defaultdict(list)
    for group in testset.build(sentences):
        speech = [_speech_in(item.waveform) for item in group.items]
        heard = [
            without_long_pauses(evened(item.waveform, own), own) for item, own in zip(group.items, speech, strict=True)
        ]
        found = align(
            loaded.checkpoint.model,
            loaded.processor,
            [(own.waveform, item.text, item.language) for own, item in zip(heard, group.items, strict=True)],
        )
        errors = [
            errors_of(item.times, _as_served(item, times, *own))
            for item, times, own in zip(group.items, found, zip(heard, speech, strict=True), strict=True)
        ]
        scores.append(_score(group.name, group.language, errors))
        if group.name == "trained voices":
            for item, own in zip(group.items, errors, strict=True):
                by_voice[group.language, item.voice].append(own)
    scores += [_score(f"voice {voice}", language, errors) for (language, voice), errors in by_voice.items()]
    return scores


def _speech_in(waveform: Waveform) -> list[Span]:
    finder = SpeechFinder(SileroVad(), SpeechOptions())
    return [*finder.push(waveform), *finder.finish()]


def _as_served(item: TimedItem, times: Sequence[float], heard: Shortened, speech: Sequence[Span]) -> list[float]:
    """Starts and ends of words as the service makes them of the aligner's answer to what it has heard."""
    spans = zip(words_of(item.text, item.language), times[::2], times[1::2], strict=True)
    words = [Word(text, *heard.original(start, end)) for text, start, end in spans]
    return [time for word in in_their_time(words, speech) for time in (word.start, word.end)]


def _score(group: str, language: Language, errors: list[list[float]]) -> Score:
    return Score.of(group, language, len(errors), [error for own in errors for error in own])


def table(scores: Iterable[Score]) -> str:
    """Markdown, one line per score."""
    lines = [
        "| recordings | language | clips | times | mean error | median | within 100 ms | beyond 500 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {line.group} | {line.language} | {line.clips} | {line.times} | {line.mean_ms:.1f} ms | "
        f"{line.median_ms:.1f} ms | {line.within_100_ms_percent:.1f} % | {line.beyond_500_ms_percent:.2f} % |"
        for line in scores
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=EXPORTED)
    parser.add_argument("--sentences", type=int, default=300, help="test sentences per language")
    parser.add_argument("--save", metavar="NAME", help="keep the groups of recordings for docs/performance.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    scores = evaluate(arguments.checkpoint, arguments.sentences)
    print(table(scores))
    print(f"{time.monotonic() - began:.0f} s")
    write_metrics(arguments.checkpoint, [asdict(line) for line in scores], table(scores))
    if arguments.save:
        groups = [line for line in scores if not line.group.startswith("voice ")]
        columns = list(asdict(scores[0]))
        rows = [list(asdict(line).values()) for line in groups]
        results.save(arguments.save, results.command_line("benchmarks.demo_aligner.evaluate"), {}, columns, rows)
    late = [line.language for line in scores if line.group == "trained voices" and line.mean_ms > GOAL_MS]
    if late:
        raise SystemExit(f"mean error of trained voices above {GOAL_MS:.0f} ms in {', '.join(map(str, late))}")


if __name__ == "__main__":
    main()
