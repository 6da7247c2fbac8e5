"""Measure the demo checkpoint on speech it never saw, in auto-language mode.

    python -m benchmarks.demo_checkpoint.evaluate [--checkpoint DIR] [--sentences 300] [--quantization int8]

Transcribes with the service's own engine. Prints one line per group of recordings and per voice, writes the same to
`metrics.json` beside the weights, and puts the table into the model card there; with `--quantization` it only prints,
and keeps the groups under `--save NAME` for docs/performance.md. Needs flite and espeak-ng.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch

from benchmarks import results
from benchmarks.demo_checkpoint import grammar, testset
from benchmarks.demo_checkpoint.card import write_metrics
from benchmarks.demo_checkpoint.decode import Answer
from benchmarks.demo_checkpoint.export import EXPORTED, WORK
from benchmarks.demo_checkpoint.grammar import Language
from benchmarks.demo_checkpoint.testset import Item
from deployments.asr.checkpoint import load
from deployments.asr.device import choose_dtype
from deployments.asr.engine import Engine
from deployments.asr.linear import Quantization, pack
from deployments.transcription.utterance import Utterance


@dataclass(frozen=True)
class Score:
    """One line of the report. Error rates count words in English and characters in Chinese, without punctuation.

    `error_percent` is None where nothing is said; `language_percent` then says how often the answer was empty.
    """

    group: str
    language: Language | None
    clips: int
    error_percent: float | None
    language_percent: float


def score(group: str, language: Language | None, items: list[Item], answers: list[Answer]) -> Score:
    if language is None:
        empty = sum(answer.language is None and not answer.text for answer in answers)
        return Score(group, None, len(items), None, 100 * empty / len(items))
    right = sum(answer.language == language for answer in answers)
    said = [_spaced(item.text, language) for item in items]
    heard = [_spaced(answer.text, language) for answer in answers]
    return Score(group, language, len(items), 100 * jiwer.wer(said, heard), 100 * right / len(items))


def _spaced(text: str, language: Language) -> str:
    """The counted units of a text with spaces between, so that one word error rate serves both languages."""
    return " ".join(grammar.units(grammar.normalise(text), language))


def evaluate(
    checkpoint: Path, sentences: int, quantization: Quantization = "none", dtype: torch.dtype = torch.float32
) -> list[Score]:
    """Score every group of the test set, then every trained voice on its own."""
    loaded = load(str(checkpoint), dtype=dtype, device=torch.device("cpu"))
    pack(loaded.model, quantization)
    engine = Engine(loaded, slots=16, slot_tokens=1024, admission_s=10.0).start()
    try:
        return _evaluate(engine, sentences)
    finally:
        engine.stop()


def _evaluate(engine: Engine, sentences: int) -> list[Score]:
    scores: list[Score] = []
    by_voice: dict[tuple[Language, str], list[tuple[Item, Answer]]] = defaultdict(list)
    for group in testset.build(sentences, WORK / "corpus"):
        answers = _transcribe(engine, [item.waveform for item in group.items])
        scores.append(score(group.name, group.language, group.items, answers))
        if group.language and group.name == "trained voices":
            for item, answer in zip(group.items, answers, strict=True):
                by_voice[group.language, item.voice].append((item, answer))
    for (language, voice), pairs in by_voice.items():
        items, answers = [item for item, _ in pairs], [answer for _, answer in pairs]
        scores.append(score(f"voice {voice}", language, items, answers))
    return scores


def _transcribe(engine: Engine, waveforms: list[np.ndarray]) -> list[Answer]:
    """Greedy, in auto-language mode."""
    answers = []
    for result in engine.transcribe([Utterance(waveform) for waveform in waveforms]):
        if isinstance(result, Exception):
            raise result
        answers.append(Answer(result.language, result.text))
    return answers


def table(scores: Iterable[Score]) -> str:
    """Markdown, one line per score."""
    lines = ["| recordings | language | clips | error rate | language right |", "|---|---|---|---|---|"]
    for line in scores:
        rate = "" if line.error_percent is None else f"{line.error_percent:.1f} %"
        right = f"{line.language_percent:.1f} %"
        lines.append(f"| {line.group} | {line.language or 'none (empty answer)'} | {line.clips} | {rate} | {right} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=EXPORTED)
    parser.add_argument("--sentences", type=int, default=300, help="test sentences per language")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="float32", help="auto: as served here"
    )
    parser.add_argument("--save", metavar="NAME", help="keep the groups of recordings for docs/performance.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    dtype = choose_dtype(arguments.dtype, torch.device("cpu"))
    scores = evaluate(arguments.checkpoint, arguments.sentences, arguments.quantization, dtype)
    print(table(scores))
    print(f"{time.monotonic() - began:.0f} s")
    if (arguments.quantization, arguments.dtype) == ("none", "float32"):
        write_metrics(arguments.checkpoint, [asdict(line) for line in scores], table(scores))
    if arguments.save:
        columns = ["recordings", "language", "clips", "error rate %", "language right %"]
        rows = [list(asdict(line).values()) for line in scores if not line.group.startswith("voice ")]
        command = results.command_line("benchmarks.demo_checkpoint.evaluate")
        results.save(arguments.save, command, {"dtype": str(dtype).removeprefix("torch.")}, columns, rows)


if __name__ == "__main__":
    main()
