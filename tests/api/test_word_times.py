"""`timestamp_granularities[]=word`: refused before decoding where it cannot be had, OpenAI's keys where it can."""

import dataclasses
from typing import Any

import httpx2  # what the SDK is built on
import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from deployments.exceptions import EngineFailure
from deployments.transcription.transcript import Segment, TranscriptWarning
from deployments.transcription.words import ALIGNED_LANGUAGES, Word, WordTimes
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPT, Service, error_of

WORDS = (Word("Hello", 0.08, 0.4), Word("there", 0.4, 1.2))
TIMED = dataclasses.replace(
    TRANSCRIPT,
    segments=(
        Segment(0.08, 1.2, "Hello there.", "English", 0.0, -0.25, WORDS),
        Segment(1.6, 2.4, "你好。", "Chinese", 0.0, -0.5, (Word("你", 1.6, 1.92), Word("好", 1.92, 2.4))),
    ),
)
UNAVAILABLE = TranscriptWarning("word_times_unavailable", "There are no word times in Finnish.")


@pytest.fixture
def service() -> Service:
    service = Service(aligner="demo")
    service.transcriber.answer = TIMED
    return service


async def _verbose(service: Service, *granularities: str, **fields: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"timestamp_granularities[]": list(granularities)} if granularities else {}
    response = await service.transcribe(response_format="verbose_json", **asked, **fields)
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def test_words_alone(service: Service) -> None:
    assert await _verbose(service, "word") == {
        "task": "transcribe",
        "language": "english",
        "duration": 3.25,
        "text": "Hello there. 你好。",
        "languages": [{"code": "en"}, {"code": "zh"}],
        "words": [
            {"word": "Hello", "start": 0.08, "end": 0.4},
            {"word": "there", "start": 0.4, "end": 1.2},
            {"word": "你", "start": 1.6, "end": 1.92},
            {"word": "好", "start": 1.92, "end": 2.4},
        ],
        "usage": {"type": "duration", "seconds": 4},
    }


async def test_both(service: Service) -> None:
    body = await _verbose(service, "word", "segment")
    assert len(body["words"]) == 4
    assert [(segment["start"], segment["end"]) for segment in body["segments"]] == [(0.08, 1.2), (1.6, 2.4)]
    assert all("words" not in segment for segment in body["segments"])


@pytest.mark.parametrize("granularities", [(), ("segment",)])
async def test_segments_alone(service: Service, granularities: tuple[str, ...]) -> None:
    body = await _verbose(service, *granularities)
    assert len(body["segments"]) == 2
    assert "words" not in body


async def test_where_nothing_was_said_there_are_no_words(service: Service) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, text="", segments=())
    assert (await _verbose(service, "word"))["words"] == []


async def test_segments_take_the_place_of_words_that_cannot_be_had(service: Service) -> None:
    service.transcriber.answer = dataclasses.replace(TRANSCRIPT, warnings=(UNAVAILABLE,))
    body = await _verbose(service, "word")
    assert body["words"] == []
    assert len(body["segments"]) == 2
    assert body["warnings"] == [{"code": "word_times_unavailable", "message": UNAVAILABLE.message}]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, WordTimes.UNUSED),
        ({"response_format": "text"}, WordTimes.UNUSED),
        ({"response_format": "srt"}, WordTimes.WELCOME),
        ({"response_format": "vtt"}, WordTimes.WELCOME),
        ({"response_format": "verbose_json"}, WordTimes.WELCOME),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "segment"}, WordTimes.WELCOME),
        ({"response_format": "verbose_json", "timestamp_granularities": ["segment", "word"]}, WordTimes.REQUIRED),
    ],
)
async def test_the_transcriber_is_told_what_is_needed(
    service: Service, fields: dict[str, Any], expected: WordTimes
) -> None:
    assert (await service.transcribe(**fields)).status_code == 200
    assert service.transcriber.words is expected


@pytest.mark.parametrize("language", sorted(ALIGNED_LANGUAGES - {"Japanese", "Korean"}))
async def test_languages_that_have_words(service: Service, language: str) -> None:
    await _verbose(service, "word", language=language)


async def test_a_language_without_words_is_refused_before_decoding(service: Service) -> None:
    response = await service.transcribe(
        response_format="verbose_json", language="fi", **{"timestamp_granularities[]": "word"}
    )
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"]) == ("timestamp_granularities", "unsupported_language")
    assert "no word times in Finnish" in error["message"]
    assert "Spanish" in error["message"]
    assert service.untouched


async def test_so_is_one_that_the_server_forces() -> None:
    service = Service(aligner="demo", default_language="fi")
    word = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    assert error_of(await service.transcribe(**word))["code"] == "unsupported_language"
    assert (await service.transcribe(**word, language="en")).status_code == 200


async def test_and_so_is_a_choice_of_such_languages_only(service: Service) -> None:
    word = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    refused = await service.transcribe(**word, **{"languages[]": ["fi", "ar"]})
    assert "no word times in Finnish" in error_of(refused)["message"]
    assert service.untouched
    assert (await service.transcribe(**word, **{"languages[]": ["fi", "en"]})).status_code == 200


async def test_segments_of_any_language_are_never_refused(service: Service) -> None:
    await _verbose(service, "segment", language="fi")


async def test_words_are_for_verbose_json(service: Service) -> None:
    for response_format in ("json", "text", "srt", "vtt"):
        response = await service.transcribe(response_format=response_format, **{"timestamp_granularities[]": "word"})
        assert error_of(response)["message"] == "timestamp_granularities[] requires response_format 'verbose_json'."
    assert service.untouched


async def test_an_aligner_that_fails_is_our_fault(service: Service) -> None:
    service.transcriber.answer = EngineFailure("The times of the words could not be found.")
    response = await service.transcribe(response_format="verbose_json", **{"timestamp_granularities[]": "word"})
    assert (response.status_code, error_of(response)["code"]) == (500, "transcription_failed")


async def test_subtitles_are_shown_while_their_words_are_said(service: Service) -> None:
    response = await service.transcribe(response_format="srt")
    assert (
        response.content
        == ("1\n00:00:00,080 --> 00:00:01,200\nHello there.\n\n2\n00:00:01,600 --> 00:00:02,400\n你好。\n\n").encode()
    )


async def test_the_sdk_reads_words(service: Service) -> None:
    transport = httpx2.ASGITransport(service.app)
    async with openai.AsyncOpenAI(
        http_client=httpx2.AsyncClient(transport=transport),
        base_url="http://service/v1",
        api_key="none",
        _strict_response_validation=True,
    ) as sdk:
        answer = await sdk.audio.transcriptions.create(
            file=AUDIO, model=MODEL, response_format="verbose_json", timestamp_granularities=["word"]
        )
    assert isinstance(answer, TranscriptionVerbose)
    assert answer.segments is None
    assert [(word.word, word.start, word.end) for word in answer.words or ()] == [
        (word.text, word.start, word.end) for word in TIMED.words
    ]


async def test_the_document_offers_words_where_there_is_an_aligner(service: Service) -> None:
    for server, offered in ((service, ["segment", "word"]), (Service(), ["segment"])):
        document = (await server.request("GET", "/openapi.json")).json()
        form = document["paths"]["/v1/audio/transcriptions"]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["schema"]["properties"]["timestamp_granularities[]"]["items"]["enum"] == offered
