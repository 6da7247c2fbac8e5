"""Every row of the table of errors: status, envelope, headers, and what the SDK makes of it."""

import logging
import pickle

import openai
import pytest

from deployments.exceptions import (
    DeadlineExceeded,
    EngineFailure,
    InvalidAudio,
    InvalidRequest,
    ServiceError,
    ServiceUnavailable,
    TooManyRequests,
    Unauthenticated,
    UnknownModel,
    UploadTimeout,
    UploadTooLarge,
)
from tests.api.fakes import AUDIO, MODEL, Service, error_of

NO_RETRY = {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code", "headers"),
    [
        (InvalidRequest("no", param="prompt"), 400, "invalid_request_error", "prompt", "invalid_value", {}),
        (InvalidAudio("no", code="audio_too_short"), 400, "invalid_request_error", "file", "audio_too_short", {}),
        (UnknownModel("no"), 404, "invalid_request_error", None, "model_not_found", {}),
        (UploadTimeout("no"), 408, "invalid_request_error", None, "upload_timeout", {}),
        (UploadTooLarge("no"), 413, "invalid_request_error", None, "upload_too_large", {}),
        (EngineFailure("no"), 500, "server_error", None, "transcription_failed", NO_RETRY),
        (ServiceError("no"), 500, "server_error", None, None, {}),
        (Unauthenticated("no"), 401, "invalid_request_error", None, None, {}),
        (
            TooManyRequests("no", retry_after_s=7),
            429,
            "requests",
            None,
            "rate_limit_exceeded",
            {"retry-after": "7", "retry-after-ms": "7000"},
        ),
        (
            ServiceUnavailable("no"),
            503,
            "service_unavailable_error",
            None,
            "server_is_overloaded",
            {"retry-after": "1", "retry-after-ms": "1000"},
        ),
        (DeadlineExceeded("no"), 504, "server_error", None, "deadline_exceeded", NO_RETRY),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_own_errors(
    service: Service,
    error: ServiceError,
    status: int,
    kind: str,
    param: str | None,
    code: str | None,
    headers: dict[str, str],
) -> None:
    service.transcriber.answer = error
    response = await service.transcribe()
    assert response.status_code == status
    assert error_of(response) == {"message": "no", "type": kind, "param": param, "code": code}
    retry_headers = {"x-should-retry", "retry-after", "retry-after-ms"}
    assert {name: value for name, value in response.headers.items() if name in retry_headers} == headers


async def test_an_error_from_another_process(service: Service) -> None:
    class TaskError(Exception):
        """Like Ray's RayTaskError: in front of the real class, whose attributes it passes on."""

        def __init__(self, cause: Exception) -> None:
            self.cause = cause

        def __getattr__(self, name: str) -> object:
            return getattr(self.cause, name)

    dual = type("TaskError(EngineFailure)", (TaskError, EngineFailure), {})
    service.transcriber.answer = dual(EngineFailure("the replica said so", param="file"))
    response = await service.transcribe()
    assert response.status_code == 500
    error = error_of(response)
    assert (error["message"], error["param"], error["code"]) == ("the replica said so", "file", "transcription_failed")


@pytest.mark.parametrize(
    "error",
    [
        InvalidAudio("no", code="audio_too_short"),
        UnknownModel("no", param="model"),
        ServiceUnavailable("no", retry_after_s=3),
        TooManyRequests("no", retry_after_s=3),
        Unauthenticated("no", code="invalid_api_key"),
    ],
)
def test_errors_cross_process_borders(error: ServiceError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


async def test_unexpected_errors_are_logged_and_not_told(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.transcriber.answer = RuntimeError("secret /path/to/weights")
    with caplog.at_level(logging.WARNING):
        response = await service.transcribe()
    assert response.status_code == 500
    assert error_of(response)["type"] == "server_error"
    assert "secret" not in response.text
    [record] = caplog.records
    assert record.name == "ray.serve.asr"
    assert record.exc_info is not None
    assert record.exc_info[1] is service.transcriber.answer
    assert response.headers["x-request-id"] in record.getMessage()


async def test_what_clients_do_wrong_is_not_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    await service.transcribe(temperature="hot")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", [ServiceUnavailable("The queue is full."), TooManyRequests("The queue is full.")])
async def test_overload_is_logged_without_traceback(
    service: Service, caplog: pytest.LogCaptureFixture, error: ServiceError
) -> None:
    service.transcriber.answer = error
    await service.transcribe()
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert record.exc_info is None


@pytest.mark.parametrize("path", ["/", "/v1/foo", "/v1/audio/transcriptions/", "/v1/audio/transcriptionsx"])
async def test_unknown_urls(service: Service, path: str) -> None:
    response = await service.request("POST", path, files={"file": ("a.wav", AUDIO)})
    assert response.status_code == 404
    assert error_of(response)["message"] == f"Invalid URL (POST {path})"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/audio/transcriptions", "POST"),
        ("HEAD", "/v1/audio/translations", "POST"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("DELETE", f"/v1/models/{MODEL}", "GET, HEAD"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("POST", "/docs", "GET, HEAD"),
    ],
)
async def test_wrong_method(service: Service, method: str, path: str, allowed: str) -> None:
    response = await service.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        error = error_of(response)
        assert (error["message"], error["code"]) == (
            f"Invalid method for URL ({method} {path})",
            "method_not_supported",
        )


@pytest.mark.parametrize(
    ("error", "exception"),
    [
        (InvalidAudio("no", code="invalid_value"), openai.BadRequestError),
        (UnknownModel("no", param="model"), openai.NotFoundError),
        (UploadTimeout("no"), openai.APIStatusError),
        (UploadTooLarge("no"), openai.APIStatusError),
        (Unauthenticated("no"), openai.AuthenticationError),
        (TooManyRequests("no"), openai.RateLimitError),
        (EngineFailure("no"), openai.InternalServerError),
        (ServiceUnavailable("no"), openai.InternalServerError),
        (DeadlineExceeded("no"), openai.InternalServerError),
        (RuntimeError("no"), openai.InternalServerError),
    ],
)
async def test_sdk_exceptions(
    service: Service, sdk: openai.AsyncOpenAI, error: Exception, exception: type[openai.APIStatusError]
) -> None:
    service.transcriber.answer = error
    with pytest.raises(exception) as caught:
        await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL)
    assert caught.value.param == getattr(error, "param", None)
    assert caught.value.code == getattr(error, "code", "internal_error")
    assert caught.value.request_id is not None


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (EngineFailure("no"), 1),
        (DeadlineExceeded("no"), 1),
        (InvalidAudio("no"), 1),
        (UploadTimeout("no"), 2),
        (RuntimeError("no"), 2),
    ],
)
async def test_sdk_retries(service: Service, sdk: openai.AsyncOpenAI, error: Exception, attempts: int) -> None:
    service.transcriber.answer = error
    with pytest.raises(openai.APIStatusError):
        await sdk.with_options(max_retries=1).audio.transcriptions.create(file=AUDIO, model=MODEL)
    assert len(service.transcriber.calls) == attempts


async def test_sdk_on_what_is_not_supported(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, response_format="diarized_json")
    assert (caught.value.param, caught.value.code) == ("response_format", "unsupported_value")
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, known_speaker_names=["Ada"])
    assert (caught.value.param, caught.value.code) == ("known_speaker_names", "unsupported_value")
    with pytest.raises(openai.BadRequestError, match="does not support translation"):
        await sdk.audio.translations.create(file=AUDIO, model=MODEL)
