"""How far found times of words are from the true ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from benchmarks.demo_aligner.said import Times
from benchmarks.demo_checkpoint.grammar import Language
from deployments.aligner.checkpoint import AlignerCheckpoint
from deployments.aligner.model import AlignerModel
from deployments.asr.checkpoint import Checkpoint
from deployments.exceptions import ServiceError
from deployments.transcription.words import Reading

_BATCH_S = 60.0


@dataclass(frozen=True)
class Score:
    """One line of the report: absolute errors of all starts and ends of words."""

    group: str
    language: Language | None
    clips: int
    times: int
    mean_ms: float
    median_ms: float
    within_100_ms_percent: float
    beyond_500_ms_percent: float

    @classmethod
    def of(cls, group: str, language: Language | None, clips: int, errors: Sequence[float]) -> "Score":
        """Sum up errors in seconds."""
        milliseconds = 1000 * np.asarray(errors)
        return cls(
            group,
            language,
            clips,
            len(milliseconds),
            mean_ms=round(float(milliseconds.mean()), 1),
            median_ms=round(float(np.median(milliseconds)), 1),
            within_100_ms_percent=round(100 * float((milliseconds <= 100).mean()), 1),
            beyond_500_ms_percent=round(100 * float((milliseconds > 500).mean()), 2),
        )

    def __str__(self) -> str:
        return (
            f"{self.times} times: mean {self.mean_ms:.0f} ms, median {self.median_ms:.0f} ms, "
            f"{self.within_100_ms_percent:.1f} % within 100 ms, {self.beyond_500_ms_percent:.2f} % beyond 500 ms"
        )


def align(
    model: Qwen3ASRForTokenClassification,
    processor: Qwen3ASRProcessor,
    recordings: Sequence[tuple[np.ndarray, str, Language]],
) -> list[list[float]]:
    """Start and end of every word of each recording by the service's own aligner, in the order given."""
    checkpoint = Checkpoint(model, processor.feature_extractor, processor.tokenizer)
    aligner = AlignerModel(AlignerCheckpoint(checkpoint, processor))
    found: list[list[float]] = [[] for _ in recordings]
    batch: list[int] = []
    for position, index in enumerate(sorted(range(len(recordings)), key=lambda index: recordings[index][0].size)):
        batch.append(index)
        seconds = sum(Reading(*recordings[member]).duration for member in batch)
        if seconds < _BATCH_S and position < len(recordings) - 1:
            continue
        for member, answer in zip(batch, aligner.align([Reading(*recordings[i]) for i in batch]), strict=True):
            if isinstance(answer, ServiceError):
                raise answer
            found[member] = [time for word in answer for time in (word.start, word.end)]
        batch = []
    return found


def errors_of(true: Times, found: Sequence[float]) -> list[float]:
    """Absolute errors in seconds of all times that are known."""
    return [abs(time - known) for known, time in zip(true, found, strict=True) if known is not None]
