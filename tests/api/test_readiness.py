"""/ready: an utterance can be transcribed now."""

import asyncio
from collections.abc import Awaitable, Callable

import httpx
import pytest

from deployments.exceptions import ServiceUnavailable
from deployments.ingress import readiness
from tests.api.fakes import Service, error_of


def _service(check: Callable[[], Awaitable[None]]) -> Service:
    service = Service()
    service.app = service.build(check_model=check)
    return service


class Model:
    """Counts who asks it; raises what it is told to."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.asked = 0
        self.refusal = refusal

    async def check(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.refusal is not None:
            raise self.refusal


async def test_ready_while_the_model_answers() -> None:
    model = Model()
    answer = await _service(model.check).request("GET", "/ready")
    assert (answer.status_code, answer.json(), model.asked) == (200, {"status": "ok"}, 1)


async def test_not_ready_says_when_to_come_back() -> None:
    model = Model(ServiceUnavailable("The model is restarting.", retry_after_s=7))
    answer = await _service(model.check).request("GET", "/ready")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "7"
    assert error_of(answer)["message"] == "The model is restarting."
    assert error_of(answer)["code"] == "server_is_overloaded"


async def test_a_model_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "WAIT_S", 0.01)
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    answer = await _service(hang).request("GET", "/ready")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert cancelled.is_set()


async def test_the_model_is_asked_once_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 60.0)
    model = Model()
    service = _service(model.check)
    answers: list[httpx.Response] = await asyncio.gather(*(service.request("GET", "/ready") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert model.asked == 1


@pytest.mark.parametrize("refusals", [(None, ServiceUnavailable("no")), (ServiceUnavailable("no"), None)])
async def test_what_was_true_is_asked_again(
    refusals: tuple[Exception | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "KEPT_S", 0.0)
    model = Model()
    service = _service(model.check)
    statuses = []
    for model.refusal in refusals:
        statuses.append((await service.request("GET", "/ready")).status_code)
    assert statuses == [200 if refusal is None else 503 for refusal in refusals]


async def test_head_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_API_KEYS", "secret")
    service = _service(Model().check)
    for path in ("/ready", "/health"):
        for method in ("GET", "HEAD"):
            assert (await service.request(method, path)).status_code == 200


async def test_health_does_not_ask_the_model() -> None:
    model = Model(ServiceUnavailable("no"))
    assert (await _service(model.check).request("GET", "/health")).status_code == 200
    assert model.asked == 0


async def test_in_the_services_own_description() -> None:
    document = (await _service(Model().check).request("GET", "/openapi.json")).json()
    assert set(document["paths"]["/ready"]["get"]["responses"]) == {"200", "503"}
