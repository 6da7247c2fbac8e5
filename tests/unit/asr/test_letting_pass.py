"""One on its way in lets those pass that run and are much shorter, but not for ever."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import Engine
from deployments.asr.request import Request
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise

PIECE_TOKENS = 110


@pytest.fixture
def engine(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """To be stepped by hand; answers end with their budget, audio is encoded in stretches of 8 s."""
    engine = Engine(checkpoint, slots=4, slot_tokens=1024, admission_s=8.0, piece_tokens=PIECE_TOKENS)
    monkeypatch.setattr(engine._prompt, "stop_ids", (engine._prompt.audio_id,))
    return engine


class Hurdles:
    """What keeps running utterances from their next token: stretches of audio, and pieces of prompts, in order."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch):
        self.passed: list[str] = []
        self._then: dict[int, Callable[[], object]] = {}
        encode_stretches, decode = engine._runner.encode_stretches, engine._runner.decode

        def note_stretches(*args: Any) -> Iterator[None]:
            for _ in encode_stretches(*args):
                self._pass("stretch")
                yield
            self._pass("stretch")

        def note_decode(*args: Any, **kwargs: Any) -> torch.Tensor:
            logits = decode(*args, **kwargs)
            if kwargs.get("reading"):
                self._pass("piece")
            return logits

        monkeypatch.setattr(engine._runner, "encode_stretches", note_stretches)
        monkeypatch.setattr(engine._runner, "decode", note_decode)

    def after(self, passed: int, then: Callable[[], object]) -> None:
        """Do something when so many have been passed."""
        self._then[passed] = then

    def _pass(self, hurdle: str) -> None:
        self.passed.append(hurdle)
        self._then.pop(len(self.passed), lambda: None)()


@pytest.fixture
def hurdles(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Hurdles:
    return Hurdles(engine, monkeypatch)


def _request(seconds: float, tokens: int, prompt: str = "") -> Request:
    return Request(make_utterance(noise(seconds, seed=tokens), max_new_tokens=tokens, prompt=prompt))


@torch.inference_mode()
def _step_until(engine: Engine, request: Request) -> None:
    while not request.future.done():
        engine.step()


@pytest.fixture
def running(engine: Engine) -> Request:
    """It runs already and for long, and is not short."""
    return _run(engine, _request(8.0, 600))


@torch.inference_mode()
def _run(engine: Engine, request: Request) -> Request:
    engine.submit([request])
    engine.step()
    assert [sequence.request for sequence in engine._running] == [request]
    return request


def _passed_at_end(request: Request, hurdles: Hurdles) -> list[str]:
    """What had been passed when it ended; empty until then."""
    passed: list[str] = []
    request.future.add_done_callback(lambda _: passed.extend(hurdles.passed))
    return passed


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("arrives_after", range(1, 8))  # while the long one is encoded, and while it is read
def test_a_short_one_waits_for_nothing_more_of_a_long_one_that_it_overtakes(
    engine: Engine, hurdles: Hurdles, arrives_after: int
) -> None:
    long, short = _request(30.0, 9), _request(1.0, 40)
    passed = _passed_at_end(short, hurdles)
    hurdles.after(arrives_after, lambda: engine.submit([short]))
    engine.submit([long])
    _step_until(engine, long)
    assert hurdles.passed == ["stretch"] * 4 + ["piece"] * 4
    assert passed == hurdles.passed[:arrives_after]


@pytest.mark.parametrize("arrives_after", range(1, 7))
def test_nor_where_nobody_else_runs(engine: Engine, hurdles: Hurdles, arrives_after: int) -> None:
    long, short = _request(30.0, 9), _request(1.0, 40)
    passed = _passed_at_end(short, hurdles)
    hurdles.after(arrives_after, lambda: engine.submit([short]))
    engine.submit([long])
    _step_until(engine, long)
    assert hurdles.passed == ["stretch"] * 4 + ["piece"] * 3, "larger pieces, for nobody waits for them"
    assert passed == hurdles.passed[:arrives_after]


@pytest.mark.parametrize("arrives_after", range(1, 5))
def test_nor_for_a_long_context(engine: Engine, hurdles: Hurdles, arrives_after: int) -> None:
    long, short = _request(1.0, 9, prompt="Zürich, " * 120), _request(1.2, 40)
    passed = _passed_at_end(short, hurdles)
    hurdles.after(arrives_after, lambda: engine.submit([short]))
    engine.submit([long])
    _step_until(engine, long)
    assert len(hurdles.passed) >= 5
    assert passed == ["piece"] * arrives_after


def test_a_short_one_that_runs_when_a_long_one_comes_waits_for_one_stretch(engine: Engine, hurdles: Hurdles) -> None:
    long, short = _request(30.0, 9), _request(1.0, 40)
    passed = _passed_at_end(short, hurdles)
    _run(engine, short)
    hurdles.passed.clear()
    engine.submit([long])
    _step_until(engine, long)
    assert passed == ["stretch"]


@pytest.mark.parametrize(
    ("seconds", "behind", "waits"),
    [(7.5, 0, 45), (8.0, 0, 0), (7.5, 1, 23), (7.5, 2, 15)],
    ids=["for ever", "for one that is not much shorter", "as long with one behind it", "as long with two"],
)
def test_a_long_one_does_not_wait(engine: Engine, hurdles: Hurdles, seconds: float, behind: int, waits: int) -> None:
    """It waits for 1.5 steps at most for each of its 30 s, and where others wait behind it for their part of them."""
    first, long = _request(seconds, 400), _request(30.0, 200)
    _run(engine, first)
    hurdles.passed.clear()
    with torch.inference_mode():
        engine.submit([long, *(_request(30.0, tokens) for tokens in range(behind))])
        while len(engine._running) == 1:
            engine.step()
    assert hurdles.passed == ["stretch"] * 4 + ["piece"] * 4
    assert len(engine._running[0].answer) == 1 + 3 + 4 + waits, "one of its first step, between stretches, with pieces"


def test_one_that_is_due_waits_for_nobody(engine: Engine, hurdles: Hurdles) -> None:
    first, long = _request(1.0, 400), _request(30.0, 9)
    _run(engine, first)
    hurdles.passed.clear()
    with torch.inference_mode():
        engine.submit([replace(long, arrived_at=long.arrived_at - 30.0)])
        while len(engine._running) == 1:
            engine.step()
    assert hurdles.passed == ["stretch"] * 4 + ["piece"] * 4
    assert len(engine._running[0].answer) == 1 + 3 + 4


def test_nobody_waits_for_one_that_is_cancelled(engine: Engine, hurdles: Hurdles) -> None:
    first, long = _request(1.0, 400), _request(30.0, 9)
    _run(engine, first)
    hurdles.passed.clear()
    with torch.inference_mode():
        hurdles.after(1, long.future.cancel)
        engine.submit([long])
        engine.step()
    assert hurdles.passed == ["stretch"], "nor is it encoded further"
    assert engine._reading == deque()
    assert len(engine._running[0].answer) == 1 + 2, "one of its first step, one after the stretch, one of this step"
