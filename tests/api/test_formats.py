"""Every response format, key by key, and as the official SDK reads it."""

import dataclasses
import json
import math
import zlib

import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from deployments.audio.speech import Span
from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning, Usage
from deployments.transcription.utterance import Token
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPT, Service

SILENCE = Transcript("", None, 2.0, (), Usage(2.0, 26, 9, 1))
TOKEN_USAGE = {
    "type": "tokens",
    "total_tokens": 58,
    "input_tokens": 51,
    "input_token_details": {"text_tokens": 9, "audio_tokens": 42},
    "output_tokens": 7,
}
WARNING = TranscriptWarning("token_budget_exhausted", "The text may be cut short\nat “256” tokens.")


async def test_json_is_minified_utf_8(service: Service) -> None:
    response = await service.transcribe()
    assert response.headers["content-type"] == "application/json"
    assert (
        response.content
        == (
            '{"text":"Hello there. 你好。","languages":[{"code":"en"},{"code":"zh"}],'
            '"usage":{"type":"duration","seconds":4}}'
        ).encode()
    )


async def test_a_warning_about_a_part_says_where_it_is(service: Service) -> None:
    warning = dataclasses.replace(WARNING, message="Nobody knows.", span=Span(1.5, 2.12345))
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=(warning,))
    response = await service.transcribe()
    message = "Nobody knows. (From 1.5 s to 2.1 s.)"
    assert response.json()["warnings"] == [{"code": warning.code, "message": message, "start": 1.5, "end": 2.123}]
    assert response.headers["x-asr-warnings"] == f"{warning.code}: {message}"


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
        "languages": [{"code": "en"}, {"code": "zh"}],
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
        "language": "chinese",
    }
    assert segments[0]["language"] == "english"
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


@pytest.mark.parametrize("response_format", ["json", "verbose_json", "text", "srt", "vtt"])
async def test_warnings_of_the_transcript(service: Service, response_format: str) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=(WARNING,))
    response = await service.transcribe(response_format=response_format, nonsense="1")
    assert response.headers["x-asr-warnings"] == (
        "unknown_field: The unknown field 'nonsense' was ignored.; "
        "token_budget_exhausted: The text may be cut short\\nat \\u201c256\\u201d tokens."
    )
    if "json" in response_format:
        assert [warning["code"] for warning in response.json()["warnings"]] == [
            "unknown_field",
            "token_budget_exhausted",
        ]


async def test_no_warning_of_a_long_recording_is_lost(service: Service) -> None:
    told = tuple(dataclasses.replace(WARNING, message=f"Cut at {minute} minutes.") for minute in range(100))
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=told)
    response = await service.transcribe(response_format="verbose_json")
    assert [warning["message"] for warning in response.json()["warnings"]] == [warning.message for warning in told]
    *named, more = response.headers["x-asr-warnings"].split("; ")
    assert named == [f"token_budget_exhausted: {warning.message}" for warning in told[: len(named)]]
    assert more == f"and {100 - len(named)} more"
    assert 900 < len(response.headers["x-asr-warnings"]) <= 1000


async def test_silence(service: Service) -> None:
    service.transcriber.answer = SILENCE
    usage = {"type": "duration", "seconds": 2}
    assert (await service.transcribe()).json() == {"text": "", "languages": [], "usage": usage}
    assert (await service.transcribe(response_format="text")).text == "\n"
    assert (await service.transcribe(response_format="srt")).content == b""
    assert (await service.transcribe(response_format="vtt")).content == b"WEBVTT\n\n"
    verbose = (await service.transcribe(response_format="verbose_json")).json()
    assert (verbose["language"], verbose["segments"]) == ("", [])
    logprobs = (await service.transcribe(**{"include[]": "logprobs"})).json()
    assert "logprobs" not in logprobs


async def test_silence_in_a_forced_language(service: Service) -> None:
    service.transcriber.answer = dataclasses.replace(SILENCE, language="English")
    assert (await service.transcribe()).json()["languages"] == []
    assert (await service.transcribe(response_format="verbose_json")).json()["language"] == "english"


