"""One utterance on its way through the engine."""

import math
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from deployments.asr.answer import AnswerReader
from deployments.asr.loops import LoopDetector
from deployments.asr.request import Request
from deployments.budget import CHUNK_TOKENS, PROMPT_TOKENS
from deployments.transcription.utterance import Transcription, Utterance


@dataclass(eq=False)
class Sequence:
    """What is known of an utterance before it is admitted, and its answer as far as it is decoded."""

    request: Request
    prompt_ids: list[int]
    audio_tokens: int
    budget: int
    """Tokens its answer may have."""
    reader: AnswerReader
    loops: LoopDetector | None = None
    """Ends the answer where it goes round in circles; None lets it."""
    generator: torch.Generator | None = None
    """Random stream of its own, where it samples."""
    openings: list[list[int]] = field(default_factory=list)
    """What its answer may begin with, where only some languages may be detected."""
    prompt: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    """Embeddings of the whole prompt, (tokens, hidden), once its audio is encoded."""
    read: int = 0
    """Tokens of the prompt that are in the cache."""
    let_pass: int = 0
    """Decode steps of much shorter ones that it has waited for on its way in."""
    admitted_at: float = 0.0
    """On the monotonic clock, as `first_token_at`."""
    encode_s: float = 0.0
    """Seconds that encoding took, with those that were admitted with it."""
    first_token_at: float | None = None
    answer: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Natural-log probability of each token of the answer."""

    @property
    def utterance(self) -> Utterance:
        return self.request.utterance

    @property
    def future(self) -> "Future[Transcription]":
        return self.request.future

    @property
    def is_answered(self) -> bool:
        """Whether it has a transcription, and so had nothing but finite numbers."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    @property
    def length_s(self) -> float:
        """Seconds of its audio, and of as much audio as has the tokens of a long context: what it takes to join."""
        context_tokens = len(self.prompt_ids) - self.audio_tokens - PROMPT_TOKENS
        return self.utterance.duration + max(0, context_tokens) / CHUNK_TOKENS

    @property
    def due_at(self) -> float:
        """On the monotonic clock: who is due first joins first."""
        return self.request.arrived_at + self.length_s

    @property
    def position(self) -> int:
        """Where in its slot the next token goes."""
        return len(self.prompt_ids) + len(self.answer) - 1

    @property
    def next_of_openings(self) -> list[int]:
        """The tokens that may come next where the answer must begin with one of `openings`; empty for any."""
        told = len(self.answer)
        return [ids[told] for ids in self.openings if len(ids) > told and ids[:told] == self.answer]

    def forget_prompt(self) -> None:
        """It is in the cache; its embeddings would keep those of all that were encoded with it."""
        self.prompt = torch.empty(0)

    def append(self, token: int, logprob: float) -> None:
        """Take the next token of the answer, and tell what it adds to the text.

        Raises:
            FloatingPointError: the model computed no finite probability for it.
        """
        if not math.isfinite(logprob):
            raise FloatingPointError("the model computed no finite probabilities")
        self.answer.append(token)
        self.logprobs.append(logprob)
        if self.request.on_delta is not None and (delta := self.reader.read(token, logprob)):
            self.request.on_delta(delta)
