"""Every metric of the service: its name, labels and meaning. `docs/operations.md` lists them.

What Ray Serve counts itself (HTTP requests by route and their latency, replicas, queues in front of a deployment, the
groups of `@serve.batch`) is not counted again. Serve adds the labels `application`, `deployment` and `replica`, and Ray
exports every name with the prefix `ray_`.
"""

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"
"""What Ray puts before the names of its applications' metrics."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_STAGE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_FACTORS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True)
class Metric:
    """One metric, as Prometheus knows them."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    """Beside those that Serve adds."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def exported_name(self) -> str:
        """What Prometheus finds it under; a histogram's series end in `_bucket`, `_sum` and `_count` besides."""
        return PREFIX + self.name


REQUESTS = Metric(
    "asr_requests_total",
    "counter",
    "Transcription requests that ended. `status` is the HTTP status, or 499 where the client had gone; of a stream "
    "that broke off, the status that its error has elsewhere. `response_format` is `none` where the request was "
    "refused before its fields were read.",
    ("status", "response_format", "stream"),
)
AUDIO_SECONDS = Metric(
    "asr_audio_seconds_total", "counter", "Seconds of audio decoded from clients' recordings, whatever came of them."
)
REAL_TIME_FACTOR = Metric(
    "asr_real_time_factor",
    "histogram",
    "Seconds that a transcribed request took, from its first byte to the last of its answer, for each second of its "
    "audio: 0.1 is ten times faster than it was spoken.",
    buckets=_FACTORS,
)
MEDIA_DECODE_SECONDS = Metric(
    "asr_media_decode_seconds",
    "histogram",
    "Seconds spent on turning the media file of a request into a waveform.",
    buckets=_SECONDS,
)
GUARD_ACTIONS = Metric(
    "asr_guard_actions_total", "counter", "Answers of the model that were not believed, by the guard.", ("guard",)
)
PIECE_RETRIES = Metric(
    "asr_piece_retries_total",
    "counter",
    "Pieces of recordings that were sent to the model once more. `reason`: `replica_died`, or `no_place` where a long "
    "recording waits for the others.",
    ("reason",),
)

UTTERANCES = Metric(
    "asr_utterances_total",
    "counter",
    "Utterances that ended in a replica. `outcome`: `transcribed`, `refused` (it cannot be transcribed), `failed` (our "
    "fault), `cancelled` (the caller had gone).",
    ("outcome",),
)
TRANSCRIBED_AUDIO_SECONDS = Metric(
    "asr_transcribed_audio_seconds_total", "counter", "Seconds of audio of the utterances that were transcribed."
)
QUEUE_SECONDS = Metric(
    "asr_queue_seconds",
    "histogram",
    "Seconds from an utterance's arrival in a replica to its admission to the running ones.",
    buckets=_SECONDS,
)
ENCODE_ROWS = Metric("asr_encode_rows", "histogram", "Utterances that were encoded together.", buckets=_ROWS)
ENCODE_SECONDS = Metric(
    "asr_encode_seconds", "histogram", "Seconds that the audio encoder took for such a group.", buckets=_STAGE_SECONDS
)
PREFILL_SECONDS = Metric(
    "asr_prefill_seconds",
    "histogram",
    "Seconds from an utterance's encoding to its first token: its prompt is read, whole or along with decode steps.",
    buckets=_STAGE_SECONDS,
)
DECODE_SECONDS = Metric(
    "asr_decode_seconds",
    "histogram",
    "Seconds from an utterance's first token to its last.",
    buckets=_SECONDS,
)
STAGE_SECONDS = Metric(
    "asr_stage_seconds_total",
    "counter",
    "Seconds that engines were busy. `stage`: `encode`, `prefill`, `decode`; at most 1 a second and replica.",
    ("stage",),
)
DECODE_STEPS = Metric(
    "asr_decode_steps_total", "counter", "Steps that advanced all running utterances by one token each."
)
GENERATED_TOKENS = Metric("asr_generated_tokens_total", "counter", "Tokens that the model generated.")
SLOTS = Metric("asr_slots", "gauge", "Utterances that a replica decodes together at most.")
RUNNING_UTTERANCES = Metric("asr_running_utterances", "gauge", "Utterances that hold a slot.")
WAITING_UTTERANCES = Metric("asr_waiting_utterances", "gauge", "Utterances in a replica that wait for a slot.")
RUNNING_AUDIO_SECONDS = Metric("asr_running_audio_seconds", "gauge", "Seconds of audio of those that hold a slot.")
WAITING_AUDIO_SECONDS = Metric("asr_waiting_audio_seconds", "gauge", "Seconds of audio of those that wait for one.")

INGRESS_METRICS = (REQUESTS, AUDIO_SECONDS, REAL_TIME_FACTOR, MEDIA_DECODE_SECONDS, GUARD_ACTIONS, PIECE_RETRIES)
ENGINE_METRICS = (
    UTTERANCES,
    TRANSCRIBED_AUDIO_SECONDS,
    QUEUE_SECONDS,
    ENCODE_ROWS,
    ENCODE_SECONDS,
    PREFILL_SECONDS,
    DECODE_SECONDS,
    STAGE_SECONDS,
    DECODE_STEPS,
    GENERATED_TOKENS,
    SLOTS,
    RUNNING_UTTERANCES,
    WAITING_UTTERANCES,
    RUNNING_AUDIO_SECONDS,
    WAITING_AUDIO_SECONDS,
)
METRICS = INGRESS_METRICS + ENGINE_METRICS

RAY_METRICS: dict[str, tuple[str, ...]] = {
    "ray_serve_http_request_latency_ms": ("route", "method", "status_code", "application"),
    "ray_serve_num_http_requests_total": ("route", "method", "status_code", "application"),
    "ray_serve_num_ongoing_http_requests": (),
    "ray_serve_deployment_queued_queries": ("application", "deployment"),
    "ray_serve_deployment_replica_healthy": ("application", "deployment", "replica"),
    "ray_serve_deployment_replica_starts_total": ("application", "deployment", "replica"),
    "ray_serve_autoscaling_target_replicas": ("application", "deployment"),
    "ray_serve_actual_batch_size": ("application", "deployment", "replica"),
    "ray_serve_event_loop_scheduling_latency_ms": ("application", "deployment", "component"),
    "ray_component_rss_bytes": ("Component", "pid"),
}
"""Ray's own that the dashboard uses, as exported, with those of their labels that it may use."""
