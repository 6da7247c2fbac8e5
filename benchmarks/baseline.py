"""The service as it is first written: `@serve.batch` around plain `generate`. What the engine is compared with.

    make baseline                            # serves it as `make serve` serves the real one

Ingress, audio, prompts, checkpoint loading, settings, batch size and wait are those of the service; only what happens
to a batch differs: all of it is padded, runs until its longest row is done, and is answered then.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ray import serve
from ray.serve import Application

from deployments.app import wire
from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.batching import BatchingConfig
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.utterance import Delta, Transcription, Utterance

if TYPE_CHECKING:
    from benchmarks.static_batch import StaticBatch


@serve.deployment(name="ASR", max_ongoing_requests=64, health_check_period_s=5, graceful_shutdown_timeout_s=60)
class Baseline:
    """One replica: one batch at a time, from its first row to its last."""

    def __init__(self, settings: Settings, served_model: ServedModel, num_gpus: float):
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._batch = _load(settings, served_model, num_gpus)

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take over batch size and wait."""
        config = BatchingConfig.model_validate(user_config)
        self._transcribe.set_max_batch_size(config.max_batch_size)
        self._transcribe.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Transcribe one utterance; it waits for the batch before, and for the longest of its own.

        Raises:
            InvalidRequest: it asks for more than greedy decoding.
        """
        from benchmarks.static_batch import check_options

        check_options(utterance.options)
        return await self._transcribe(utterance)

    async def transcribe_stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription]:
        """All of the text at once: `generate` tells nothing before the end."""
        transcription: Transcription = await self.transcribe(utterance)
        if transcription.text:
            yield Delta(transcription.text)
        yield transcription

    async def ready(self) -> None:
        """Answer: it is."""

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.01)
    async def _transcribe(self, utterances: list[Utterance]) -> list[Transcription]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._batch.transcribe, utterances)


def build(args: Settings) -> Application:
    """What `deployments.app.build` builds, around the baseline."""
    return wire(args, Baseline)


def _load(settings: Settings, served_model: ServedModel, num_gpus: float) -> "StaticBatch":
    limit_spinning()
    bound_caches()
    import torch

    from benchmarks.static_batch import StaticBatch
    from deployments.asr.checkpoint import load
    from deployments.asr.device import choose_device, choose_dtype, choose_threads

    device = choose_device(num_gpus)
    torch.set_num_threads(choose_threads(settings, device))
    return StaticBatch(load(served_model.checkpoint, dtype=choose_dtype(settings.dtype, device), device=device))
