"""How readings reach the model of a running Aligner deployment, and how its words come back."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.aligner.deployment import Aligner
from deployments.exceptions import EngineFailure, ServiceError, ServiceUnavailable, UnalignableLanguage
from deployments.ingress.remote_aligner import RemoteAligner
from deployments.model_health import ModelHealth
from deployments.transcription.words import Reading, Word

Deploy = Callable[[Application], DeploymentHandle]

WAVEFORM = np.zeros(16_000, np.float32)


class FakeModel:
    """Answers one word for each reading: how many came together, and the pid as its start."""

    def __init__(self) -> None:
        self._broken = False

    def align(self, readings: Sequence[Reading]) -> list[tuple[Word, ...] | ServiceError]:
        time.sleep(3.0 if any(reading.text == "slow" for reading in readings) else 0.2)
        if any(reading.text == "kill" for reading in readings):
            os.kill(os.getpid(), signal.SIGKILL)
        self._broken |= any(reading.text == "break the device" for reading in readings)
        if self._broken or any(reading.text == "break" for reading in readings):
            raise RuntimeError("CUDA error")
        return [
            UnalignableLanguage("No times in Finnish.")
            if reading.language == "Finnish"
            else (Word(f"{len(readings)}", float(os.getpid()), 0.0),)
            for reading in readings
        ]


@serve.deployment(name="Aligner", max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_wait_loop_s=0.05)
class FakeAligner(Aligner.func_or_class):  # type: ignore[name-defined]
    """`Aligner` without a model."""

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(max_workers=1)
        self._health = ModelHealth()
        self._model = FakeModel()


@pytest.fixture
def aligner(deploy: Deploy) -> RemoteAligner:
    return RemoteAligner(deploy(FakeAligner.options(user_config={"batch_wait_timeout_s": 0.5}).bind()))


async def _word(aligner: RemoteAligner, text: str = "word", language: str = "English") -> Word:
    (word,) = await aligner.align(WAVEFORM, text, language)
    return word


async def test_arrivals_are_aligned_together(aligner: RemoteAligner) -> None:
    words = await asyncio.gather(*(_word(aligner) for _ in range(8)))
    assert {word.text for word in words} == {"8"}


async def test_an_error_of_one_reading_is_its_own(aligner: RemoteAligner) -> None:
    answers = await asyncio.gather(
        _word(aligner), _word(aligner, language="Finnish"), _word(aligner), return_exceptions=True
    )
    assert isinstance(answers[1], UnalignableLanguage)
    assert answers[1].param == "timestamp_granularities"
    assert [answer.text for answer in (answers[0], answers[2]) if isinstance(answer, Word)] == ["3", "3"]


async def test_a_batch_that_fails_is_tried_one_by_one(aligner: RemoteAligner) -> None:
    answers = await asyncio.gather(_word(aligner), _word(aligner, "break"), _word(aligner), return_exceptions=True)
    assert isinstance(answers[1], EngineFailure)
    assert [answer.text for answer in (answers[0], answers[2]) if isinstance(answer, Word)] == ["1", "1"]


async def test_a_replica_on_which_everything_fails_is_replaced(aligner: RemoteAligner) -> None:
    before = (await _word(aligner)).start
    with pytest.raises(EngineFailure):
        await _word(aligner, "break the device")
    async with asyncio.timeout(60):
        while True:
            try:
                if (await _word(aligner)).start != before:
                    break
            except ServiceError:
                await asyncio.sleep(0.5)


async def test_readings_on_a_killed_replica_are_aligned_by_another(deploy: Deploy) -> None:
    aligner = RemoteAligner(deploy(FakeAligner.options(num_replicas=2).bind()))
    victim = round((await _word(aligner)).start)
    calls = [asyncio.create_task(_word(aligner, "slow")) for _ in range(16)]
    await asyncio.sleep(1.0)
    os.kill(victim, signal.SIGKILL)
    answered_by = {word.start for word in await asyncio.gather(*calls)}
    assert victim not in answered_by


async def test_a_reading_that_kills_its_replica_is_not_sent_a_third_time(deploy: Deploy) -> None:
    aligner = RemoteAligner(deploy(FakeAligner.options(num_replicas=2).bind()))
    with pytest.raises(ServiceUnavailable, match="restarting"):
        await _word(aligner, "kill")
