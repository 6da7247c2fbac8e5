"""More requests than the service takes, clients that hang up, and what clients may not decide: over HTTP, with Ray."""

import asyncio
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle

from benchmarks.clips import noise
from deployments.app import wire
from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import TooManyRequests
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.settings import Settings
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import Utterance
from tests.api.fakes import MODEL, TRANSCRIPTIONS, error_of
from tests.listening import Loudness, blocks_of, recorded
from tests.serve.fake_engine import FakeASR

Deploy = Callable[[Application], DeploymentHandle]

PLACES = 6
UTTERANCE_S = 5


async def transcribe(
    client: httpx.AsyncClient, *, wait: float = 0, seconds: float = 1, stream: bool = False, **headers: str
) -> httpx.Response:
    fields = {
        "model": MODEL,
        "prompt": f"wait {wait}",
        "stream": str(stream).lower(),
        "chunking_strategy": '{"type":"server_vad","threshold":0}',
    }
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(TRANSCRIPTIONS, data=fields, files={"file": noise(seconds, seed=0).upload}, headers=sent)


async def others(client: httpx.AsyncClient) -> int:
    """Utterances that are in the engine."""
    return int((await transcribe(client)).json()["text"].split()[2])


async def engine_is_free(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(5):
        while await others(client):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.fixture
def client(deploy: Deploy, base_url: str) -> httpx.AsyncClient:
    deploy(wire(Settings(max_concurrent_requests=PLACES, max_utterance_s=UTTERANCE_S, request_timeout_s=20), FakeASR))
    return httpx.AsyncClient(base_url=base_url, timeout=60)


async def test_what_is_too_much_is_refused_and_nothing_is_lost(client: httpx.AsyncClient) -> None:
    async with client:
        answers = await asyncio.gather(*(transcribe(client, wait=5) for _ in range(PLACES + 4)))
        assert sorted(answer.status_code for answer in answers) == [200] * PLACES + [429] * 4
        for answer in answers:
            if answer.status_code == 429:
                assert error_of(answer)["code"] == "rate_limit_exceeded"
                assert int(answer.headers["retry-after"]) >= 1
        assert (await transcribe(client)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("headers", [{}, {"x_request_disconnect_disabled": "?1"}], ids=["plain", "against our will"])
async def test_a_client_that_hangs_up_frees_the_engine(
    client: httpx.AsyncClient, *, headers: dict[str, str], stream: bool
) -> None:
    async with client:
        for seconds, utterances in ((1.0, 1), (UTTERANCE_S * 3.5, 4)):
            request = asyncio.create_task(transcribe(client, wait=15, seconds=seconds, stream=stream, **headers))
            async with asyncio.timeout(8):
                while await others(client) < utterances:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            request.cancel()
            await asyncio.wait([request])
            await engine_is_free(client)


async def test_clients_do_not_decide_how_long_they_may_take(deploy: Deploy, base_url: str) -> None:
    deploy(wire(Settings(request_timeout_s=2), FakeASR))
    async with httpx.AsyncClient(base_url=base_url, timeout=60) as client:
        for wanted in ("0", "600"):
            answer = await transcribe(client, wait=15, x_request_timeout_seconds=wanted)
            assert answer.status_code == 504
            assert error_of(answer)["code"] == "deadline_exceeded"
            assert answer.headers["x-should-retry"] == "false"
        # A client that wants less gets Serve's own answer, in OpenAI's form, and hurts nobody but itself.
        impatient = await transcribe(client, wait=15, x_request_timeout_seconds="0.5")
        assert impatient.status_code == 504
        assert error_of(impatient)["message"]
        await engine_is_free(client)


async def test_headers_that_route_change_nothing(client: httpx.AsyncClient) -> None:
    async with client:
        answers = await asyncio.gather(
            *(transcribe(client, serve_multiplexed_model_id=str(number), x_session_id="s") for number in range(PLACES))
        )
        assert [answer.status_code for answer in answers] == [200] * PLACES


async def test_a_bounded_queue_refuses_recordings_and_never_their_pieces(deploy: Deploy) -> None:
    bound = BackpressureConfig(status_code=429, retry_after_s=1)
    handle = deploy(FakeASR.options(max_ongoing_requests=1, max_queued_requests=1, backpressure_config=bound).bind())
    recognizer = RemoteRecognizer(handle)
    utterance = Utterance(np.zeros(SAMPLE_RATE, np.float32), DecodingOptions(temperature=0.5))
    calls = await asyncio.gather(*(recognizer.transcribe(utterance) for _ in range(6)), return_exceptions=True)
    refused = [call for call in calls if isinstance(call, TooManyRequests)]
    assert 1 <= len(refused) < 6
    assert all(refusal.retry_after_s == 1 for refusal in refused)
    assert not [call for call in calls if isinstance(call, Exception) and not isinstance(call, TooManyRequests)]

    transcriber = Transcriber(recognizer, max_utterance_s=3, window=4, listen=Loudness)
    pieces = blocks_of(recorded(*[0.5, 2.0] * 5))
    transcript = await transcriber.transcribe(pieces, DecodingOptions(temperature=0.5), SpeechOptions())
    assert len(transcript.segments) == 5
