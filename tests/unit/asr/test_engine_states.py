"""Whoever comes, goes and is cancelled in whatever order: every utterance gets exactly its own answer."""

from concurrent.futures import Future

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, rule, run_state_machine_as_test

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import Engine
from deployments.asr.request import Request
from deployments.transcription.utterance import Transcription
from tests.unit.asr.conftest import by_plain_generate, make_utterance
from tests.unit.tiny_models import noise

LENGTHS = ((0.3, 1), (0.5, 30), (1.0, 2), (1.5, 12), (2.2, 40), (3.1, 5), (6.0, 20), (17.0, 8))
"""Seconds of sound, and tokens of the answer."""
UTTERANCES = tuple(
    make_utterance(noise(seconds, seed=i), language=[None, "English"][i % 2], max_new_tokens=tokens)
    for i, (seconds, tokens) in enumerate(LENGTHS)
)


@pytest.fixture(scope="module")
def alone(checkpoint: Checkpoint, reference: Checkpoint) -> list[Transcription]:
    """What each of `UTTERANCES` is transcribed to when nothing else is there, which is what `generate` says."""
    engine = Engine(checkpoint, slots=1, slot_tokens=512, admission_s=0.0).start()
    answers = [engine.transcribe([utterance])[0] for utterance in UTTERANCES]
    engine.stop()
    assert all(isinstance(answer, Transcription) for answer in answers)
    said = [getattr(answer, "text", None) for answer in answers]
    assert said == [by_plain_generate(reference, utterance) for utterance in UTTERANCES]
    return answers  # type: ignore[return-value]


@pytest.mark.parametrize("piece_tokens", [0, 7, 70])  # whole; in pieces; some together, some in pieces
def test_every_utterance_gets_its_own_answer(
    checkpoint: Checkpoint, alone: list[Transcription], piece_tokens: int
) -> None:
    class Arrivals(RuleBasedStateMachine):
        """Steps the engine by hand, so that every interleaving can be repeated."""

        running = Bundle("running")

        def __init__(self) -> None:
            super().__init__()
            self.engine = Engine(
                checkpoint, slots=3, slot_tokens=512, admission_s=2.0, piece_tokens=piece_tokens
            ).start()
            self.engine.stop()
            self.expected: list[tuple[Future[Transcription], Transcription]] = []

        @rule(target=running, which=st.integers(0, len(UTTERANCES) - 1))
        def arrive(self, which: int) -> Future[Transcription]:
            request = Request(UTTERANCES[which])
            self.engine.submit([request])
            self.expected.append((request.future, alone[which]))
            return request.future

        @rule(steps=st.integers(1, 15))
        def step(self, steps: int) -> None:
            with torch.inference_mode():
                for _ in range(steps):
                    self.engine.step()

        @rule(future=consumes(running))
        def cancel(self, future: Future[Transcription]) -> None:
            future.cancel()

        def teardown(self) -> None:
            with torch.inference_mode():
                for _ in range(2000):
                    if all(future.done() for future, _ in self.expected):
                        break
                    self.engine.step()
            for future, expected in self.expected:
                if not future.cancelled():
                    answer = future.result(timeout=0)
                    assert answer.text == expected.text
                    assert answer.output_tokens == expected.output_tokens
                    assert answer.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
            self.engine.step()
            assert self.engine._running == []

    run_state_machine_as_test(
        Arrivals,
        settings=settings(
            max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
