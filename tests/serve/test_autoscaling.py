"""Replicas come and go with the audio there is, by Ray's own controller."""

import asyncio
from collections.abc import Callable

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from deployments.audio.waveform import SAMPLE_RATE
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Utterance
from tests.serve.fake_engine import FakeASR

Deploy = Callable[[Application], DeploymentHandle]

POLICY = AutoscalingPolicy(
    policy_function="deployments.autoscaling:AudioSecondsPolicy", policy_kwargs={"audio_s_per_s": 10, "within_s": 3}
)


def autoscaled(min_replicas: int) -> Application:
    """Decides at once, so that the test need not wait."""
    config = AutoscalingConfig(
        min_replicas=min_replicas,
        max_replicas=2,
        upscale_delay_s=0,
        downscale_delay_s=0,
        metrics_interval_s=0.5,
        look_back_period_s=1,
        policy=POLICY,
    )
    return FakeASR.options(autoscaling_config=config).bind()


async def replicas_are(number: int) -> None:
    async with asyncio.timeout(40):
        while True:
            states = serve.status().applications["test"].deployments["ASR"].replica_states
            if states == ({"RUNNING": number} if number else {}):
                return
            await asyncio.sleep(0.2)


def call(handle: DeploymentHandle, *, audio_s: float, takes_s: float) -> asyncio.Task[object]:
    waveform = np.zeros(round(audio_s * SAMPLE_RATE), np.float32)
    utterance = Utterance(waveform, DecodingOptions(temperature=takes_s))
    return asyncio.ensure_future(RemoteRecognizer(handle).transcribe(utterance))


async def test_one_more_for_long_utterances_and_none_for_short_ones(deploy: Deploy) -> None:
    handle = deploy(autoscaled(1))
    short = [call(handle, audio_s=1, takes_s=60) for _ in range(8)]
    await asyncio.sleep(4)
    await replicas_are(1)
    long = [call(handle, audio_s=25, takes_s=60) for _ in range(2)]
    await replicas_are(2)
    for task in (*short, *long):
        task.cancel()
    await asyncio.gather(*short, *long, return_exceptions=True)
    await replicas_are(1)


async def test_what_waits_wakes_the_first_replica(deploy: Deploy) -> None:
    handle = deploy(autoscaled(0))
    await replicas_are(0)
    assert await asyncio.wait_for(call(handle, audio_s=1, takes_s=0.1), 40)
    await replicas_are(0)
