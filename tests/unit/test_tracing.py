"""The stages of an utterance as spans, made when it has ended."""

from itertools import pairwise

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.audio.waveform import SAMPLE_RATE
from deployments.observation import tracing
from deployments.transcription.utterance import Timings, Transcription, Utterance

UTTERANCE = Utterance(np.zeros(2 * SAMPLE_RATE, np.float32))


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
    return provider


def _transcription(timings: Timings | None) -> Transcription:
    return Transcription("secret words", "English", "stop", 26, 9, 7, -0.1, timings=timings)


def test_stages_follow_each_other_below_the_current_span(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with provider.get_tracer("serve").start_as_current_span("ASR") as call:
        tracing.trace_stages(
            UTTERANCE, _transcription(Timings(queue_s=0.5, encode_s=0.25, prefill_s=0.125, decode_s=1))
        )
    *stages, serves = exporter.get_finished_spans()
    assert [span.name for span in stages] == ["queue", "encode", "prefill", "decode"]
    assert all(span.parent and span.parent.span_id == call.get_span_context().span_id for span in stages)
    lengths = [(span.end_time or 0) - (span.start_time or 0) for span in stages]
    assert lengths == [500_000_000, 250_000_000, 125_000_000, 1_000_000_000]
    for one, following in pairwise(stages):
        assert one.end_time == following.start_time
    assert serves.attributes == {"asr.audio_seconds": 2.0, "asr.output_tokens": 7}
    assert "secret" not in "".join(span.to_json() for span in (*stages, serves))


def test_nothing_where_nobody_traces_or_measured(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    tracing.trace_stages(UTTERANCE, _transcription(Timings(0.1, 0.1, 0.1, 0.1)))
    with provider.get_tracer("serve").start_as_current_span("ASR"):
        tracing.trace_stages(UTTERANCE, _transcription(None))
    assert [span.name for span in exporter.get_finished_spans()] == ["ASR"]
