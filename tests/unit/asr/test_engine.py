"""What an utterance is transcribed to is its own affair: exact, bounded, and untouched by its neighbours."""

import random
from typing import cast

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import BASE_TOKENS, TOKENS_PER_SECOND, Engine
from deployments.exceptions import EngineFailure, InvalidAudio, InvalidRequest, ServiceError
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.utterance import Transcription, Utterance
from tests.unit.asr.conftest import noise

TOKENS = 24


def _utterances() -> list[Utterance]:
    """Twelve of very different lengths and options."""
    return [
        Utterance(
            noise(seconds, seed=i),
            language=[None, "English", "Chinese"][i % 3],
            prompt=["", "Anna, Peter and the kitchen"][i % 2],
            max_new_tokens=TOKENS,
        )
        for i, seconds in enumerate([0.3, 0.5, 1.0, 1.7, 2.0, 3.21, 4.4, 5.0, 8.0, 9.9, 12.5, 20.0])
    ]


def _by_plain_generate(checkpoint: Checkpoint, utterance: Utterance) -> str:
    """The independent reference: the released processor and `generate`, one utterance, nothing of ours."""
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor.apply_transcription_request(
        utterance.waveform, language=utterance.language, prompt=utterance.prompt
    )
    output = checkpoint.model.generate(**inputs, max_new_tokens=utterance.max_new_tokens, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = processor.decode(answer, return_format="transcription_only")
    return cast(str, text)


def _transcribed(results: list[Transcription | ServiceError]) -> list[Transcription]:
    for result in results:
        if isinstance(result, ServiceError):
            raise result
    return cast(list[Transcription], results)


def test_the_same_tokens_alone_in_any_batch_and_by_plain_generate(engine: Engine, checkpoint: Checkpoint) -> None:
    utterances = _utterances()
    alone = [_transcribed(engine.transcribe([utterance]))[0] for utterance in utterances]
    assert len({answer.text for answer in alone}) > len(utterances) // 2, "the model must tell utterances apart"
    for utterance, answer in zip(utterances, alone, strict=True):
        assert answer.text == _by_plain_generate(checkpoint, utterance)
    order = random.Random(7)
    for _ in range(4):
        members = order.sample(range(len(utterances)), 8)
        together = _transcribed(engine.transcribe([utterances[i] for i in members]))
        for i, answer in zip(members, together, strict=True):
            assert answer.text == alone[i].text
            assert answer.output_tokens == alone[i].output_tokens
            assert answer.avg_logprob == pytest.approx(alone[i].avg_logprob, abs=1e-4)


def test_a_bad_utterance_costs_its_neighbours_nothing(engine: Engine) -> None:
    good = _utterances()[3:6]
    nan = noise(1.0)
    nan[100] = np.nan
    batch = [good[0], Utterance(nan), good[1], Utterance(noise(0.5), max_new_tokens=5000), good[2]]
    results = engine.transcribe(batch)
    assert isinstance(results[1], InvalidAudio)
    assert isinstance(results[3], InvalidRequest)
    assert [results[0], results[2], results[4]] == pytest.approx(_transcribed(engine.transcribe(good)))


def test_a_failure_of_the_whole_batch_is_pinned_on_the_utterance_that_causes_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Utterance(noise(0.7), max_new_tokens=TOKENS, prompt="poison")
    decode = engine._decode_together

    def fail_on_poison(rows):  # type: ignore[no-untyped-def]
        if any(row.utterance is poison for row in rows):
            raise RuntimeError("out of memory, say")
        return decode(rows)

    monkeypatch.setattr(engine, "_decode_together", fail_on_poison)
    good = _utterances()[2:4]
    results = engine.transcribe([good[0], poison, good[1]])
    assert isinstance(results[1], EngineFailure)
    assert "memory" not in results[1].message
    assert [result.text for result in _transcribed([results[0], results[2]])] == [
        result.text for result in _transcribed(engine.transcribe(good))
    ]
    assert engine.device_error is None


def test_a_device_that_is_gone_for_good_is_remembered(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows):  # type: ignore[no-untyped-def]
        raise torch.AcceleratorError("device-side assert triggered")

    monkeypatch.setattr(engine, "_decode_together", fail)
    assert isinstance(engine.transcribe([Utterance(noise(0.5))])[0], EngineFailure)
    assert isinstance(engine.device_error, torch.AcceleratorError)


@pytest.fixture
def endless(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose model never ends its answer by itself."""
    monkeypatch.setattr(engine._prompt, "stop_ids", (engine._prompt.audio_id,))
    return engine


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_the_token_budget_grows_with_the_seconds_and_running_out_is_reported(endless: Engine, seconds: float) -> None:
    (answer,) = _transcribed(endless.transcribe([Utterance(noise(seconds))]))
    assert answer.finish_reason == "length"
    assert answer.output_tokens == BASE_TOKENS + TOKENS_PER_SECOND * seconds


def test_each_utterance_keeps_its_own_budget(endless: Engine) -> None:
    batch = [Utterance(noise(2.0, seed=i), max_new_tokens=tokens) for i, tokens in enumerate([3, 17, 1])]
    assert [answer.output_tokens for answer in _transcribed(endless.transcribe(batch))] == [3, 17, 1]


def test_sampling_varies_and_leaves_greedy_neighbours_alone(engine: Engine) -> None:
    greedy = Utterance(noise(3.0), language="English", max_new_tokens=TOKENS)
    sampled = Utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=1.0)
    first = _transcribed(engine.transcribe([greedy, sampled, sampled, greedy]))
    assert first[0].text == first[3].text == _transcribed(engine.transcribe([greedy]))[0].text
    assert len({answer.text for answer in first}) == 3


def test_a_vanishing_temperature_is_greedy(engine: Engine) -> None:
    greedy = Utterance(noise(3.0), language="English", max_new_tokens=TOKENS)
    almost = Utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=1e-40)
    results = _transcribed(engine.transcribe([greedy, almost]))
    assert results[0].text == results[1].text


def test_the_mean_logprob_is_that_of_the_model(engine: Engine, checkpoint: Checkpoint) -> None:
    utterance = Utterance(noise(2.0), language="English", max_new_tokens=6)
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor.apply_transcription_request(utterance.waveform, language="English", prompt="")
    output = checkpoint.model.generate(
        **inputs, max_new_tokens=6, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    scores = checkpoint.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    (answer,) = _transcribed(engine.transcribe([utterance]))
    assert answer.avg_logprob == pytest.approx(float(scores.mean()), abs=1e-5)


def test_tokens_are_counted(engine: Engine) -> None:
    (answer,) = _transcribed(engine.transcribe([Utterance(noise(2.0), max_new_tokens=4)]))
    assert (answer.audio_tokens, answer.text_tokens) == (26, 15)


def test_warming_up_raises_if_the_model_does_not_work(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.warm_up()
    monkeypatch.setattr(engine, "_decode_together", lambda rows: 1 / 0)
    with pytest.raises(EngineFailure):
        engine.warm_up()
