"""What is known of a request when it has ended: its line in the log, what the metrics are told, and its spans."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray._common.formatters import JSONFormatter
from starlette.types import Message, Receive, Scope, Send

from deployments.exceptions import DeadlineExceeded, InvalidAudio
from deployments.observation.requests import RequestRecord
from tests.api.fakes import TRANSCRIPT, Service

SECRET_PROMPT = "names only the caller knows"
KEY = "sk-0123456789abcdef0123456789"


@pytest.fixture
def ended() -> list[RequestRecord]:
    """Of every request that has ended."""
    return []


@pytest.fixture
def service(ended: list[RequestRecord]) -> Service:
    return _observed(ended)


def _observed(ended: list[RequestRecord], **settings: Any) -> Service:
    service = Service(**settings)
    service.app = service.build(on_request_end=ended.append)
    return service


async def test_a_record_of_each_request(service: Service, ended: list[RequestRecord]) -> None:
    await service.transcribe(response_format="srt")
    (record,) = ended
    assert (record.status, record.response_format, record.stream) == (200, "srt", False)
    assert record.audio_s == 1.0, "what the decoder yields"
    assert record.total_s >= record.recognise_s > 0
    assert record.total_s >= record.media_decode_s > 0
    assert record.transcript is TRANSCRIPT


async def test_a_stream_is_recorded_when_it_has_ended(service: Service, ended: list[RequestRecord]) -> None:
    await service.transcribe(stream="true")
    (record,) = ended
    assert (record.status, record.response_format, record.stream) == (200, "json", True)
    assert record.transcript is TRANSCRIPT
    assert record.recognise_s > 0


async def test_a_stream_that_says_nothing_is_recorded(service: Service, ended: list[RequestRecord]) -> None:
    service.transcriber.said = ()
    await service.transcribe(stream="true")
    assert ended[0].transcript is TRANSCRIPT


async def test_refused_requests(ended: list[RequestRecord]) -> None:
    service = _observed(ended, max_upload_bytes=1000)
    await service.transcribe(temperature="7")
    await service.transcribe(file=("a", b"x" * 2000))
    service.decoder.error = InvalidAudio("no audio")
    await service.transcribe(response_format="text")
    service.decoder.error = None
    service.transcriber.answer = RuntimeError("boom")
    await service.transcribe()
    assert [(record.status, record.response_format) for record in ended] == [
        (400, "none"),
        (413, "none"),
        (400, "text"),
        (500, "json"),
    ]


async def test_a_stream_that_breaks_off_has_the_status_of_its_error(
    service: Service, ended: list[RequestRecord]
) -> None:
    service.transcriber.answer = DeadlineExceeded("too long")
    answer = await service.transcribe(stream="true")
    assert answer.status_code == 200
    assert [record.status for record in ended] == [504]


async def test_a_client_that_has_gone_is_a_499(service: Service, ended: list[RequestRecord]) -> None:
    service.transcriber.hang = True
    call = asyncio.create_task(service.transcribe())
    await service.transcriber.started.wait()
    call.cancel()
    await asyncio.wait([call])
    assert [record.status for record in ended] == [499]


@pytest.mark.parametrize("cancelled_at", ["http.response.start", "http.response.body"])
async def test_a_refusal_that_the_server_cuts_short_is_what_it_is(
    ended: list[RequestRecord], cancelled_at: str
) -> None:
    """Serve ends a request whose answer has come before its upload was read."""
    service = _observed(ended, max_upload_bytes=1000)
    app = service.app

    async def cutting(scope: Scope, receive: Receive, send: Send) -> None:
        async def cut(message: Message) -> None:
            if message["type"] == cancelled_at:
                raise asyncio.CancelledError
            await send(message)

        await app(scope, receive, cut)

    service.app = cast(Any, cutting)
    with pytest.raises(asyncio.CancelledError):
        await service.transcribe(file=("a", b"x" * 2000))
    assert [record.status for record in ended] == [413]


async def test_other_routes_are_not_recorded(service: Service, ended: list[RequestRecord]) -> None:
    await service.request("GET", "/v1/models")
    await service.request("GET", "/health")
    await service.request("GET", "/v1/audio/transcriptions")
    assert ended == []


async def test_requests_at_the_same_time_do_not_share_a_record(service: Service, ended: list[RequestRecord]) -> None:
    formats = ["json", "text", "srt", "vtt", "verbose_json"] * 4
    await asyncio.gather(*(service.transcribe(response_format=name) for name in formats))
    assert sorted(record.response_format for record in ended) == sorted(formats)
    assert {record.audio_s for record in ended} == {1.0}


# --- logs ---


@pytest.fixture
def log() -> Iterator[list[logging.LogRecord]]:
    """All that is logged by anybody. Once Serve is imported, its loggers do not propagate to the root any more."""
    handler = _Keep()
    loggers = [logging.getLogger(), logging.getLogger("ray.serve")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler.kept
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record not in self.kept:
            self.kept.append(record)


def _lines(log: list[logging.LogRecord]) -> list[logging.LogRecord]:
    return [line for line in log if line.getMessage().startswith("transcription ")]


async def test_one_line_for_each_request(service: Service, log: list[logging.LogRecord]) -> None:
    await service.transcribe(response_format="verbose_json")
    await service.transcribe(temperature="7")
    good, refused = _lines(log)
    fields = vars(good)
    assert fields["model"] == "qwen3-asr-demo"
    assert fields["response_format"] == "verbose_json"
    assert fields["status"] == 200
    assert fields["audio_seconds"] == 1.0
    assert fields["language"] == "English"
    assert fields["output_tokens"] == 7
    assert {"request_id", "stream", "media_decode_seconds", "recognise_seconds", "total_seconds"} <= fields.keys()
    assert good.getMessage().startswith("transcription 200 verbose_json, 1.00 s of audio in ")
    assert vars(refused)["status"] == 400
    assert "language" not in vars(refused)


async def test_the_line_is_json_that_serve_can_write(service: Service, log: list[logging.LogRecord]) -> None:
    await service.transcribe()
    (line,) = _lines(log)
    written = json.loads(JSONFormatter().format(line))
    assert (written["status"], written["model"], written["warnings"]) == (200, "qwen3-asr-demo", [])


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize(
    "answer", [TRANSCRIPT, RuntimeError("boom"), InvalidAudio("no good"), DeadlineExceeded("too long")]
)
async def test_no_log_holds_what_was_said_or_sent(
    log: list[logging.LogRecord],
    monkeypatch: pytest.MonkeyPatch,
    ended: list[RequestRecord],
    answer: Any,
    stream: str,
) -> None:
    monkeypatch.setenv("ASR_API_KEYS", f"alice:{KEY}")
    service = _observed(ended)
    service.transcriber.answer = answer
    async with service.client() as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        await client.post(
            "/v1/audio/transcriptions",
            files=[
                ("file", ("secret-name.wav", b"x")),
                *((name, (None, value)) for name, value in {
                    "model": "qwen3-asr-demo",
                    "prompt": SECRET_PROMPT,
                    "keywords[]": "Zaphod",
                    "stream": stream,
                }.items()),
            ],
        )  # fmt: skip
        await client.post("/v1/audio/transcriptions", headers={"authorization": f"Bearer {KEY}x"})
    # As text with everything that hangs on it, and as JSON.
    text = "".join(formatter.format(line) for formatter in (logging.Formatter(), JSONFormatter()) for line in log)
    assert "transcription " in text
    for secret in ("Hello there", "你好", SECRET_PROMPT, "Zaphod", KEY, "secret-name"):
        assert secret not in text
    assert "alice" in text, "the name of the key is no secret"


async def test_transcripts_are_logged_where_that_is_wanted(
    log: list[logging.LogRecord], ended: list[RequestRecord]
) -> None:
    service = _observed(ended, log_transcripts=True)
    await service.transcribe()
    (line,) = _lines(log)
    assert vars(line)["transcript"] == TRANSCRIPT.text
    assert TRANSCRIPT.text in line.getMessage()


# --- spans ---


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """A process has one tracer provider for ever, so all tests share it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


