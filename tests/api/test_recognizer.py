"""The ASR deployment as a recognizer: its stream, over a handle that does what Ray's does."""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.exceptions import (
    EngineFailure,
    InvalidRequest,
    ReplicaLost,
    ServiceError,
    ServiceUnavailable,
    TooManyRequests,
)
from deployments.ingress import remote_recognizer
from deployments.ingress.remote_recognizer import RemoteRecognizer
from deployments.transcription.utterance import Delta, Transcription, Utterance

UTTERANCE = Utterance(np.zeros(1600, np.float32))
END = Transcription("Hi.", "English", "stop", 2, 9, 3, -0.5)


@dataclass(frozen=True)
class Returned:
    """An error that is an answer."""

    error: Exception


class Response:
    """Like Ray's DeploymentResponseGenerator: items, then perhaps an error; `hang` waits for ever."""

    def __init__(self, items: list[Any]) -> None:
        self._items = iter(items)
        self.cancelled = False

    def __aiter__(self) -> "Response":
        return self

    async def __anext__(self) -> Any:
        item = next(self._items, None)
        if item is None:
            raise StopAsyncIteration
        if item == "hang":
            await asyncio.Event().wait()
        if isinstance(item, Exception):
            raise item
        return item.error if isinstance(item, Returned) else item

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment handle whose calls answer one after the other with `answers`."""

    def __init__(self, *answers: list[Any]) -> None:
        self.responses = [Response(items) for items in answers]
        self.calls = 0
        self.stream = False

    def options(self, *, stream: bool) -> "Handle":
        self.stream = stream
        return self

    @property
    def transcribe_stream(self) -> "Handle":
        return self

    def remote(self, utterance: Utterance) -> Response:
        assert self.stream
        assert utterance is UTTERANCE
        self.calls += 1
        return self.responses[self.calls - 1]


def task_error(cause: Exception) -> Exception:
    error = RayTaskError("transcribe_stream", "traceback", cause)
    return error.as_instanceof_cause()


async def items_of(handle: Handle) -> list[Any]:
    return [item async for item in RemoteRecognizer(handle).stream(UTTERANCE)]


async def test_what_the_replica_says() -> None:
    handle = Handle([Delta("Hi"), Delta("."), END])
    assert await items_of(handle) == [Delta("Hi"), Delta("."), END]
    assert not handle.responses[0].cancelled


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (task_error(EngineFailure("no", param="file")), EngineFailure("no", param="file")),
        (BackPressureError(9, 8), ServiceUnavailable("The service is at its capacity. Try again in a moment.")),
        (
            BackPressureError(9, 8, status_code=429, retry_after_s=2.5),
            TooManyRequests("The service is at its capacity. Try again in a moment.", retry_after_s=3),
        ),
        (
            DeploymentUnavailableError("ASR"),
            ServiceUnavailable("The service is at its capacity. Try again in a moment."),
        ),
    ],
)
@pytest.mark.parametrize("said", [[], [Delta("Hi")]])
async def test_errors_become_our_own(said: list[Delta], error: Exception, expected: ServiceError) -> None:
    handle = Handle([*said, error])
    with pytest.raises(type(expected)) as caught:
        await items_of(handle)
    assert type(caught.value) is type(expected)
    assert vars(caught.value) == vars(expected)
    assert handle.calls == 1


async def test_what_is_no_error_of_ours_stays_what_it_is() -> None:
    with pytest.raises(RayTaskError):
        await items_of(Handle([task_error(ZeroDivisionError())]))


LOST = [
    ActorDiedError(),
    ActorUnavailableError("no route", None),
    OutOfMemoryError("killed by Ray's memory monitor"),
    NodeDiedError("gone"),
    task_error(ReplicaLost("no memory left")),
]
each_loss = pytest.mark.parametrize("loss", LOST, ids=lambda error: type(error).__name__)


@each_loss
async def test_a_replica_that_is_lost_before_it_said_anything_is_replaced(loss: Exception) -> None:
    handle = Handle([loss], [Delta("Hi."), END])
    assert await items_of(handle) == [Delta("Hi."), END]
    assert handle.calls == 2


@pytest.mark.parametrize("told", [[Delta("Hi")], [Delta("Hi"), Delta(".")]])
async def test_in_the_middle_too_and_nothing_is_told_twice(told: list[Delta]) -> None:
    handle = Handle([*told, ActorDiedError()], [Delta("Hi"), Delta("."), END])
    assert await items_of(handle) == [Delta("Hi"), Delta("."), END]
    assert handle.calls == 2


@pytest.mark.parametrize(
    "answers",
    [
        [[ActorDiedError()], [ActorDiedError()]],
        [[Delta("Hi"), ActorDiedError()], [Delta("Hi"), Delta("."), ActorDiedError()]],
        [[Delta("Hi"), ActorDiedError()], [Delta("Ho"), Delta("."), END]],
        [[Delta("Hi"), ActorDiedError()], [END]],
        [[Delta("Hi"), ActorDiedError()], []],
    ],
    ids=["two die", "two die in the middle", "the next says something else", "the next says less", "or nothing"],
)
async def test_but_not_twice_and_not_where_the_next_one_says_something_else(answers: list[list[Any]]) -> None:
    handle = Handle(*answers)
    with pytest.raises(ReplicaLost, match="The model is restarting"):
        await items_of(handle)
    assert handle.calls == 2


SHORTER = InvalidRequest("Send a shorter prompt.", param="prompt")
REFUSED = BackPressureError(9, 8, status_code=429, retry_after_s=0.01)


async def test_who_was_told_the_beginning_waits_for_a_replica_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(remote_recognizer.asyncio, "sleep", sleep)
    handle = Handle(
        [Delta("Hi"), ActorDiedError()], [REFUSED], [DeploymentUnavailableError("ASR")], [Delta("Hi"), Delta("."), END]
    )
    assert await items_of(handle) == [Delta("Hi"), Delta("."), END]
    assert (handle.calls, waited) == (4, [1, 1])


async def test_who_was_told_nothing_is_refused() -> None:
    handle = Handle([ActorDiedError()], [REFUSED])
    with pytest.raises(TooManyRequests):
        await items_of(handle)


async def test_what_the_caller_has_to_change_is_no_failure_of_the_call() -> None:
    with pytest.raises(InvalidRequest, match="shorter"):
        await items_of(Handle([Returned(SHORTER)]))


class Call:
    """Like Ray's DeploymentResponse: an answer or an error; `hang` waits for ever."""

    def __init__(self, outcome: Any) -> None:
        self._outcome = outcome
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._get().__await__()

    async def _get(self) -> Any:
        if self._outcome == "hang":
            await asyncio.Event().wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome.error if isinstance(self._outcome, Returned) else self._outcome

    def cancel(self) -> None:
        self.cancelled = True


