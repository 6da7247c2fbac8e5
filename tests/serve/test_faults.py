"""A replica that dies, hangs or breaks takes no request with it, and neither does one that is replaced."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import requests
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.app import wire
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.settings import Settings
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Utterance
from tests.serve.fake_engine import FakeASR
from tests.speech import ENGLISH

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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_utterances_on_the_only_replica_wait_for_the_next_one(deploy: Deploy, how: signal.Signals) -> None:
    handle = deploy(FakeASR.options(health_check_timeout_s=1).bind())
    victim = await _pid(handle)
    calls = [asyncio.create_task(_pid(handle, seconds=1.0)) for _ in range(4)]
    await asyncio.sleep(0.5)
    os.kill(victim, how)
    calls += [asyncio.create_task(_pid(handle)) for _ in range(4)]
    async with asyncio.timeout(60):
        answered_by = await asyncio.gather(*calls)
    assert victim not in answered_by


async def test_a_replica_whose_device_is_gone_is_replaced(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    broken = await _pid(handle, prompt="break the device")
    async with asyncio.timeout(60):
        while await _pid(handle) == broken:  # noqa: ASYNC110  # nothing tells when Serve has replaced it
            await asyncio.sleep(0.5)


def _post(base_url: str, **fields: str) -> requests.Response:
    return requests.post(
        f"{base_url}/v1/audio/transcriptions",
        data={"model": "qwen3-asr-demo", **fields},
        files={"file": ENGLISH[0].path.read_bytes()},
        stream="stream" in fields,
        timeout=60,
    )


def _ingress_replicas() -> list[psutil.Process]:
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if "ServeReplica:test:Ingress" in " ".join(process.cmdline())]


def test_requests_in_an_ingress_replica_that_is_killed_are_answered_by_the_next(deploy: Deploy, base_url: str) -> None:
    deploy(wire(Settings(), FakeASR))
    (victim,) = _ingress_replicas()
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(_post, base_url, prompt="wait 2") for _ in range(4)]
        stream = _post(base_url, prompt="tell", stream="true", temperature="1")
        lines = stream.iter_lines()
        assert next(lines) == b'data: {"type":"transcript.text.delta","delta":"told"}'
        victim.kill()
        assert [answer.result().status_code for answer in answers] == [200] * 4
    *events, end = [line for line in lines if line.startswith(b"data: ")]
    assert end == b"data: [DONE]"
    assert [json.loads(event.removeprefix(b"data: "))["type"] for event in events][-1] == "transcript.text.done"
    assert b'"delta":"told"' not in b"".join(events), "it was told already"


def test_an_update_fails_no_request(deploy: Deploy, base_url: str) -> None:
    deploy(wire(Settings(), FakeASR))
    (old,) = _ingress_replicas()
    answers: list[Future[requests.Response]] = []
    with ThreadPoolExecutor(64) as threads:
        changed = Settings(served_model_name="new", model_aliases=("qwen3-asr-demo",))
        updating = threads.submit(deploy, wire(changed, FakeASR))
        while not updating.done() or old.is_running():
            answers.append(threads.submit(_post, base_url, prompt="wait 0.3"))
            time.sleep(0.1)
    assert {answer.result().status_code for answer in answers} == {200}
    assert requests.get(f"{base_url}/v1/models", timeout=10).json()["data"][0]["id"] == "new"
