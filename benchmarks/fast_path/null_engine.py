"""The service around an engine that answers at once, and the same HTTP application without Ray.

make null-engine                                        # through Ray Serve
python -m benchmarks.fast_path.null_engine PORT         # by uvicorn alone, in one process
"""

import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from ray import serve
from ray.serve import Application

from benchmarks.fast_path.spans import FOLDER, write_spans
from deployments.app import wire
from deployments.asr.deployment import ASR
from deployments.asr.request import Request
from deployments.asr.workload import Workload
from deployments.ingress.api import create_app
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.transcriber import Transcriber
from deployments.transcription.utterance import Delta, Transcription, Utterance

TEXT = "This is what an engine says that does not listen."
ANSWER = Transcription(TEXT, "English", "stop", audio_tokens=40, text_tokens=9, output_tokens=12, avg_logprob=-0.1)


class NullEngine:
    """Takes what the real one takes."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Answer all of them."""
        for request in requests:
            if request.on_delta is not None:
                request.on_delta(Delta(TEXT))
            request.future.set_result(ANSWER)

    def check(self) -> None:
        """It is well."""

    def stop(self) -> None:
        """There is nothing to stop."""


@serve.deployment(name="ASR", health_check_period_s=5)
class NullASR(ASR.func_or_class):  # type: ignore[name-defined]
    """The real deployment, batching included, around that engine."""

    def __init__(self, *_: object) -> None:
        self._preparation = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepare")
        self._engine = NullEngine()
        self._workload = Workload()


class NullRecognizer:
    """The engine without a deployment around it."""

    async def transcribe(self, utterance: Utterance) -> Transcription:
        """Answer."""
        return ANSWER

    async def stream(self, utterance: Utterance) -> AsyncIterator[Delta | Transcription]:
        """Answer, in one piece."""
        yield Delta(TEXT)
        yield ANSWER


def build(args: Settings) -> Application:
    """What `deployments.app.build` builds, around the null engine."""
    return wire(args, NullASR)


def main() -> None:
    """Serve the HTTP application on 127.0.0.1 by uvicorn, as fast as it can: no logs, no Ray."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if FOLDER in os.environ:
        provider = TracerProvider()
        for processor in write_spans():
            provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
    settings = Settings()
    transcriber = Transcriber(NullRecognizer(), max_utterance_s=settings.utterance_limit_s, window=8)
    app = create_app(transcriber, settings, ServedModel.of(settings))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="error")


if __name__ == "__main__":
    main()
