"""Every response format, key by key, and as the official SDK reads it."""

import dataclasses
import json
import math
import zlib

import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning, Usage
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPT, Service

SILENCE = Transcript("", None, 2.0, (), Usage(2.0, 26, 9, 1))
WARNING = TranscriptWarning("token_budget_exhausted", "The text may be cut short\nat “256” tokens.")


async def test_json_is_minified_utf_8(service: Service) -> None:
    response = await service.transcribe()
    assert response.headers["content-type"] == "application/json"
    assert response.content == '{"text":"Hello there. 你好。","usage":{"type":"duration","seconds":4}}'.encode()


async def test_text(service: Service) -> None:
    response = await service.transcribe(response_format="text")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content == "Hello there. 你好。\n".encode()


async def test_verbose_json(service: Service) -> None:
    response = await service.transcribe(response_format="verbose_json")
    body = response.json()
    segments = body.pop("segments")
    assert body == {
        "task": "transcribe",
        "language": "english",
        "duration": 3.25,
        "text": "Hello there. 你好。",
        "usage": {"type": "duration", "seconds": 4},
    }
    assert segments[1] == {
        "id": 1,
        "seek": 0,
        "start": 1.5,
        "end": 3.25,
        "text": "你好。",
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": -0.5,
        "compression_ratio": 9 / len(zlib.compress("你好。".encode())),
        "no_speech_prob": 0.0,
    }
    assert [segment["id"] for segment in segments] == [0, 1]


@pytest.mark.parametrize(("seconds", "billed"), [(3.0, 3), (3.0001, 4), (0.1, 1)])
async def test_usage_is_rounded_up(service: Service, seconds: float, billed: int) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, usage=Usage(seconds, 1, 1, 1))
    assert (await service.transcribe()).json()["usage"]["seconds"] == billed


async def test_a_loop_has_a_high_compression_ratio(service: Service) -> None:
    segment = Segment(0.0, 1.0, "and so on " * 50, "English", 0.0, -1.0)
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, segments=(segment,))
    response = await service.transcribe(response_format="verbose_json")
    assert response.json()["segments"][0]["compression_ratio"] > 2.4


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
async def test_no_number_outside_of_json(service: Service, logprob: float) -> None:
    segment = Segment(0.0, 1.0, "", "English", 0.0, logprob)
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, segments=(segment,))
    response = await service.transcribe(response_format="verbose_json")
    assert response.json()["segments"][0]["avg_logprob"] == 0.0


@pytest.mark.parametrize("response_format", ["json", "verbose_json", "text"])
async def test_warnings_of_the_transcript(service: Service, response_format: str) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=(WARNING,))
    response = await service.transcribe(response_format=response_format, nonsense="1")
    assert response.headers["x-asr-warnings"] == (
        "unknown_field: The unknown field 'nonsense' was ignored.; "
        "token_budget_exhausted: The text may be cut short\\nat \\u201c256\\u201d tokens."
    )
    if response_format != "text":
        assert [warning["code"] for warning in response.json()["warnings"]] == [
            "unknown_field",
            "token_budget_exhausted",
        ]


async def test_silence(service: Service) -> None:
    service.transcriber.answer = SILENCE
    assert (await service.transcribe()).json() == {"text": "", "usage": {"type": "duration", "seconds": 2}}
    assert (await service.transcribe(response_format="text")).text == "\n"
    verbose = (await service.transcribe(response_format="verbose_json")).json()
    assert (verbose["language"], verbose["segments"]) == ("", [])


@pytest.mark.parametrize("transcript", [TRANSCRIPT, SILENCE, dataclasses.replace(SILENCE, warnings=(WARNING,))])
async def test_the_sdk_accepts_every_answer(service: Service, sdk: openai.AsyncOpenAI, transcript: Transcript) -> None:
    service.transcriber.answer = transcript
    file = ("a.wav", AUDIO)
    plain = await sdk.audio.transcriptions.create(file=file, model=MODEL)
    assert plain.text == transcript.text
    assert plain.usage is not None
    assert plain.usage.type == "duration"

    verbose = await sdk.audio.transcriptions.create(
        file=file, model=MODEL, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert isinstance(verbose, TranscriptionVerbose)
    assert verbose.duration == transcript.duration
    assert verbose.words is None
    assert len(verbose.segments or ()) == len(transcript.segments)

    text = await sdk.audio.transcriptions.create(file=file, model=MODEL, response_format="text")
    assert text == f"{transcript.text}\n"


async def test_extension_fields_through_the_sdk(service: Service, sdk: openai.AsyncOpenAI) -> None:
    raw = await sdk.audio.transcriptions.with_raw_response.create(
        file=AUDIO,
        model=MODEL,
        language="en",
        temperature=0.2,
        stream=False,
        extra_body={"max_new_tokens": 12, "nonsense": {"deep": 1}},
    )
    assert raw.headers["x-asr-warnings"] == "unknown_field: The unknown field 'nonsense[deep]' was ignored."
    assert json.loads(raw.content)["warnings"][0]["code"] == "unknown_field"
    [(_, options)] = service.transcriber.calls
    assert (options.language, options.temperature, options.max_new_tokens) == ("English", 0.2, 12)
