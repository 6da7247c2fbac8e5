"""What Serve's proxy answers itself reaches clients in OpenAI's form."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from deployments.ingress import proxy
from deployments.ingress.proxy import ProxyMiddleware, middleware
from deployments.ingress.request_age import age_of
from tests.api.fakes import TRANSCRIPTIONS, Service, error_of

FRESH = re.compile(r"req_[0-9a-f]{32}")


def test_its_process_returns_the_memory_of_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(proxy, "return_freed_memory", lambda: called.append(True))
    middleware()
    assert called == [True]


class Serve:
    """Stands in for Serve's proxy: writes the id of the request as it came, and answers `response` or raises it."""

    def __init__(self, response: Response | Exception) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        (request_id,) = [value for name, value in scope["headers"] if name == b"x-request-id"]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"X-Request-ID", request_id)]
            await send(message)

        if isinstance(self.response, Exception):
            raise self.response
        await self.response(scope, receive, send_with_id)


async def request(app: Any, path: str = TRANSCRIPTIONS, **kwargs: Any) -> httpx.Response:
    for layer in middleware():
        app = layer.cls(app, *layer.args, **layer.kwargs)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.post(path, **kwargs)


@pytest.mark.parametrize(
    ("status", "told", "code", "retry"),
    [
        (404, 503, "server_is_overloaded", None),
        (408, 504, "deadline_exceeded", "false"),
        (429, 429, "rate_limit_exceeded", None),
        (500, 500, "internal_error", None),
        (503, 503, "server_is_overloaded", None),
    ],
)
async def test_an_error_in_plain_text_gets_the_envelope(status: int, told: int, code: str, retry: str | None) -> None:
    response = await request(Serve(PlainTextResponse("Traceback: secret", status)), headers={"x-request-id": "mine"})
    assert response.status_code == told
    assert error_of(response)["code"] == code
    assert "secret" not in response.text
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert response.headers.get("x-should-retry") == retry
    assert ("retry-after" in response.headers) == (told in (429, 503))


async def test_a_failure_of_the_proxy_gets_the_envelope() -> None:
    response = await request(Serve(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "secret")))
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert FRESH.fullmatch(response.headers["x-request-id"])


async def test_a_failure_after_the_first_byte_cuts_the_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("replica died")

    with pytest.raises(RuntimeError, match="replica died"):
        await request(app)


@pytest.mark.parametrize("sent", [b"a b", b"x" * 129, b"\xff", b"<script>", b""])
async def test_an_unsafe_request_id_never_reaches_serve(sent: bytes) -> None:
    response = await request(Serve(Response("{}")), headers=[(b"x-request-id", sent), (b"x-request-id", sent)])
    (echoed,) = response.headers.get_list("x-request-id")
    assert FRESH.fullmatch(echoed)


async def test_the_application_is_left_alone(service: Service) -> None:
    service.app = service.build(write_request_id=False)
    straight = await service.transcribe(response_format="text")
    through = await request(
        service.app,
        data={"model": "qwen3-asr-demo", "response_format": "text"},
        files={"file": ("a.wav", b"not really audio")},
    )
    assert (through.status_code, through.content) == (200, straight.content)
    assert through.headers["content-type"] == "text/plain; charset=utf-8"
    missing = await request(service.app, "/nowhere")
    assert (missing.status_code, error_of(missing)["message"]) == (404, "Invalid URL (POST /nowhere)")


async def test_serves_own_routes_are_left_alone() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("draining", 503)(scope, receive, send)

    response = await request(app, "/-/healthz")
    assert (response.status_code, response.text) == (503, "draining")