async def test_a_span_for_each_stage(service: Service, spans: InMemorySpanExporter) -> None:
    with trace.get_tracer("test").start_as_current_span("request") as request:
        await service.transcribe()
    finished = {span.name: span for span in spans.get_finished_spans()}
    assert set(finished) == {"request", "receive", "decode media", "recognise", "render"}
    for name in ("receive", "recognise", "render"):
        parent = finished[name].parent
        assert parent is not None
        assert parent.span_id == request.get_span_context().span_id
    media = finished["decode media"]
    assert media.parent is not None
    assert media.parent.span_id == finished["recognise"].context.span_id, "it is decoded while it is recognised"
    assert media.attributes is not None
    assert media.attributes["asr.audio_seconds"] == 1.0


async def test_the_spans_of_a_stream(
    service: Service, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    with trace.get_tracer("test").start_as_current_span("request"):
        await service.transcribe(stream="true")
    names = [span.name for span in spans.get_finished_spans()]
    assert sorted(names) == ["decode media", "receive", "recognise", "request"]
    assert "detach" not in caplog.text, "no context is left that was entered elsewhere"


async def test_what_goes_wrong_is_in_its_span(service: Service, spans: InMemorySpanExporter) -> None:
    service.decoder.error = InvalidAudio("no audio in it")
    await service.transcribe()
    (media,) = [span for span in spans.get_finished_spans() if span.name == "decode media"]
    assert [event.name for event in media.events] == ["exception"]
