"""How utterances become batches in a running ASR deployment."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.exceptions import InvalidAudio
from deployments.ingress.deployment import RemoteRecognizer
from deployments.transcription.utterance import Utterance
from tests.serve.fake_engine import FakeASR

Deploy = Callable[[Application], DeploymentHandle]

WAVEFORM = np.zeros(16_000, dtype=np.float32)


async def _batch_size(handle: DeploymentHandle, prompt: str = "") -> int:
    transcription = await RemoteRecognizer(handle).transcribe(Utterance(WAVEFORM, prompt=prompt))
    return int(transcription.text.split()[0])


async def test_arrivals_during_a_running_batch_share_the_next_one(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind(seconds=0.5))
    await _batch_size(handle)
    calls = []
    for _ in range(17):
        calls.append(asyncio.create_task(_batch_size(handle)))
        await asyncio.sleep(0.025)
    sizes = await asyncio.gather(*calls)
    # One or a few start at once, the others arrive while those run: @serve.batch by itself would run them one by one.
    assert sizes.count(8) >= 8
    assert max(sizes) <= 8


async def test_batch_size_and_wait_change_in_place(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"max_batch_size": 2, "batch_wait_timeout_s": 0.2}).bind(seconds=0.1))
    await _batch_size(handle)
    assert max(await asyncio.gather(*(_batch_size(handle) for _ in range(8)))) == 2
    await handle.reconfigure.remote({"max_batch_size": 4})
    sizes = await asyncio.gather(*(_batch_size(handle) for _ in range(12)))
    assert max(sizes) == 4


async def test_a_wrong_user_config_is_refused(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    with pytest.raises(RayTaskError, match="max_batch"):
        await handle.reconfigure.remote({"max_batch": 4})


async def test_an_error_of_one_utterance_is_its_own_and_keeps_its_fields(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind(seconds=0.2))
    good = [asyncio.create_task(_batch_size(handle)) for _ in range(4)]
    with pytest.raises(InvalidAudio) as raised:
        await _batch_size(handle, prompt="refuse")
    assert (raised.value.message, raised.value.param) == ("The recording is no good.", "file")
    assert all(await asyncio.gather(*good))


async def test_callers_that_go_away_while_waiting_are_not_transcribed(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"max_batch_size": 1}).bind(seconds=0.5))
    recognizer = RemoteRecognizer(handle)
    await _batch_size(handle)
    running = asyncio.create_task(_batch_size(handle))
    await asyncio.sleep(0.2)
    gone = [asyncio.create_task(_batch_size(handle)) for _ in range(10)]
    await asyncio.sleep(0.1)
    for call in gone:
        call.cancel()
    await asyncio.wait(gone)
    await running
    last = await recognizer.transcribe(Utterance(WAVEFORM))
    transcribed = int(last.text.split()[2])
    assert transcribed == 3
