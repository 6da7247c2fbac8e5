"""How utterances reach the engine of a running ASR deployment, and how its answers come back."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.exceptions import InvalidAudio
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Delta, Transcription, Utterance
from tests.serve.fake_engine import FakeASR

Deploy = Callable[[Application], DeploymentHandle]

WAVEFORM = np.zeros(16_000, dtype=np.float32)


async def _answer(handle: DeploymentHandle, prompt: str = "", seconds: float = 0.0) -> list[int]:
    """Size of the group, pid, others in the engine, cancelled so far."""
    options = DecodingOptions(prompt=prompt, temperature=seconds)
    transcription = await RemoteRecognizer(handle).transcribe(Utterance(WAVEFORM, options))
    return [int(word) for word in transcription.text.split()]


async def _group_sizes(handle: DeploymentHandle, calls: int) -> list[int]:
    return [answer[0] for answer in await asyncio.gather(*(_answer(handle) for _ in range(calls)))]


async def test_nobody_waits_for_anothers_end(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"batch_wait_timeout_s": 0.5}).bind())
    long, short = (asyncio.create_task(_answer(handle, seconds=seconds)) for seconds in (30.0, 0.1))
    group, *_ = await asyncio.wait_for(short, 10)
    assert group == 2, "they came in one group"
    assert not long.done()
    long.cancel()


async def test_arrivals_while_others_run_are_grouped(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"batch_wait_timeout_s": 0.5}).bind())
    running = asyncio.create_task(_answer(handle, seconds=30.0))
    await asyncio.sleep(1.0)
    assert set(await _group_sizes(handle, 8)) == {8}
    assert not running.done()
    running.cancel()


async def test_group_size_and_wait_change_in_place(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"max_batch_size": 2, "batch_wait_timeout_s": 0.5}).bind())
    assert max(await _group_sizes(handle, 8)) == 2
    await handle.reconfigure.remote({"max_batch_size": 4, "batch_wait_timeout_s": 0.5})
    assert max(await _group_sizes(handle, 12)) == 4


async def test_a_wrong_user_config_is_refused(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    with pytest.raises(RayTaskError, match="max_batch"):
        await handle.reconfigure.remote({"max_batch": 4})


async def test_an_error_of_one_utterance_is_its_own_and_keeps_its_fields(deploy: Deploy) -> None:
    handle = deploy(FakeASR.options(user_config={"batch_wait_timeout_s": 0.5}).bind())
    good = [asyncio.create_task(_answer(handle)) for _ in range(4)]
    with pytest.raises(InvalidAudio) as raised:
        await _answer(handle, prompt="refuse")
    assert (raised.value.message, raised.value.param) == ("The recording is no good.", "file")
    assert [group for group, *_ in await asyncio.gather(*good)] == [5] * 4


async def test_a_caller_that_goes_away_cancels_its_utterance(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    gone = [asyncio.create_task(_answer(handle, seconds=3.0)) for _ in range(5)]
    await asyncio.sleep(1.0)
    for call in gone:
        call.cancel()
    await asyncio.wait(gone)
    *_, cancelled = await _answer(handle, seconds=4.0)
    assert cancelled == 5


async def test_deltas_arrive_while_the_answer_is_being_decoded(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    utterance = Utterance(WAVEFORM, DecodingOptions(prompt="tell", temperature=30.0))
    stream = RemoteRecognizer(handle).stream(utterance)
    assert await asyncio.wait_for(anext(stream), 10) == Delta("told")
    await stream.aclose()


async def test_a_stream_ends_with_the_transcription(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    utterance = Utterance(WAVEFORM, DecodingOptions(prompt="tell", temperature=0.1))
    first, last = [item async for item in RemoteRecognizer(handle).stream(utterance)]
    assert first == Delta("told")
    assert isinstance(last, Transcription)


async def test_a_stream_that_is_left_cancels_its_utterance(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    utterance = Utterance(WAVEFORM, DecodingOptions(prompt="tell", temperature=2.0))
    for _ in range(3):
        stream = RemoteRecognizer(handle).stream(utterance)
        await anext(stream)
        await stream.aclose()
    *_, cancelled = await _answer(handle, seconds=3.0)
    assert cancelled == 3


async def test_an_error_in_a_stream_keeps_its_fields(deploy: Deploy) -> None:
    handle = deploy(FakeASR.bind())
    with pytest.raises(InvalidAudio) as raised:
        await anext(RemoteRecognizer(handle).stream(Utterance(WAVEFORM, DecodingOptions(prompt="refuse"))))
    assert (raised.value.message, raised.value.param) == ("The recording is no good.", "file")
