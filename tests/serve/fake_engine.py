"""The real ASR deployment around an engine that does what its prompt says."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ray import serve

from deployments.asr.deployment import ASR
from deployments.asr.request import Request
from deployments.asr.workload import Workload
from deployments.exceptions import InvalidAudio
from deployments.transcription.utterance import Delta, Transcription


class FakeEngine:
    """Answers after the seconds that an utterance asks for, as `temperature` or as the prompt "wait SECONDS".

    The answer says the size of the group it came in, the pid, how many others are in the engine, and how many were
    cancelled so far.
    """

    def __init__(self) -> None:
        self._broken = False
        self._inside = 0
        self._cancelled = 0

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            utterance, future = request.utterance, request.future
            self._inside += 1
            future.add_done_callback(self._count_out)
            if utterance.options.prompt == "refuse":
                future.set_exception(InvalidAudio("The recording is no good."))
            if utterance.options.prompt == "break the device":
                self._broken = True
            if utterance.options.prompt == "tell" and request.on_delta is not None:
                request.on_delta(Delta("told"))
            seconds = utterance.options.temperature
            if utterance.options.prompt.startswith("wait "):
                seconds = float(utterance.options.prompt.removeprefix("wait "))
            threading.Timer(seconds, self._answer, (future, len(requests))).start()

    def _answer(self, future: "Future[Transcription]", group: int) -> None:
        if not future.done():
            text = f"{group} {os.getpid()} {self._inside - 1} {self._cancelled}"
            future.set_result(Transcription(text, "English", "stop", 1, 1, 1, avg_logprob=-0.1))

    def _count_out(self, future: "Future[Transcription]") -> None:
        self._inside -= 1
        self._cancelled += future.cancelled()

    def stop(self) -> None:
        pass

    def check(self) -> None:
        if self._broken:
            raise RuntimeError("gone")


@serve.deployment(name="ASR", max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_wait_loop_s=0.05)
class FakeASR(ASR.func_or_class):  # type: ignore[name-defined]
    """`ASR` without a model."""

    def __init__(self, *_: object) -> None:
        self._preparation = ThreadPoolExecutor(max_workers=1)
        self._engine = FakeEngine()
        self._workload = Workload()
