"""A replica that dies or breaks takes no request with it."""

import asyncio
import os
import signal
from collections.abc import Callable

import numpy as np
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.ingress.deployment import RemoteRecognizer
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Utterance
from tests.serve.fake_engine import FakeASR

Deploy = Callable[[Application], DeploymentHandle]

WAVEFORM = np.zeros(16_000, dtype=np.float32)


async def _pid(handle: DeploymentHandle, prompt: str = "", seconds: float = 0.0) -> int:
    utterance = Utterance(WAVEFORM, DecodingOptions(prompt=prompt, temperature=seconds))
    transcription = await RemoteRecognizer(handle).transcribe(utterance)
    return int(transcription.text.split()[1])


async def test_utterances_on_a_killed_replica_are_transcribed_by_another(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(num_replicas=2).bind())
    pids = await asyncio.gather(*(_pid(handle) for _ in range(16)))
    victim = pids[0]
    calls = [asyncio.create_task(_pid(handle, seconds=1.0)) for _ in range(16)]
    await asyncio.sleep(0.5)
    os.kill(victim, signal.SIGKILL)
    answered_by = await asyncio.gather(*calls)
    assert victim not in answered_by


async def test_a_replica_whose_device_is_gone_is_replaced(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    broken = await _pid(handle, prompt="break the device")
    async with asyncio.timeout(60):
        while await _pid(handle) == broken:  # noqa: ASYNC110  # nothing tells when Serve has replaced it
            await asyncio.sleep(0.5)
