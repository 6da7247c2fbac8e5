"""The way of one request: validated, then decoded off the event loop, then transcribed, with a deadline."""

import asyncio
import io
import threading
import wave
from typing import Any

import pytest

from deployments.exceptions import InvalidAudio
from deployments.ingress.api import create_app
from deployments.transcription.options import DecodingOptions
from tests.api.fakes import AUDIO, MODEL, TRANSCRIPT, Service, error_of


async def test_plain_request(service: Service) -> None:
    response = await service.transcribe()
    assert response.status_code == 200
    assert response.json()["text"] == TRANSCRIPT.text
    assert service.decoder.contents == [AUDIO]
    assert service.decoder.max_duration_s == service.settings.max_duration_s
    [(waveform, options)] = service.transcriber.calls
    assert waveform.shape == (16_000,)
    assert options == DecodingOptions()


async def test_every_option_reaches_the_transcriber(service: Service) -> None:
    await service.transcribe(
        language="zh-CN",
        prompt=" Ada, 张伟 ",
        temperature="0.25",
        top_p="0.9",
        top_k="50",
        seed="7",
        repetition_penalty="1.2",
        max_new_tokens="64",
        include="logprobs",
    )
    [(_, options)] = service.transcriber.calls
    assert options == DecodingOptions(
        language="Chinese",
        prompt=" Ada, 张伟 ",
        temperature=0.25,
        top_p=0.9,
        top_k=50,
        seed=7,
        repetition_penalty=1.2,
        max_new_tokens=64,
        logprobs=True,
    )


async def test_names_of_other_servers(service: Service) -> None:
    await service.transcribe(max_completion_tokens="12", top_k="-1", hotwords="Ada")
    [(_, options)] = service.transcriber.calls
    assert options == DecodingOptions(max_new_tokens=12, prompt="Ada")


async def test_languages_restrict_detection_and_replace_the_default() -> None:
    service = Service(default_language="de")
    await service.transcribe(**{"languages[]": ["en", "english", "zh"]})
    await service.transcribe(**{"languages[]": ["en", "zh"], "language": "zh"})
    (first, second) = [options for _, options in service.transcriber.calls]
    assert (first.language, first.languages) == (None, ("English", "Chinese"))
    assert (second.language, second.languages) == ("Chinese", ("English", "Chinese"))


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"keywords[]": ["Ada Lovelace", "Grace\n Hopper"]}, "Ada Lovelace, Grace Hopper"),
        ({"keywords": ["Ada", "Grace"], "prompt": "Two names."}, "Two names.\nAda, Grace"),
        ({"hotwords": "Ada, Grace", "keywords[]": "Katherine"}, "Katherine, Ada, Grace"),
        ({"hotwords[]": ["", " "], "prompt": "Only this."}, "Only this."),
    ],
)
async def test_keywords_are_a_line_under_the_prompt(service: Service, fields: dict[str, Any], context: str) -> None:
    await service.transcribe(**fields)
    assert service.transcriber.calls[0][1].prompt == context


@pytest.mark.parametrize("language", [None, "", "auto"])
async def test_default_language(language: str | None) -> None:
    service = Service(default_language="de")
    await service.transcribe(**({} if language is None else {"language": language}))
    assert service.transcriber.calls[0][1].language == "German"


async def test_requested_language_beats_the_default() -> None:
    service = Service(default_language="de")
    await service.transcribe(language="english")
    assert service.transcriber.calls[0][1].language == "English"


async def test_aliases_are_accepted() -> None:
    service = Service(model_aliases=("whisper-1",))
    assert (await service.transcribe(model="whisper-1")).status_code == 200


async def test_fields_may_follow_the_file(service: Service) -> None:
    parts = [("file", ("a", AUDIO)), ("language", (None, "fr")), ("model", (None, MODEL))]
    response = await service.request("POST", "/v1/audio/transcriptions", files=parts)
    assert response.status_code == 200
    assert service.transcriber.calls[0][1].language == "French"


