"""Every answer says which request it belongs to."""

import re

import openai
import pytest

from tests.api.fakes import AUDIO, MODEL, Service

FRESH = re.compile(r"req_[0-9a-f]{32}")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("GET", "/nowhere"),
        ("PUT", "/v1/models"),
        ("POST", "/v1/audio/transcriptions"),
    ],
)
async def test_on_every_answer(service: Service, method: str, path: str) -> None:
    first = await service.request(method, path)
    second = await service.request(method, path)
    assert FRESH.fullmatch(first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.headers["openai-processing-ms"].isdigit()


async def test_on_a_success_an_unexpected_error_and_a_large_upload() -> None:
    service = Service(max_upload_bytes=1000)
    answers = [await service.transcribe(), await service.transcribe(file=("a", b"x" * 2000))]
    answers.append(await service.transcribe(stream="true"))
    service.transcriber.answer = RuntimeError()
    answers.append(await service.transcribe())
    assert [answer.status_code for answer in answers] == [200, 413, 200, 500]
    assert all(FRESH.fullmatch(answer.headers["x-request-id"]) for answer in answers)


@pytest.mark.parametrize("request_id", ["a", "My.own_id-1", "x" * 128])
async def test_the_clients_own_is_kept(service: Service, request_id: str) -> None:
    response = await service.request("GET", "/health", headers={"x-request-id": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a b", "a\x01", "é", "a,b", "<script>"])
async def test_an_unsafe_one_is_replaced(service: Service, request_id: str) -> None:
    headers = {b"x-request-id": request_id.encode()}
    response = await service.request("GET", "/health", headers=headers)
    assert FRESH.fullmatch(response.headers["x-request-id"])


async def test_not_written_twice_behind_a_proxy_that_does(service: Service) -> None:
    service.app = service.build(write_request_id=False)
    response = await service.request("GET", "/health", headers={"x-request-id": "from-the-proxy"})
    assert "x-request-id" not in response.headers
    assert "openai-processing-ms" in response.headers


async def test_the_sdk_shows_it(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.audio.transcriptions.create(file=AUDIO, model=MODEL, extra_headers={"x-request-id": "mine"})
    assert answer._request_id == "mine"
