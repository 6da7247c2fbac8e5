"""The real ASR deployment around an engine that does what its prompt says."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from deployments.asr.deployment import ASR, BatchingConfig
from deployments.asr.gate import BatchGate
from deployments.exceptions import InvalidAudio, ServiceError
from deployments.transcription.utterance import Transcription, Utterance


class FakeEngine:
    """Answers with the size of the batch, its pid and how many it has transcribed; takes as long as it is told to."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._transcribed = 0
        self.device_error: Exception | None = None

    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription | ServiceError]:
        time.sleep(self._seconds)
        self._transcribed += len(utterances)
        return [self._answer(utterance, len(utterances)) for utterance in utterances]

    def _answer(self, utterance: Utterance, batch_size: int) -> Transcription | ServiceError:
        if utterance.prompt == "refuse":
            return InvalidAudio("The recording is no good.")
        if utterance.prompt == "break the device":
            self.device_error = RuntimeError("gone")
        return Transcription(
            f"{batch_size} {os.getpid()} {self._transcribed}", "English", "stop", 1, 1, 1, avg_logprob=-0.1
        )


@serve.deployment(name="ASR", max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_wait_loop_s=0.05)
class FakeASR(ASR.func_or_class):  # type: ignore[name-defined]
    """`ASR` without a model."""

    def __init__(self, seconds: float = 0.0):
        self._torch_thread = ThreadPoolExecutor(max_workers=1)
        self._gate = BatchGate(BatchingConfig().max_batch_size)
        self._engine = FakeEngine(seconds)