class CallHandle:
    """A deployment handle whose calls end one after the other as `outcomes` say."""

    def __init__(self, *outcomes: Any) -> None:
        self.calls: list[Call] = []
        self._outcomes = iter(outcomes)

    @property
    def transcribe(self) -> "CallHandle":
        return self

    def remote(self, utterance: Utterance) -> Call:
        assert utterance is UTTERANCE
        self.calls.append(Call(next(self._outcomes)))
        return self.calls[-1]


@each_loss
async def test_an_utterance_whose_replica_is_lost_is_sent_again_once(loss: Exception) -> None:
    handle = CallHandle(loss, END)
    assert await RemoteRecognizer(handle).transcribe(UTTERANCE) == END
    assert len(handle.calls) == 2


async def test_but_not_a_third_time() -> None:
    handle = CallHandle(ActorDiedError(), ActorDiedError(), END)
    with pytest.raises(ReplicaLost, match="The model is restarting"):
        await RemoteRecognizer(handle).transcribe(UTTERANCE)
    assert len(handle.calls) == 2


async def test_and_not_where_the_model_failed_on_it() -> None:
    handle = CallHandle(task_error(EngineFailure("no")), END)
    with pytest.raises(EngineFailure):
        await RemoteRecognizer(handle).transcribe(UTTERANCE)
    assert len(handle.calls) == 1


async def test_nor_what_its_caller_has_to_change() -> None:
    with pytest.raises(InvalidRequest, match="shorter"):
        await RemoteRecognizer(CallHandle(Returned(SHORTER))).transcribe(UTTERANCE)


async def test_who_leaves_frees_the_place_of_the_utterance() -> None:
    handle = CallHandle("hang")
    task = asyncio.ensure_future(RemoteRecognizer(handle).transcribe(UTTERANCE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.calls[0].cancelled


async def _close(handle: Handle) -> None:
    items = RemoteRecognizer(handle).stream(UTTERANCE)
    assert await anext(items) == Delta("Hi")
    await items.aclose()


async def _cancel(handle: Handle) -> None:
    task = asyncio.ensure_future(items_of(handle))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [_close, _cancel])
async def test_leaving_early_frees_the_place_in_the_engine(leave: Callable[[Handle], Any]) -> None:
    handle = Handle([Delta("Hi"), "hang"])
    await leave(handle)
    assert handle.responses[0].cancelled


@pytest.mark.parametrize("answers", [[[Delta("Hi"), END, "hang"]], [[ActorDiedError()], [Delta("Hi"), END, "hang"]]])
async def test_who_leaves_with_the_answer_cancels_nothing(answers: list[list[Any]]) -> None:
    handle = Handle(*answers)
    items = RemoteRecognizer(handle).stream(UTTERANCE)
    assert [await anext(items), await anext(items)] == [Delta("Hi"), END]
    await items.aclose()
    assert not any(response.cancelled for response in handle.responses)


async def test_nor_is_that_a_failure_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(remote_recognizer, "tracer", provider.get_tracer("test"))
    items = RemoteRecognizer(Handle([Delta("Hi"), END])).stream(UTTERANCE)
    assert [await anext(items), await anext(items)] == [Delta("Hi"), END]
    await items.aclose()
    assert [(span.name, span.status.is_ok) for span in spans.get_finished_spans()] == [("call", True)]