async def test_srt(service: Service) -> None:
    response = await service.transcribe(response_format="srt")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert (
        response.content
        == ("1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n00:00:01,500 --> 00:00:03,250\n你好。\n\n").encode()
    )


async def test_vtt(service: Service) -> None:
    response = await service.transcribe(response_format="vtt")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert (
        response.content
        == (
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello there.\n\n00:00:01.500 --> 00:00:03.250\n你好。\n\n"
        ).encode()
    )


async def test_logprobs(service: Service) -> None:
    """A character that is spread over two tokens has its bytes in both."""
    tokens = (Token(b" quick", -0.25), Token(b"\xe4\xbd", -0.5), Token(b"\xa0", -math.inf), Token(b"!", math.nan))
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, tokens=tokens)
    response = await service.transcribe(**{"include[]": "logprobs"})
    assert service.transcriber.calls[0][1].logprobs is True
    assert response.json() == {
        "text": TRANSCRIPT.text,
        "languages": [{"code": "en"}, {"code": "zh"}],
        "logprobs": [
            {"token": " quick", "logprob": -0.25, "bytes": [32, 113, 117, 105, 99, 107]},
            {"token": "\ufffd", "logprob": -0.5, "bytes": [0xE4, 0xBD]},
            {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xA0]},
            {"token": "!", "logprob": -9999.0, "bytes": [33]},
        ],
        "usage": TOKEN_USAGE,
    }


async def test_no_logprobs_unless_asked_for(service: Service) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, tokens=(Token(b"x", -1.0),))
    assert "logprobs" not in (await service.transcribe()).json()
    assert service.transcriber.calls[0][1].logprobs is False


async def test_usage_in_seconds_but_with_logprobs_in_tokens(service: Service) -> None:
    for fields in ({}, {"response_format": "verbose_json"}):
        assert (await service.transcribe(**fields)).json()["usage"] == {"type": "duration", "seconds": 4}
    assert (await service.transcribe(include="logprobs")).json()["usage"] == TOKEN_USAGE


@pytest.mark.parametrize("transcript", [TRANSCRIPT, SILENCE, dataclasses.replace(SILENCE, warnings=(WARNING,))])
async def test_the_sdk_accepts_every_answer(service: Service, sdk: openai.AsyncOpenAI, transcript: Transcript) -> None:
    service.transcriber.answer = transcript
    file = ("a.wav", AUDIO)
    plain = await sdk.audio.transcriptions.create(file=file, model=MODEL)
    assert plain.text == transcript.text
    assert plain.usage is not None
    assert plain.usage.type == "duration"
    assert plain.languages is not None

    service.transcriber.answer = dataclasses.replace(transcript, tokens=(Token(b"x", -1.0),))
    with_logprobs = await sdk.audio.transcriptions.create(file=file, model=MODEL, include=["logprobs"])
    assert with_logprobs.logprobs is not None
    assert with_logprobs.logprobs[0].bytes == [120]
    assert with_logprobs.usage is not None
    assert with_logprobs.usage.type == "tokens"
    service.transcriber.answer = transcript

    verbose = await sdk.audio.transcriptions.create(
        file=file, model=MODEL, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert isinstance(verbose, TranscriptionVerbose)
    assert verbose.duration == transcript.duration
    assert verbose.words is None
    assert len(verbose.segments or ()) == len(transcript.segments)

    text = await sdk.audio.transcriptions.create(file=file, model=MODEL, response_format="text")
    assert text == f"{transcript.text}\n"

    srt = await sdk.audio.transcriptions.create(file=file, model=MODEL, response_format="srt")
    vtt = await sdk.audio.transcriptions.create(file=file, model=MODEL, response_format="vtt")
    assert (srt.count("-->"), vtt.count("-->")) == (len(transcript.segments), len(transcript.segments))
    assert vtt.startswith("WEBVTT\n\n")


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
