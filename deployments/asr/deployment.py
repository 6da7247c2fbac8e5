"""The ASR deployment: one model on one device, behind `@serve.batch`."""

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from deployments.asr.gate import BatchGate
from deployments.exceptions import ServiceError
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.utterance import Transcription, Utterance

if TYPE_CHECKING:
    from deployments.asr.engine import Engine

logger = logging.getLogger("ray.serve.asr")


class BatchingConfig(BaseModel):
    """The deployment's `user_config`: applied to running replicas, without a restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(default=8, ge=1, le=1024, description="Utterances decoded together at most.")
    batch_wait_timeout_s: float = Field(
        default=0.01, ge=0, le=10, description="Seconds an idle replica waits for a batch to fill."
    )


@serve.deployment(
    name="ASR",
    # Some batches' worth wait inside the replica, the rest in the router: from there the way is longer.
    max_ongoing_requests=64,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=60,
)
class ASR:
    """One replica. Torch runs in one thread of its own; the event loop only hands batches over."""

    def __init__(self, settings: Settings, served_model: ServedModel, num_gpus: float):
        """Load the model and run it once; the replica is ready when this returns.

        Raises:
            CheckpointError: the model cannot be served.
        """
        self._torch_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._gate = BatchGate(BatchingConfig().max_batch_size)
        self._engine = self._torch_thread.submit(_start_engine, settings, served_model, num_gpus).result()

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take over batch size and wait while requests are running."""
        config = BatchingConfig.model_validate(user_config)
        self._transcribe_batch.set_max_batch_size(config.max_batch_size)
        self._transcribe_batch.set_batch_wait_timeout_s(config.batch_wait_timeout_s)
        self._gate.resize(config.max_batch_size)

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Transcribe one utterance, in a batch with whatever else is waiting.

        Raises:
            ServiceError: this utterance cannot be transcribed.
        """
        async with self._gate.admission():
            result = await self._transcribe_batch(utterance)
        if isinstance(result, ServiceError):
            raise result
        return result

    @serve.batch(
        max_batch_size=BatchingConfig().max_batch_size,
        batch_wait_timeout_s=BatchingConfig().batch_wait_timeout_s,
    )
    async def _transcribe_batch(self, utterances: list[Utterance]) -> list[Transcription | ServiceError]:
        with self._gate.running():
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._torch_thread, self._engine.transcribe, utterances)

    def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        if self._engine.device_error is not None:
            raise RuntimeError("the device has failed for good") from self._engine.device_error


def _start_engine(settings: Settings, served_model: ServedModel, num_gpus: float) -> "Engine":
    # Read when torch loads its OpenMP. Spinning at barriers, the default, makes inference ten times slower as soon as
    # anything else wants the cores: decoding media, another replica, Ray itself.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here: the process that only builds the application does not need torch.
    import torch

    from deployments.asr.checkpoint import load
    from deployments.asr.device import choose_device, choose_dtype, choose_threads
    from deployments.asr.engine import Engine

    started = time.monotonic()
    device = choose_device(num_gpus)
    dtype = choose_dtype(settings.dtype, device)
    torch.set_num_threads(choose_threads(settings, device))
    engine = Engine(load(served_model.checkpoint, dtype=dtype, device=device))
    engine.warm_up()
    logger.info(
        "serving %s from %s on %s in %s with %d torch threads, ready after %.1f s",
        served_model.id,
        served_model.checkpoint,
        device,
        dtype,
        torch.get_num_threads(),
        time.monotonic() - started,
    )
    return engine