class Replicas:
    """Stands in for Serve's proxy whose ingress replicas do what `fates` say, one after the other.

    `die` ends a request as Serve does when a replica dies: without a word.
    """

    def __init__(self, *fates: str) -> None:
        self._fates = iter(fates)
        self.received: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fate = next(self._fates)
        body, more_body = b"", True
        while more_body:
            message = await receive()
            body += message.get("body", b"")
            more_body = message.get("more_body", False)
        self.received.append(body)
        if fate == "answer":
            await Response(b"done " + body)(scope, receive, send)
        if fate.startswith("tell "):
            await self._tell(fate.removeprefix("tell ").split(), send)

    async def _tell(self, events: list[str], send: Send) -> None:
        """Tell events, among signs of life, and die unless the last one is `.`."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})
            if event == ".":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})


def _upload() -> AsyncIterator[bytes]:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b", b"c"):
            yield chunk

    return chunks()


async def test_a_request_whose_replica_dies_is_answered_by_the_next() -> None:
    replicas = Replicas("die", "answer")
    response = await request(replicas, content=_upload())
    assert (response.status_code, response.content) == (200, b"done abc")
    assert replicas.received == [b"abc", b"abc"]


async def test_if_that_one_dies_too_the_client_shall_try_again() -> None:
    replicas = Replicas("die", "die", "answer")
    response = await request(replicas, content=_upload(), headers={"x-request-id": "mine"})
    assert (response.status_code, error_of(response)["code"]) == (503, "server_is_overloaded")
    assert response.headers["retry-after"] == "1"
    assert response.headers.get_list("x-request-id") == ["mine"]
    assert len(replicas.received) == 2


async def test_what_may_not_be_done_twice_is_not() -> None:
    replicas = Replicas("die", "answer")
    response = await request(replicas, "/somebody/elses", content=_upload())
    assert (response.status_code, len(replicas.received)) == (503, 1)


async def test_what_there_is_no_room_to_keep_is_not_sent_again_and_room_is_given_back() -> None:
    replicas = Replicas("die", "answer", "die", "answer")
    app = ProxyMiddleware(replicas, max_kept_bytes=2)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        large = await client.post(TRANSCRIPTIONS, content=_upload())
        assert (large.status_code, error_of(large)["code"]) == (503, "server_is_overloaded")
        assert (await client.post(TRANSCRIPTIONS, content=_upload())).content == b"done abc"
        small = await client.post(TRANSCRIPTIONS, content=b"ab")
        assert small.content == b"done ab"
    assert replicas.received == [b"abc", b"abc", b"ab", b"ab"]


def _scope() -> Scope:
    return {"type": "http", "method": "POST", "path": TRANSCRIPTIONS, "headers": []}


def _events(response: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]


@pytest.mark.parametrize("fates", [("tell a b c .",), ("tell ", "tell a b c ."), ("tell a b", "tell a b c .")])
async def test_a_stream_goes_on_from_the_next_replica(fates: tuple[str, ...]) -> None:
    replicas = Replicas(*fates)
    response = await request(replicas, content=_upload())
    assert (response.status_code, _events(response)) == (200, ["a", "b", "c"])
    assert set(replicas.received) == {b"abc"}


@pytest.mark.parametrize("next_one", ["tell a x c .", "tell a .", "tell a", "tell a b", "die", "answer"])
async def test_or_ends_with_an_error_that_clients_understand(next_one: str) -> None:
    response = await request(Replicas("tell a b", next_one), content=_upload())
    *told, last = _events(response)
    assert (response.status_code, told) == (200, ["a", "b"])
    assert json.loads(last)["error"]["code"] == "server_is_overloaded"


DONE = '{"type":"transcript.text.done","text":"onetwothree"}'


def _deltas(*texts: str, logprob: float | None = None) -> str:
    """The fate of telling a text in such deltas; with a logprob for each, if given."""
    events: list[str] = []
    for text in texts:
        delta = {"type": "transcript.text.delta", "delta": text}
        logprobs = [{"token": text, "logprob": logprob, "bytes": list(text.encode())}]
        events.append(json.dumps(delta | ({} if logprob is None else {"logprobs": logprobs}), separators=(",", ":")))
    return " ".join(["tell", *events])


def _ending(fate: str) -> str:
    return f"{fate} {DONE} [DONE] ."


def _told(response: httpx.Response) -> list[str]:
    *events, done, last = _events(response)
    assert (done, last) == (DONE, "[DONE]")
    return [json.loads(event)["delta"] for event in events]


@pytest.mark.parametrize(
    ("told", "again", "deltas"),
    [
        (["one", "two"], ["onetwo", "three"], ["one", "two", "three"]),
        (["one", "two"], ["onetwothree"], ["one", "two", "three"]),
        (["onetwo"], ["one", "two", "three"], ["onetwo", "three"]),
        (["one", "two"], ["on", "e", "twoth", "ree"], ["one", "two", "th", "ree"]),
        ([], ["onetwo", "three"], ["onetwo", "three"]),
        (["onetwothree"], ["one", "two", "three"], ["onetwothree"]),
    ],
)
async def test_the_next_replica_may_tell_the_same_text_in_other_events(
    told: list[str], again: list[str], deltas: list[str]
) -> None:
    """How a text is divided depends on when each of its pieces is ready."""
    response = await request(Replicas(_deltas(*told), _ending(_deltas(*again))), content=_upload())
    assert _told(response) == deltas


async def test_and_its_other_logprobs_do_not_matter() -> None:
    """Sums round differently in other company; the delta that is told in part has none that are its own."""
    first, second = _deltas("one", "two", logprob=-0.5), _deltas("one", "twoth", "ree", logprob=-0.25)
    response = await request(Replicas(first, _ending(second)), content=_upload())
    assert _told(response) == ["one", "two", "th", "ree"]
    logprobs = [json.loads(event).get("logprobs") for event in _events(response)[:4]]
    assert [tokens and tokens[0]["logprob"] for tokens in logprobs] == [-0.5, -0.5, None, -0.25]


async def test_a_stream_whose_text_is_whole_ends_with_the_next_replica() -> None:
    fate = f"{_deltas('one', 'two', 'three')} {DONE}"
    response = await request(Replicas(fate, _ending(_deltas("onetwothree"))), content=_upload())
    assert _told(response) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "next_one",
    [
        _ending(_deltas("one", "four")),
        _ending(_deltas("on", "two")),
        _ending(_deltas("onetw")),
        _ending(_deltas("onefourandmore")),
        f'{_deltas("one")} {{"error":{{}}}} .',
        f"{_deltas('onetw')} .",
    ],
)
async def test_but_no_other_text(next_one: str) -> None:
    response = await request(Replicas(_deltas("one", "two"), next_one), content=_upload())
    *told, last = _events(response)
    assert [json.loads(event)["delta"] for event in told] == ["one", "two"]
    assert json.loads(last)["error"]["code"] == "server_is_overloaded"


@pytest.mark.parametrize("again", [["onetwothree", "four"], ["onetwothreefour"], ["onetwo"]])
async def test_nor_more_or_less_of_it_where_it_was_whole(again: list[str]) -> None:
    response = await request(Replicas(f"{_deltas('onetwothree')} {DONE}", _ending(_deltas(*again))), content=_upload())
    told, done, last = _events(response)
    assert (json.loads(told)["delta"], done) == ("onetwothree", DONE)
    assert json.loads(last)["error"]["code"] == "server_is_overloaded"


async def test_the_error_comes_at_once_where_the_next_replica_says_something_else() -> None:
    """Nobody waits for the rest of what will not be passed on."""
    never, sent = asyncio.Event(), asyncio.Event()
    replicas = Replicas("tell a b", "tell x")
    last: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await replicas(scope, receive, send)
        if len(replicas.received) == 2:
            await never.wait()

    async def send(message: Message) -> None:
        if not message.get("more_body", True):
            last.append(message)
            sent.set()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    call = asyncio.create_task(ProxyMiddleware(app)(_scope(), receive, send))
    await asyncio.wait_for(sent.wait(), 5)
    assert b"server_is_overloaded" in last[0]["body"]
    never.set()
    await call
    assert len(last) == 1


async def test_a_stream_that_serve_gave_up_at_the_clients_own_limit_is_not_begun_again() -> None:
    replicas = Replicas("tell a", "tell a .")
    response = await request(replicas, content=_upload(), headers={"x-request-timeout-seconds": "0.0"})
    told, last = _events(response)
    assert (told, json.loads(last)["error"]["code"]) == ("a", "deadline_exceeded")
    assert len(replicas.received) == 1


@pytest.mark.parametrize("sent", ["soon", "60", "inf"])
async def test_a_limit_that_has_not_passed_changes_nothing(sent: str) -> None:
    replicas = Replicas("tell a", "tell a .")
    response = await request(replicas, content=_upload(), headers={"x-request-timeout-seconds": sent})
    assert _events(response) == ["a"]
    assert len(replicas.received) == 2


async def test_the_next_replica_learns_how_long_it_has_been_on_its_way() -> None:
    ages: list[float] = []
    replicas = Replicas("die", "answer")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ages.append(age_of(Headers(scope=scope)))
        await asyncio.sleep(0.02)
        await replicas(scope, receive, send)

    assert (await request(app, content=_upload(), headers={"x-asr-request-age-seconds": "9"})).status_code == 200
    assert ages[0] == 0, "what a client says of it is not passed on"
    assert 0.02 <= ages[1] < 5


async def test_any_other_answer_that_has_begun_is_left_for_the_server_to_cut() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})

    await ProxyMiddleware(app)(_scope(), receive, send)
    assert [message.get("more_body") for message in sent] == [None, True]


async def test_nothing_is_done_again_for_a_client_that_has_left() -> None:
    replicas = Replicas("die", "answer")

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await ProxyMiddleware(replicas)(_scope(), receive, send)
    assert len(replicas.received) == 1
    assert sent == []
