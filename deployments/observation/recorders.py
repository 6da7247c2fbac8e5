"""The metrics as Ray Serve keeps them, in the process of a replica.

A call into Ray costs some ten microseconds: they are made once a request, and for an engine once a second, in a
thread of their own.
"""

import logging
import threading
from typing import Protocol

from ray.serve import metrics as ray_metrics

from deployments.asr.statistics import Load, Period, Statistics
from deployments.observation import metrics
from deployments.observation.metrics import Metric
from deployments.observation.requests import RequestRecord

logger = logging.getLogger("ray.serve.asr")

PUBLISH_EVERY_S = 1.0


class IngressMetrics:
    """Metrics of one ingress replica."""

    def __init__(self) -> None:
        self._requests = _counter(metrics.REQUESTS)
        self._audio_seconds = _counter(metrics.AUDIO_SECONDS)
        self._real_time_factor = _histogram(metrics.REAL_TIME_FACTOR)
        self._media_decode_seconds = _histogram(metrics.MEDIA_DECODE_SECONDS)
        self._guard_actions = _counter(metrics.GUARD_ACTIONS)
        self._piece_retries = _counter(metrics.PIECE_RETRIES)

    def request_ended(self, record: RequestRecord) -> None:
        """Count one transcription request."""
        self._requests.inc(
            tags={
                "status": str(record.status),
                "response_format": record.response_format,
                "stream": str(record.stream).lower(),
            }
        )
        if record.audio_s > 0:
            self._audio_seconds.inc(record.audio_s)
            self._media_decode_seconds.observe(record.media_decode_s)
            if record.status == 200:
                self._real_time_factor.observe(record.total_s / record.audio_s)

    def guard_acted(self, guard: str) -> None:
        """An answer was not believed, by the guard of this name."""
        self._guard_actions.inc(tags={"guard": guard})

    def piece_retried(self, reason: str) -> None:
        """A piece of a recording is sent to the model once more: see `metrics.PIECE_RETRIES` for reasons."""
        self._piece_retries.inc(tags={"reason": reason})


class Counts(Protocol):
    """What `EnginePublisher` needs of an `asr.engine.Engine`."""

    statistics: Statistics

    @property
    def load(self) -> Load:
        """What it has to do."""
        ...


class EngineMetrics:
    """Metrics of one ASR replica."""

    def __init__(self) -> None:
        self._utterances = _counter(metrics.UTTERANCES)
        self._audio_seconds = _counter(metrics.TRANSCRIBED_AUDIO_SECONDS)
        self._queue_seconds = _histogram(metrics.QUEUE_SECONDS)
        self._encode_rows = _histogram(metrics.ENCODE_ROWS)
        self._encode_seconds = _histogram(metrics.ENCODE_SECONDS)
        self._prefill_seconds = _histogram(metrics.PREFILL_SECONDS)
        self._decode_seconds = _histogram(metrics.DECODE_SECONDS)
        self._stage_seconds = _counter(metrics.STAGE_SECONDS)
        self._decode_steps = _counter(metrics.DECODE_STEPS)
        self._generated_tokens = _counter(metrics.GENERATED_TOKENS)
        self._slots = _gauge(metrics.SLOTS)
        self._running_utterances = _gauge(metrics.RUNNING_UTTERANCES)
        self._waiting_utterances = _gauge(metrics.WAITING_UTTERANCES)
        self._running_audio_seconds = _gauge(metrics.RUNNING_AUDIO_SECONDS)
        self._waiting_audio_seconds = _gauge(metrics.WAITING_AUDIO_SECONDS)

    def publish(self, period: Period, load: Load) -> None:
        """Add what an engine did, and set what it has to do."""
        for outcome, count in period.outcomes.items():
            self._utterances.inc(count, {"outcome": outcome})
        for stage, seconds in (("encode", period.encode_s), ("prefill", period.prefill_s), ("decode", period.decode_s)):
            _add(self._stage_seconds, seconds, {"stage": stage})
        _add(self._audio_seconds, period.audio_seconds)
        _add(self._decode_steps, period.decode_steps)
        _add(self._generated_tokens, period.tokens)
        for group in period.groups:
            self._encode_rows.observe(group.rows)
            self._encode_seconds.observe(group.encode_s)
        for seconds in period.queue_s:
            self._queue_seconds.observe(seconds)
        for seconds in period.utterance_prefill_s:
            self._prefill_seconds.observe(seconds)
        for seconds in period.utterance_decode_s:
            self._decode_seconds.observe(seconds)
        self._slots.set(load.slots)
        self._running_utterances.set(load.running)
        self._waiting_utterances.set(load.waiting)
        self._running_audio_seconds.set(load.running_audio_seconds)
        self._waiting_audio_seconds.set(load.waiting_audio_seconds)


class EnginePublisher:
    """Publishes what an engine does, once a second, until it is stopped."""

    def __init__(self, engine: Counts) -> None:
        self._engine = engine
        self._metrics = EngineMetrics()
        self._stopped = threading.Event()
        engine.statistics.take()  # warming up is nobody's request
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Publish no more."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(PUBLISH_EVERY_S):
            try:
                self._metrics.publish(self._engine.statistics.take(), self._engine.load)
            except Exception:  # the next second may be luckier
                logger.exception("the engine's metrics could not be published")


def _add(counter: ray_metrics.Counter, value: float, tags: dict[str, str] | None = None) -> None:
    if value > 0:  # Ray takes no less
        counter.inc(value, tags)


def _counter(metric: Metric) -> ray_metrics.Counter:
    return ray_metrics.Counter(metric.name, metric.meaning, metric.labels)


def _gauge(metric: Metric) -> ray_metrics.Gauge:
    return ray_metrics.Gauge(metric.name, metric.meaning, metric.labels)


def _histogram(metric: Metric) -> ray_metrics.Histogram:
    return ray_metrics.Histogram(metric.name, metric.meaning, list(metric.buckets), metric.labels)
