"""Spans, by the OpenTelemetry API alone: they cost next to nothing where nobody has configured any tracing.

Serve makes the spans of a request's way through its proxy, routers and replicas; these are the stages inside of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import trace

from deployments.transcription.utterance import Transcription, Utterance

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

tracer = trace.get_tracer("qwen3-asr-serve")


def trace_stages(utterance: Utterance, transcription: Transcription) -> None:
    """Add the stages of an utterance that has just ended to the current span, from what the engine measured.

    The engine works on many utterances at a time, so there is no one context that its own spans could belong to.
    """
    current, timings = trace.get_current_span(), transcription.timings
    if timings is None or not current.is_recording():
        return
    current.set_attributes({"asr.audio_seconds": utterance.duration, "asr.output_tokens": transcription.output_tokens})
    stages = {
        "queue": timings.queue_s,
        "encode": timings.encode_s,
        "prefill": timings.prefill_s,
        "decode": timings.decode_s,
    }
    begin = time.time_ns() - _nanoseconds(sum(stages.values()))
    for stage, seconds in stages.items():
        end = begin + _nanoseconds(seconds)
        tracer.start_span(stage, start_time=begin).end(end)
        begin = end


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def export_otlp() -> list[SpanProcessor]:
    """Send spans by OTLP over HTTP to where the standard variable OTEL_EXPORTER_OTLP_ENDPOINT says.

    For RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH, see `docs/operations.md`; `pip install 'qwen3-asr-serve[tracing]'`.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
