"""One utterance on its way through the engine."""

import math
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from deployments.asr.encoder import Mel
from deployments.transcription.utterance import Transcription, Utterance


@dataclass(eq=False)
class Sequence:
    """What is known of an utterance before it is admitted, and its answer as far as it is decoded."""

    utterance: Utterance
    mel: Mel
    prompt_ids: list[int]
    budget: int
    """Tokens its answer may have."""
    future: "Future[Transcription]"
    """Where the result goes; cancelled by whoever does not want it any more."""
    generator: torch.Generator | None = None
    """Random stream of its own, where it samples."""
    answer: list[int] = field(default_factory=list)
    logprob_sum: float = 0.0

    @property
    def position(self) -> int:
        """Where in its slot the next token goes."""
        return len(self.prompt_ids) + len(self.answer) - 1

    @property
    def tokens_at_most(self) -> int:
        """Slot length it may come to need."""
        return len(self.prompt_ids) + self.budget

    def append(self, token: int, logprob: float) -> None:
        """Take the next token of the answer.

        Raises:
            FloatingPointError: the model computed no finite probability for it.
        """
        if not math.isfinite(logprob):
            raise FloatingPointError("the model computed no finite probabilities")
        self.answer.append(token)
        self.logprob_sum += logprob
