"""Who joins next: pure decisions, without a model."""

import threading
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deployments.asr.arrivals import OVERTAKING_TOKENS, Arrivals
from deployments.asr.request import Request
from deployments.asr.sequence import Sequence
from deployments.audio.waveform import SAMPLE_RATE
from deployments.transcription.utterance import Utterance

BUDGET_S = 10.0


def _sequence(seconds: float, arrived_at: float = 0.0, context_tokens: int = 0) -> Sequence:
    waveform = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    audio_tokens = round(13 * seconds)
    prompt_ids = [0] * (15 + context_tokens + audio_tokens)
    request = Request(Utterance(waveform), arrived_at=arrived_at)
    return Sequence(request, prompt_ids, audio_tokens, budget=1, reader=cast(Any, None))


def _arrivals(*sequences: Sequence) -> Arrivals:
    arrivals = Arrivals(BUDGET_S)
    arrivals.add(sequences)
    return arrivals


@given(
    arrived=st.lists(
        st.tuples(st.sampled_from([0.5, 1, 2, 5, 9, 30]), st.floats(0, 60)), max_size=12, unique_by=lambda one: sum(one)
    ),
    free=st.integers(1, 4),
)
def test_all_join_in_the_order_in_which_they_are_due(arrived: list[tuple[float, float]], free: int) -> None:
    sequences = [_sequence(seconds, at) for seconds, at in arrived]
    arrivals = _arrivals(*sequences)
    joined: list[Sequence] = []
    while group := arrivals.take(free, reading=[]):
        assert len(group) <= free
        assert len(group) == 1 or sum(sequence.utterance.duration for sequence in group) <= BUDGET_S
        arrivals.joined(group)
        joined += group
    assert joined == sorted(sequences, key=lambda sequence: sequence.due_at)
    assert arrivals.here() == ([], [])


def test_without_a_free_slot_all_wait() -> None:
    arrivals = _arrivals(waiting := _sequence(1.0))
    assert arrivals.take(0, reading=[]) == []
    assert arrivals.here() == ([waiting], [])


def test_those_on_their_way_in_hold_slots() -> None:
    arrivals = _arrivals(_sequence(1.0), _sequence(1.1))
    assert len(arrivals.take(2, reading=[_sequence(30.0)])) == 1


def test_only_a_short_one_that_is_due_before_overtakes() -> None:
    short, long, late = _sequence(1.0), _sequence(8.0), _sequence(1.0, arrived_at=20.0)
    assert len(short.prompt_ids) <= OVERTAKING_TOKENS < len(long.prompt_ids)
    arrivals = _arrivals(late, long, short)
    assert arrivals.take(9, reading=[_sequence(12.0)]) == [short]


def test_a_long_context_is_due_as_the_audio_of_as_many_tokens() -> None:
    with_context, long, short = _sequence(1.0, context_tokens=49 + 130), _sequence(10.5), _sequence(2.0)
    assert with_context.due_at == 11.0
    arrivals = _arrivals(with_context, long, short)
    assert [arrivals.take(1, reading=[])] == [[short]]
    assert arrivals.take(9, reading=[with_context]) == []
    assert _arrivals(short).take(9, reading=[with_context]) == [short]
    assert _sequence(1.0, context_tokens=49).due_at == 1.0, "what is in every prompt, or nearly, counts for nothing"


def test_one_that_was_taken_holds_the_others_back_until_it_has_joined() -> None:
    first, second = _sequence(8.0), _sequence(8.1)
    arrivals = _arrivals(first, second)
    assert arrivals.take(9, reading=[]) == [first]
    assert arrivals.here() == ([second], [first])
    assert arrivals.take(9, reading=[]) == []
    arrivals.joined([first])
    assert arrivals.take(9, reading=[]) == [second]


def test_who_was_cancelled_does_not_join() -> None:
    gone, here = _sequence(1.0), _sequence(2.0)
    arrivals = _arrivals(gone, here)
    gone.future.cancel()
    assert arrivals.take(9, reading=[]) == [here]


def test_waiting_ends_with_an_arrival_and_with_the_end() -> None:
    arrivals = _arrivals()
    assert arrivals.wait(busy=True)
    for arrive, goes_on in ((lambda: arrivals.add([_sequence(1.0)]), True), (arrivals.close, False)):
        timer = threading.Timer(0.05, arrive)
        timer.start()
        assert arrivals.wait(busy=False) == goes_on
        arrivals.take(9, reading=[])