async def test_validation_comes_before_the_audio(service: Service) -> None:
    service.decoder.error = InvalidAudio("never seen")
    assert error_of(await service.transcribe(temperature="2"))["param"] == "temperature"
    assert service.untouched


async def test_the_audio_comes_before_the_model(service: Service) -> None:
    service.decoder.error = InvalidAudio("Audio file might be corrupted or unsupported")
    response = await service.transcribe()
    assert response.status_code == 400
    assert error_of(response)["param"] == "file"
    assert len(service.decoder.sources) == 1
    assert not service.transcriber.calls


async def test_decoding_leaves_the_event_loop_free(service: Service) -> None:
    service.decoder.release = threading.Event()
    request = asyncio.create_task(service.transcribe())
    assert (await service.request("GET", "/health")).json() == {"status": "ok"}
    assert not request.done()
    service.decoder.release.set()
    assert (await request).status_code == 200
    [thread] = service.decoder.threads
    assert thread.name.startswith("decode")
    assert thread is not threading.current_thread()


async def test_no_more_recordings_at_once_than_threads() -> None:
    service = Service(decode_threads=1)
    service.decoder.release = threading.Event()
    requests = [asyncio.create_task(service.transcribe()) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert len(service.decoder.sources) == 1
    service.decoder.release.set()
    assert [(await request).status_code for request in requests] == [200, 200, 200]
    assert len(set(service.decoder.threads)) == 1


async def test_the_upload_is_closed_while_the_model_works(service: Service) -> None:
    service.transcriber.hang = True
    request = asyncio.create_task(service.transcribe(file=("a", b"x" * 2_000_000)))
    await service.transcriber.started.wait()
    assert service.decoder.sources[0].closed
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)


async def test_the_upload_is_closed_after_an_error(service: Service) -> None:
    service.decoder.error = RuntimeError("unexpected")
    assert (await service.transcribe()).status_code == 500
    assert service.decoder.sources[0].closed


async def test_deadline_of_the_model() -> None:
    service = Service(request_timeout_s=0.05)
    service.transcriber.hang = True
    response = await service.transcribe()
    assert response.status_code == 504
    assert error_of(response)["code"] == "deadline_exceeded"
    assert service.transcriber.cancelled


async def test_deadline_of_the_decoder() -> None:
    service = Service(request_timeout_s=0.05)
    service.decoder.release = threading.Event()
    response = await service.transcribe()
    assert response.status_code == 504
    # The thread cannot be stopped, but the closed file ends it at its next read.
    assert service.decoder.sources[0].closed
    service.decoder.release.set()
    assert not service.transcriber.calls


async def test_someone_elses_timeout_is_not_the_deadline(service: Service) -> None:
    service.transcriber.answer = TimeoutError("a socket somewhere")
    assert (await service.transcribe()).status_code == 500


async def test_cancellation_reaches_the_transcriber(service: Service) -> None:
    service.transcriber.hang = True
    request = asyncio.create_task(service.transcribe())
    await service.transcriber.started.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert service.transcriber.cancelled


@pytest.mark.parametrize("seconds", [1, 25])  # 25 s are spooled to disk
async def test_with_the_real_decoder(service: Service, seconds: int) -> None:
    service.app = create_app(service.transcriber, service.settings, service.model)
    recording = io.BytesIO()
    with wave.open(recording, "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(4 * 16_000 * seconds))
    assert (await service.transcribe(file=recording.getvalue())).status_code == 200
    [(waveform, _)] = service.transcriber.calls
    assert waveform.shape == (16_000 * seconds,)
    assert error_of(await service.transcribe(file=b"no recording"))["param"] == "file"


async def test_lifespan_stops_the_decoding_threads(service: Service) -> None:
    async with service.app.router.lifespan_context(service.app):
        assert (await service.transcribe()).status_code == 200
    [thread] = service.decoder.threads
    thread.join(5)
    assert not thread.is_alive()
