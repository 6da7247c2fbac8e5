"""What the engine counts is what it did."""

from concurrent.futures import Future

import pytest
import torch

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import Engine
from deployments.asr.request import Request
from deployments.asr.statistics import Group, Load, Statistics
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import EngineFailure, InvalidAudio
from deployments.transcription.utterance import Transcription, Utterance
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise


@pytest.fixture
def by_hand(checkpoint: Checkpoint) -> Engine:
    """An engine of two slots that runs only when it is stepped."""
    engine = Engine(checkpoint, slots=2, slot_tokens=512, admission_s=10.0).start()
    engine.stop()
    return engine


def _step(engine: Engine) -> None:
    with torch.inference_mode():
        engine.step()


def test_load_tells_the_running_from_the_waiting(by_hand: Engine) -> None:
    assert by_hand.load == Load(2, 0, 0, 0.0, 0.0)
    requests = [Request(make_utterance(noise(seconds), max_new_tokens=3)) for seconds in (1.0, 2.0, 3.0, 4.0)]
    by_hand.submit(requests)
    assert by_hand.load == Load(2, 0, 4, 0.0, 10.0)
    _step(by_hand)
    assert by_hand.load == Load(2, 2, 2, 3.0, 7.0)
    requests[2].future.cancel()
    assert by_hand.load == Load(2, 2, 1, 3.0, 4.0)
    while not all(request.future.done() for request in requests):
        _step(by_hand)
    assert by_hand.load == Load(2, 0, 0, 0.0, 0.0)


def test_what_is_being_admitted_counts_as_running(by_hand: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = by_hand._runner.prefill
    seen = []

    def look(*args: object, **kwargs: object) -> torch.Tensor:
        seen.append(by_hand.load)
        return prefill(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(by_hand._runner, "prefill", look)
    by_hand.submit([Request(make_utterance(noise(2.0), max_new_tokens=3)) for _ in range(3)])
    _step(by_hand)
    assert seen == [Load(2, 2, 1, 4.0, 2.0)]
    assert by_hand.load.running == 2


def test_steps_tokens_and_groups(by_hand: Engine) -> None:
    requests = [Request(make_utterance(noise(1.0, seed=i), max_new_tokens=4)) for i in range(3)]
    by_hand.submit(requests)
    while not all(request.future.done() for request in requests):
        _step(by_hand)
    answers = [request.future.result() for request in requests]
    period = by_hand.statistics.take()
    assert period.tokens == sum(answer.output_tokens for answer in answers)
    assert [group.rows for group in period.groups] == [2, 1]
    assert period.outcomes == {"transcribed": 3}
    assert period.audio_seconds == pytest.approx(3.0)
    assert len(period.queue_s) == len(period.utterance_prefill_s) == len(period.utterance_decode_s) == 3
    assert period.decode_steps >= max(answer.output_tokens for answer in answers) - 1
    assert min(period.encode_s, period.prefill_s, period.decode_s) > 0
    assert period.encode_s == pytest.approx(sum(group.encode_s for group in period.groups))
    again = by_hand.statistics.take()
    assert (again.tokens, again.decode_steps, len(again.groups)) == (0, 0, 0), "each is told once"


def test_an_answer_says_where_its_time_went(by_hand: Engine) -> None:
    first, second, third = (Request(make_utterance(noise(1.0, seed=i), max_new_tokens=9)) for i in range(3))
    by_hand.submit([first, second, third])
    while not third.future.done():
        _step(by_hand)
    timings = [request.future.result().timings for request in (first, second, third)]
    one, two, three = timings
    assert one is not None
    assert two is not None
    assert three is not None
    assert (one.queue_s, one.encode_s) == pytest.approx((two.queue_s, two.encode_s), abs=0.01), (
        "they were admitted together"
    )
    assert min(one.encode_s, one.prefill_s, one.decode_s) > 0
    assert three.queue_s > one.queue_s, "it waited for a slot"


def test_prompts_that_are_read_in_pieces(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, slots=3, slot_tokens=512, admission_s=10.0, piece_tokens=8).start()
    engine.stop()
    first, second = (Request(make_utterance(noise(2.0, seed=i), max_new_tokens=40)) for i in range(2))
    engine.submit([first])
    _step(engine)
    engine.submit([second])
    _step(engine)
    assert engine.load == Load(3, 2, 0, 4.0, 0.0), "what is read has its slot"
    assert len(engine.statistics.take().utterance_prefill_s) == 1, "the second has no token yet"
    while not (first.future.done() and second.future.done()):
        _step(engine)
    timings = second.future.result().timings
    assert timings is not None
    assert min(timings.encode_s, timings.prefill_s) > 0
    assert min(timings.queue_s, timings.decode_s) >= 0
    assert list(engine.statistics.take().utterance_prefill_s) == [pytest.approx(timings.prefill_s)]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (lambda future: future.set_result(Transcription("", None, "stop", 1, 1, 1, -0.1)), "transcribed"),
        (lambda future: future.set_exception(InvalidAudio("no good")), "refused"),
        (lambda future: future.set_exception(EngineFailure("broken")), "failed"),
        (lambda future: future.set_exception(RuntimeError()), "failed"),
        (lambda future: future.cancel(), "cancelled"),
    ],
)
def test_every_end_is_counted_once(end: object, outcome: str) -> None:
    statistics = Statistics()
    future: Future[Transcription] = Future()
    request = Request(Utterance(noise(0.5)), future)
    statistics.watch(request)
    end(future)  # type: ignore[operator]
    future.cancel()
    period = statistics.take()
    assert period.outcomes == {outcome: 1}
    assert period.audio_seconds == (len(request.utterance.waveform) / SAMPLE_RATE if outcome == "transcribed" else 0)


def test_a_reader_that_never_comes_costs_no_memory() -> None:
    statistics = Statistics()
    for _ in range(20_000):
        statistics.admitted(Group(1, 0.1), [0.0])
        statistics.began(0.1)
    period = statistics.take()
    assert len(period.groups) == len(period.queue_s) == len(period.utterance_prefill_s) == 10_000
    assert period.encode_s == pytest.approx(2000.0), "sums are of all"
