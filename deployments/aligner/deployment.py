"""The Aligner deployment: one forced aligner on one device, behind `@serve.batch`."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ray import serve

from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.batching import BatchingConfig
from deployments.exceptions import EngineFailure, ServiceError
from deployments.model_health import ModelHealth
from deployments.replica_health import HEALTH_CHECKS, end_replica
from deployments.settings import Settings
from deployments.transcription.words import Reading, Word

if TYPE_CHECKING:
    from deployments.aligner.model import AlignerModel

logger = logging.getLogger("ray.serve.asr")

Answer = tuple[Word, ...] | ServiceError


@serve.deployment(
    name="Aligner",
    # Some batches' worth wait inside the replica, the rest in the router: from there the way is longer.
    max_ongoing_requests=64,
    **HEALTH_CHECKS,
    graceful_shutdown_timeout_s=60,
)
class Aligner:
    """One replica. Torch runs in a thread of its own, one batch at a time; arrivals meanwhile form the next one."""

    def __init__(self, settings: Settings, checkpoint: str):
        """Load the model and run it once; the replica is ready when this returns.

        Raises:
            CheckpointError: the aligner cannot be served.
        """
        self._compute = ThreadPoolExecutor(max_workers=1, thread_name_prefix="align")
        self._health = ModelHealth()
        # In the thread that will compute: OpenMP threads of another one would stay, and slow it down.
        self._model = self._compute.submit(_start, settings, checkpoint).result()

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take over batch size and wait while requests are running."""
        config = BatchingConfig.model_validate(user_config)
        self._answer.set_max_batch_size(config.max_batch_size)
        self._answer.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    async def align(self, reading: Reading) -> tuple[Word, ...]:
        """Find the words of one reading, together with whatever else arrives.

        Raises:
            ServiceError: this reading cannot be aligned.
        """
        answer: Answer = await self._answer(reading)
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    @serve.batch(
        max_batch_size=BatchingConfig().max_batch_size, batch_wait_timeout_s=BatchingConfig().batch_wait_timeout_s
    )
    async def _answer(self, readings: list[Reading]) -> list[Answer]:
        return await asyncio.get_running_loop().run_in_executor(self._compute, self._align, readings)

    def _align(self, readings: list[Reading]) -> list[Answer]:
        """One batch. Where it fails as a whole, each is tried alone: one reading's fault is not the others'."""
        try:
            with self._health.working(sum(reading.duration for reading in readings)):
                answers = self._model.align(readings)
        except Exception:  # torch raises its own kinds, such as out of memory
            logger.exception("aligning %d readings failed", len(readings))
            if len(readings) > 1:
                return [answer for reading in readings for answer in self._align([reading])]
            self._health.failed()
            return [EngineFailure("The times of the words could not be found.")]
        self._health.succeeded()
        return answers

    def check_health(self) -> None:
        """Called by Serve; a replica that will not align any more ends here."""
        try:
            self._health.check()
        except RuntimeError as error:
            end_replica(error)


def _start(settings: Settings, checkpoint: str) -> "AlignerModel":
    limit_spinning()
    bound_caches()
    # Imported here: the process that only builds the application does not need torch.
    from deployments.aligner.start import start_aligner

    return start_aligner(settings, checkpoint)
