"""The ASR deployment: one model on one device, behind `@serve.batch`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import BackpressureConfig

from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.asr.request import Request
from deployments.asr.workload import Workload
from deployments.batching import BatchingConfig
from deployments.exceptions import InvalidRequest
from deployments.observation.recorders import EnginePublisher
from deployments.observation.tracing import trace_stages
from deployments.replica_health import HEALTH_CHECKS, end_replica
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.utterance import Delta, Transcription, Utterance

if TYPE_CHECKING:
    from deployments.asr.engine import Engine

logger = logging.getLogger("ray.serve.asr")


@serve.deployment(
    name="ASR",
    # Where an operator bounds the queue in the ingress with max_queued_requests, what is more is answered with a 429.
    backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
    **HEALTH_CHECKS,
    graceful_shutdown_timeout_s=60,
)
class ASR:
    """One replica. Torch runs in the engine's own thread; the event loop only hands arrivals over."""

    def __init__(self, settings: Settings, served_model: ServedModel, num_gpus: float):
        """Load the model and run it once; the replica is ready when this returns.

        Raises:
            CheckpointError: the model cannot be served.
        """
        self._preparation = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._engine = _start_engine(settings, served_model, num_gpus)
        self._publisher = EnginePublisher(self._engine)
        self._workload = Workload()

    async def reconfigure(self, user_config: dict[str, object]) -> None:
        """Take over batch size and wait while requests are running."""
        config = BatchingConfig.model_validate(user_config)
        self._submit.set_max_batch_size(config.max_batch_size)
        self._submit.set_batch_wait_timeout_s(config.batch_wait_timeout_s)

    async def transcribe(self, utterance: Utterance) -> Transcription | InvalidRequest:
        """Transcribe one utterance, together with whatever else is running.

        Returns its transcription, or what its caller has to change: Serve would log and count what is raised as a fault
        of this replica.

        Raises:
            ServiceError: this utterance could not be transcribed.
        """
        future: Future[Transcription] = Future()
        with self._workload.of(utterance):
            try:
                await self._submit(Request(utterance, future))
                transcription = await asyncio.wrap_future(future)
                trace_stages(utterance, transcription)
                return transcription
            except InvalidRequest as refusal:
                return refusal
            finally:
                future.cancel()  # frees its slot in the engine if the caller has gone

    async def transcribe_stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription | InvalidRequest]:
        """Transcribe one utterance and tell its text as it is decoded.

        Yields any number of `Delta`, and last the `Transcription`, whose text is all of theirs joined; or as
        `transcribe`, what its caller has to change.

        Raises:
            ServiceError: this utterance could not be transcribed.
        """
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Delta | None] = asyncio.Queue()

        def tell(delta: Delta | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has ended, and nobody listens
                loop.call_soon_threadsafe(told.put_nowait, delta)

        future: Future[Transcription] = Future()
        future.add_done_callback(lambda _: tell(None))
        with self._workload.of(utterance):
            try:
                await self._submit(Request(utterance, future, on_delta=tell))
                while (delta := await told.get()) is not None:
                    yield delta
                transcription: Transcription = await asyncio.wrap_future(future)
                trace_stages(utterance, transcription)
                yield transcription
            except InvalidRequest as refusal:
                yield refusal
            finally:
                future.cancel()

    async def ready(self) -> None:
        """Answer, if an utterance would be transcribed.

        Raises:
            RuntimeError: nothing will be transcribed here any more.
        """
        self._engine.check()

    @serve.batch(
        max_batch_size=BatchingConfig().max_batch_size, batch_wait_timeout_s=BatchingConfig().batch_wait_timeout_s
    )
    async def _submit(self, requests: list[Request]) -> list[None]:
        """Hand a group of arrivals over to the engine, which answers each when it ends, not when the group does."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._preparation, self._engine.submit, requests)
        return [None] * len(requests)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Serve where the deployment is autoscaled: what `deployments.autoscaling` goes by."""
        return self._workload.report()

    def __del__(self) -> None:
        """Called by Serve when the replica has drained."""
        if hasattr(self, "_publisher"):
            self._publisher.stop()
        if hasattr(self, "_engine"):  # not where the model could not be loaded
            self._engine.stop()

    def check_health(self) -> None:
        """Called by Serve; a replica that will not transcribe any more ends here."""
        try:
            self._engine.check()
        except RuntimeError as error:
            end_replica(error)


def _start_engine(settings: Settings, served_model: ServedModel, num_gpus: float) -> "Engine":
    limit_spinning()
    bound_caches()
    # Imported here: the process that only builds the application does not need torch.
    from deployments.asr.start import start_engine

    return start_engine(settings, served_model, num_gpus)
