"""What there is to know about a transcription request when it has ended: one line in the log, and metrics.

The record of the request being answered is found by a context variable, as a tracing span is: whoever has something to
note on the way does it there, and nothing is handed through.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from opentelemetry import context as trace_context
from opentelemetry import trace

from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.observation.tracing import tracer
from deployments.transcription.options import DecodingOptions
from deployments.transcription.recordings import Decodes, TranscribesRecordings
from deployments.transcription.transcript import Transcript
from deployments.transcription.utterance import Delta
from deployments.transcription.words import WordTimes

logger = logging.getLogger("ray.serve.asr")

CLIENT_GONE = 499
"""What nginx and Ray Serve call the status of an answer that nobody waited for."""


@dataclass
class RequestRecord:
    """One transcription request. Times are seconds."""

    request_id: str = "-"
    model: str = "-"
    response_format: str = "none"
    """As asked for, once the fields have been read."""
    stream: bool = False
    status: int = CLIENT_GONE
    audio_s: float = 0.0
    """Decoded so far."""
    media_decode_s: float = 0.0
    recognise_s: float = 0.0
    """From the first block of audio that was wanted until the transcript was there."""
    total_s: float = 0.0
    transcript: Transcript | None = field(default=None, repr=False)
    key: str | None = None
    """Name of the API key."""


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def current_record() -> RequestRecord:
    """The record of the request that is being answered; outside of any, one that nobody reads."""
    return _current.get() or RequestRecord()


@contextmanager
def keeping(record: RequestRecord) -> Iterator[None]:
    """Make it the current record while the context lasts."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def log_request(record: RequestRecord, *, with_transcript: bool) -> None:
    """Write the one line about a request that has ended; with what was said only where that may stand in a log."""
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "model": record.model,
        "response_format": record.response_format,
        "stream": record.stream,
        "status": record.status,
        "audio_seconds": round(record.audio_s, 3),
        "media_decode_seconds": round(record.media_decode_s, 4),
        "recognise_seconds": round(record.recognise_s, 4),
        "total_seconds": round(record.total_s, 4),
    }
    if record.key is not None:
        fields["key"] = record.key
    if record.transcript is not None:
        fields["language"] = record.transcript.language
        fields["output_tokens"] = record.transcript.usage.output_tokens
        fields["warnings"] = [warning.code for warning in record.transcript.warnings]
        if with_transcript:
            fields["transcript"] = record.transcript.text
    said = f": {record.transcript.text!r}" if with_transcript and record.transcript is not None else ""
    logger.info(
        "transcription %d %s%s, %.2f s of audio in %.3f s (media %.3f s, recognition %.3f s)%s",
        record.status,
        record.response_format,
        " stream" if record.stream else "",
        record.audio_s,
        record.total_s,
        record.media_decode_s,
        record.recognise_s,
        said,
        extra=fields,
    )


class RecordedTranscriber:
    """A transcriber of recordings that notes in the record of the request, and as a span, what it does."""

    def __init__(self, transcriber: TranscribesRecordings) -> None:
        self._transcriber = transcriber

    async def transcribe(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions, *, words: WordTimes
    ) -> Transcript:
        """As the transcriber's."""
        began_at = time.monotonic()
        with tracer.start_as_current_span("recognise"):
            transcript = await self._transcriber.transcribe(recording, options, speech, words=words)
        _note_transcript(current_record(), transcript, began_at)
        return transcript

    async def stream(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions
    ) -> AsyncGenerator[Delta | Transcript, None]:
        """As the transcriber's."""
        began_at, record = time.monotonic(), current_record()
        span = tracer.start_span("recognise")
        try:
            async with aclosing(self._transcriber.stream(recording, options, speech)) as items:
                # The work is a task, begun with the first item in the context it is wanted in. Later items may be
                # wanted in others, in which a context could not be left again.
                with trace.use_span(span):
                    item = await anext(items)
                while isinstance(item, Delta):
                    yield item
                    item = await anext(items)
                _note_transcript(record, item, began_at)
                yield item
        finally:
            span.end()


def recorded_decoding(decode: Decodes) -> Decodes:
    """A decoder of media files that notes in the record of the request, and as a span, what it does."""

    def decode_recorded(source: BinaryIO, *, max_duration_s: float) -> Generator[Waveform, None, None]:
        # Called on the event loop; the blocks are drawn in threads, where there is no context.
        blocks = decode(source, max_duration_s=max_duration_s)
        return _recorded(blocks, current_record(), trace_context.get_current())

    return decode_recorded


def _recorded(
    blocks: Generator[Waveform, None, None], record: RequestRecord, parent: trace_context.Context
) -> Generator[Waveform, None, None]:
    span = tracer.start_span("decode media", context=parent)
    try:
        with closing(blocks):
            while True:
                began_at = time.monotonic()
                block = next(blocks, None)
                record.media_decode_s += time.monotonic() - began_at
                if block is None:
                    return
                record.audio_s += len(block) / SAMPLE_RATE
                yield block
    except Exception as error:
        span.record_exception(error)
        raise
    finally:
        span.set_attributes({"asr.audio_seconds": record.audio_s, "asr.media_decode_seconds": record.media_decode_s})
        span.end()


def _note_transcript(record: RequestRecord, transcript: Transcript, began_at: float) -> None:
    record.transcript = transcript
    record.recognise_s = time.monotonic() - began_at
