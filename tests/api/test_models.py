"""/v1/models and /health."""

from pathlib import Path

import openai
import pytest

from tests.api.fakes import MODEL, Service, error_of


async def test_list(service: Service) -> None:
    response = await service.request("GET", "/v1/models")
    body = response.json()
    assert body["object"] == "list"
    [card] = body["data"]
    assert card["id"] == MODEL
    assert card["object"] == "model"
    assert card["created"] == service.model.created
    assert card["owned_by"] == "demo"
    assert card["checkpoint"] == "demo"
    assert "en" in card["languages"]
    assert len(card["languages"]) == 30
    assert card["max_duration_s"] == service.settings.max_duration_s
    assert card["max_utterance_s"] == service.settings.utterance_limit_s
    assert card["max_upload_bytes"] == 26_214_400
    assert card["max_prompt_chars"] == 4000
    assert card["response_formats"] == ["json", "text", "srt", "verbose_json", "vtt"]
    assert (card["aligner"], card["url_input"]) == (False, False)


@pytest.mark.parametrize("path", ["/v1/models", f"/v1/models/{MODEL}", "/v1/models/x", "/health", "/openapi.json"])
async def test_head_is_get_without_its_body(service: Service, path: str) -> None:
    head, get = await service.request("HEAD", path), await service.request("GET", path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_an_aligner_is_told() -> None:
    [card] = (await Service(aligner="demo").request("GET", "/v1/models")).json()["data"]
    assert card["aligner"] is True


async def test_aliases_are_models_of_their_own() -> None:
    service = Service(model="Qwen/Qwen3-ASR-1.7B", model_aliases=("whisper-1", "gpt-4o-transcribe"))
    cards = (await service.request("GET", "/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["Qwen/Qwen3-ASR-1.7B", "whisper-1", "gpt-4o-transcribe"]
    assert {card["checkpoint"] for card in cards} == {"Qwen/Qwen3-ASR-1.7B"}
    assert {card["owned_by"] for card in cards} == {"qwen"}


@pytest.mark.parametrize("path", ["Qwen%2FQwen3-ASR-1.7B", "Qwen/Qwen3-ASR-1.7B", "whisper-1"])
async def test_retrieve(path: str) -> None:
    service = Service(model="Qwen/Qwen3-ASR-1.7B", model_aliases=("whisper-1",))
    response = await service.request("GET", f"/v1/models/{path}")
    assert response.status_code == 200
    assert response.json()["id"] == path.replace("%2F", "/")


@pytest.mark.parametrize("path", ["x", "a/b", "a%2Fb", "%00", "x" * 3000, ""])
async def test_unknown(service: Service, path: str) -> None:
    response = await service.request("GET", f"/v1/models/{path}")
    assert response.status_code == 404
    error = error_of(response)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert len(error["message"]) < 120
    if path == "x":
        assert error["message"] == "The model 'x' does not exist"


async def test_the_path_of_a_checkpoint_folder_is_not_told(tmp_path: Path) -> None:
    folder = tmp_path / "my-checkpoint"
    folder.mkdir()
    response = await Service(model=str(folder)).request("GET", "/v1/models")
    assert response.json()["data"][0]["checkpoint"] == "my-checkpoint"
    assert str(tmp_path) not in response.text


async def test_through_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in sdk.models.list()] == [MODEL]
    assert (await sdk.models.retrieve(MODEL)).owned_by == "demo"
    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.models.retrieve("Qwen/Other")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_health_asks_nobody(service: Service, method: str) -> None:
    service.transcriber.answer = RuntimeError()
    response = await service.request(method, "/health")
    assert response.status_code == 200
    assert service.untouched
