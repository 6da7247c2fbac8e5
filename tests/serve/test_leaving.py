"""A client that leaves takes its utterance out of the engine with it, all the way from its connection."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest
import requests
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.app import wire
from deployments.asr.request import Request
from deployments.settings import Settings
from deployments.transcription.utterance import Delta, Transcription
from tests.serve.fake_engine import FakeASR
from tests.speech import ENGLISH

Deploy = Callable[[Application], DeploymentHandle]


class EndlessEngine:
    """Tells a stream one word and then nothing for ever; answers everybody else at once how many streams are in it."""

    def __init__(self) -> None:
        self._inside: set[Future[Transcription]] = set()

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.on_delta is not None:
                self._inside.add(request.future)
                request.future.add_done_callback(self._inside.discard)
                request.on_delta(Delta("told"))
            else:
                text = f"{len(self._inside)} inside"
                request.future.set_result(Transcription(text, "English", "stop", 1, 1, 1, avg_logprob=-0.1))

    def stop(self) -> None:
        pass

    def check(self) -> None:
        pass


@serve.deployment(name="ASR", graceful_shutdown_wait_loop_s=0.05)
class EndlessASR(FakeASR.func_or_class):  # type: ignore[name-defined]
    """`ASR` around it."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self._engine = EndlessEngine()


@pytest.mark.parametrize("how_many", [1, 5])
def test_left_streams_leave_the_engine_within_a_second(deploy: Deploy, base_url: str, how_many: int) -> None:
    deploy(wire(Settings(), EndlessASR))
    upload = ENGLISH[0].path.read_bytes()

    def post(**fields: str) -> requests.Response:
        fields["model"] = "qwen3-asr-demo"
        url = f"{base_url}/v1/audio/transcriptions"
        return requests.post(url, files={"file": upload}, data=fields, stream="stream" in fields, timeout=60)

    def inside() -> int:
        return int(post().json()["text"].split()[0])

    streams = [post(stream="true") for _ in range(how_many)]
    lines = [stream.iter_lines() for stream in streams]  # dropping one would close its connection
    for line in lines:
        assert next(line) == b'data: {"type":"transcript.text.delta","delta":"told"}'
    assert inside() == how_many

    for stream in streams:
        stream.close()
    time.sleep(0.9)
    assert inside() == 0
