"""The client of the fast path checks what it times, and spans are put together by request."""

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from benchmarks import clips
from benchmarks.fast_path import client, spans
from benchmarks.fast_path.null_engine import NullRecognizer
from deployments.ingress.api import create_app
from deployments.transcription.transcriber import Transcriber
from tests.api.fakes import Service, served


def _service() -> Service:
    service = Service()
    transcriber = Transcriber(NullRecognizer(), max_utterance_s=30, window=8)
    service.app = create_app(transcriber, service.settings, service.model)
    return service


async def test_every_request_is_answered_and_timed() -> None:
    async with served(_service()) as port:
        url = f"http://127.0.0.1:{port}"
        request = client.request_bytes(url, clips.spoken(2.0).upload)
        load = await client.load(url, request, connections=4, seconds=0.3)
    assert len(load.latencies_s) >= 4
    assert all(0 < latency <= load.took_s for latency in load.latencies_s)


async def test_another_answer_is_an_error() -> None:
    async with served(_service()) as port:
        url = f"http://127.0.0.1:{port}"
        for upload, text in ((clips.spoken(2.0).upload, "something else"), (b"no audio", "x")):
            with pytest.raises(RuntimeError):
                await client.load(url, client.request_bytes(url, upload), connections=1, seconds=0.3, text=text)


def test_spans_are_summed_by_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(spans.FOLDER, str(tmp_path))
    provider = TracerProvider()
    (processor,) = spans.write_spans()
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")

    def span(name: str, ms: float, **attributes: float) -> None:
        noted = {f"asr.{name}": value for name, value in attributes.items()}
        tracer.start_span(name, start_time=1_000, attributes=noted).end(1_000 + round(ms * 1e6))

    for scale in (1, 2, 3, 100):
        with tracer.start_as_current_span("request"):
            span("recognise", 10 * scale)
            span("decode media", 5 * scale, media_decode_seconds=2 * scale / 1000)
            span("call", 3 * scale)
            span("call", 1 * scale)
            span("replica_handle_request ASR transcribe", 1.5 * scale)
    with tracer.start_as_current_span("another route"):
        span("receive", 1000)
    found = spans.milliseconds(tmp_path, traces=3)
    del found["request"]
    assert found == pytest.approx(
        {
            "recognise": 30,
            "decode media": 15,
            "decode": 6,
            "call": 12,
            "find speech, join": 12,
            "replica_handle_request ASR transcribe": 4.5,
            "to the model and back": 7.5,
        }
    )
