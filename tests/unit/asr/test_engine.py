"""What an utterance is transcribed to is its own affair: exact, bounded, and untouched by its neighbours."""

import random
import re
import threading
from collections.abc import Iterator
from collections.abc import Sequence as Items
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import (
    AutoProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import Engine
from deployments.asr.request import Request
from deployments.asr.result import result_of
from deployments.asr.sampling import _probabilities, sample
from deployments.asr.sequence import Sequence
from deployments.budget import token_budget
from deployments.exceptions import EngineFailure, InvalidAudio, InvalidRequest, ReplicaLost, ServiceError
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Transcription, Utterance
from tests.unit.asr.conftest import by_plain_generate, make_utterance
from tests.unit.tiny_models import noise

TOKENS = 24
NAN = float("nan")


def _utterances() -> list[Utterance]:
    """Twelve of very different lengths and options."""
    return [
        make_utterance(
            noise(seconds, seed=i),
            language=[None, "English", "Chinese"][i % 3],
            prompt=["", "Anna, Peter and the kitchen"][i % 2],
            max_new_tokens=TOKENS,
        )
        for i, seconds in enumerate([0.3, 0.5, 1.0, 1.7, 2.0, 3.21, 4.4, 5.0, 8.0, 9.9, 12.5, 20.0])
    ]


def _transcribed(results: list[Transcription | ServiceError]) -> list[Transcription]:
    for result in results:
        if isinstance(result, ServiceError):
            raise result
    return cast(list[Transcription], results)


def test_the_same_tokens_alone_in_any_batch_andby_plain_generate(engine: Engine, reference: Checkpoint) -> None:
    utterances = _utterances()
    alone = [_transcribed(engine.transcribe([utterance]))[0] for utterance in utterances]
    assert len({answer.text for answer in alone}) > len(utterances) // 2, "the model must tell utterances apart"
    for utterance, answer in zip(utterances, alone, strict=True):
        assert answer.text == by_plain_generate(reference, utterance)
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
    batch = [good[0], Utterance(nan), good[1], make_utterance(noise(0.5), prompt="x " * 1000), good[2]]
    results = engine.transcribe(batch)
    assert isinstance(results[1], InvalidAudio)
    assert isinstance(results[3], InvalidRequest)
    assert [results[0], results[2], results[4]] == pytest.approx(_transcribed(engine.transcribe(good)))


@pytest.fixture
def reading_whole(checkpoint: Checkpoint) -> Iterator[Engine]:
    """As on a GPU: it reads whole prompts between two steps."""
    engine = Engine(checkpoint, slots=5, slot_tokens=1024, admission_s=10.0).start()
    yield engine
    engine.stop()


@pytest.mark.parametrize(
    ("reads", "stage"),
    [("engine", "encode"), ("engine", "decode"), ("reading_whole", "prefill"), ("reading_whole", "decode")],
)
def test_an_error_takes_only_the_utterance_with_it_that_causes_it(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, reads: str, stage: str
) -> None:
    engine: Engine = request.getfixturevalue(reads)
    poison = make_utterance(noise(0.7), max_new_tokens=TOKENS, prompt="poison")
    run = getattr(engine._runner, stage)

    def fail_on_poison(*args: Any, **kwargs: Any) -> torch.Tensor:
        if any(sequence.utterance is poison for sequence in (*args[0], *kwargs.get("reading", ()))):
            raise RuntimeError("out of memory, say")
        return cast(torch.Tensor, run(*args, **kwargs))

    good = _utterances()[2:4]
    expected = [result.text for result in _transcribed(engine.transcribe(good))]
    monkeypatch.setattr(engine._runner, stage, fail_on_poison)
    results = engine.transcribe([good[0], poison, good[1]])
    assert isinstance(results[1], EngineFailure)
    assert "memory" not in results[1].message
    assert [result.text for result in _transcribed([results[0], results[2]])] == expected
    engine.check()


def test_a_row_without_finite_probabilities_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = make_utterance(noise(0.7), max_new_tokens=TOKENS, temperature=0.7)
    decode = engine._runner.decode

    def spoil(sequences: Any, **kwargs: Any) -> torch.Tensor:
        logits = decode(sequences, **kwargs)
        for row, sequence in enumerate(sequences):
            if sequence.utterance is sick:
                logits[row] = torch.nan
        return logits

    good = _utterances()[2:4]
    expected = [result.text for result in _transcribed(engine.transcribe(good))]
    monkeypatch.setattr(engine._runner, "decode", spoil)
    results = engine.transcribe([good[0], sick, good[1]])
    assert isinstance(results[1], EngineFailure)
    assert [result.text for result in _transcribed([results[0], results[2]])] == expected


def test_a_row_that_cannot_be_sampled_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sick = make_utterance(noise(0.7), max_new_tokens=TOKENS, prompt="sick")

    def refuse(logits: Any, sequences: Any) -> Any:
        if any(sequence.utterance is sick for sequence in sequences):
            raise RuntimeError("probability tensor contains nan")
        return sample(logits, sequences)

    good = _utterances()[2:4]
    expected = [result.text for result in _transcribed(engine.transcribe(good))]
    monkeypatch.setattr("deployments.asr.engine.sample", refuse)
    results = engine.transcribe([good[0], sick, good[1]])
    assert isinstance(results[1], EngineFailure)
    assert [result.text for result in _transcribed([results[0], results[2]])] == expected
    engine.stop()  # so that its last step is done
    assert engine._running == []


def test_whatever_goes_wrong_in_a_step_nobody_waits_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_decode", lambda: 1 / 0)
        assert isinstance(engine.transcribe([make_utterance(noise(0.5))])[0], EngineFailure)
    _transcribed(engine.transcribe([make_utterance(noise(0.5))]))
    engine.check()


def test_a_device_that_is_gone_for_good_is_remembered(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.AcceleratorError("device-side assert triggered")

    monkeypatch.setattr(engine._runner, "encode", fail)
    assert isinstance(engine.transcribe([make_utterance(noise(0.5))])[0], ReplicaLost)
    with pytest.raises(RuntimeError, match="device"):
        engine.check()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), ReplicaLost),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 16 bytes."), ReplicaLost),
        (MemoryError(), ReplicaLost),
        (RuntimeError("size mismatch"), EngineFailure),
    ],
)
def test_what_may_be_the_replicas_fault_is_told_so_and_three_in_a_row_are_too_many(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> torch.Tensor:
        raise error

    utterance = make_utterance(noise(0.5), max_new_tokens=2)
    for failures in (2, 3):
        with monkeypatch.context() as patch:
            patch.setattr(engine._runner, "encode", fail)
            for _ in range(failures):
                assert type(engine.transcribe([utterance])[0]) is expected
        if failures < 3:
            engine.check()
            _transcribed(engine.transcribe([utterance]))  # and all is forgotten
    with pytest.raises(RuntimeError, match="the last 3 inputs failed"):
        engine.check()


@pytest.fixture
def endless(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose model never ends its answer by itself."""
    monkeypatch.setattr(engine._prompt, "stop_ids", (engine._prompt.audio_id,))
    return engine


@pytest.mark.parametrize("seconds", [0.5, 2.0, 4.0])
def test_the_token_budget_grows_with_the_seconds_and_running_out_is_reported(endless: Engine, seconds: float) -> None:
    (answer,) = _transcribed(endless.transcribe([make_utterance(noise(seconds))]))
    assert answer.finish_reason == "length"
    assert answer.output_tokens == token_budget(seconds)


def test_each_utterance_keeps_its_own_budget(endless: Engine) -> None:
    batch = [make_utterance(noise(2.0, seed=i), max_new_tokens=tokens) for i, tokens in enumerate([3, 17, 1])]
    assert [answer.output_tokens for answer in _transcribed(endless.transcribe(batch))] == [3, 17, 1]


def test_sampling_varies_and_leaves_greedy_neighbours_alone(engine: Engine) -> None:
    greedy = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS)
    sampled = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=1.0)
    first = _transcribed(engine.transcribe([greedy, sampled, sampled, greedy]))
    assert first[0].text == first[3].text == _transcribed(engine.transcribe([greedy]))[0].text
    assert len({answer.text for answer in first}) == 3


def test_a_seed_gives_the_same_sample_in_any_company(engine: Engine) -> None:
    seeded = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=1.0, seed=17)
    other = make_utterance(noise(2.0), language="English", max_new_tokens=TOKENS, temperature=1.0)
    (alone,) = _transcribed(engine.transcribe([seeded]))
    assert _transcribed(engine.transcribe([other, seeded, other, other]))[1].text == alone.text
    assert _transcribed(engine.transcribe([other]))[0].text != alone.text


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_from_the_best_token_alone_is_greedy(engine: Engine, options: dict[str, Any]) -> None:
    greedy = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS)
    narrow = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=1.0, **options)
    results = _transcribed(engine.transcribe([greedy, narrow]))
    assert results[0].text == results[1].text


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.6}, {"top_k": 6, "top_p": 0.8}])
def test_the_distribution_is_that_of_transformers(options: dict[str, Any]) -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3)) * 3
    scores = logits.unsqueeze(0) / options.get("temperature", 1.0)
    if "top_k" in options:
        scores = TopKLogitsWarper(options["top_k"])(torch.empty(1, 0), scores)
    if "top_p" in options:
        scores = TopPLogitsWarper(options["top_p"])(torch.empty(1, 0), scores)
    chosen = _probabilities(logits, DecodingOptions(**({"temperature": 1.0} | options)))
    torch.testing.assert_close(chosen / chosen.sum(), scores.softmax(-1)[0])


def test_the_repetition_penalty_is_that_of_transformers_over_the_answer_alone(
    engine: Engine, reference: Checkpoint
) -> None:
    utterance = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS, repetition_penalty=1.3)
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor.apply_transcription_request(utterance.waveform, language="English", prompt="")
    penalty = RepetitionPenaltyLogitsProcessor(1.3, prompt_ignore_length=inputs["input_ids"].shape[1])
    output = reference.model.generate(
        **inputs, max_new_tokens=TOKENS, do_sample=False, logits_processor=LogitsProcessorList([penalty])
    )
    expected = processor.decode(
        output[0, inputs["input_ids"].shape[1] :], return_format="raw", skip_special_tokens=True
    )
    (answer,) = _transcribed(engine.transcribe([utterance]))
    assert answer.text == expected.replace("<asr_text>", "").replace("\N{REPLACEMENT CHARACTER}", "").strip()


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 1e-46, 1e-320])
def test_a_vanishing_temperature_is_greedy(engine: Engine, temperature: float) -> None:
    greedy = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS)
    almost = make_utterance(noise(3.0), language="English", max_new_tokens=TOKENS, temperature=temperature)
    results = _transcribed(engine.transcribe([greedy, almost]))
    assert results[0].text == results[1].text


def test_the_mean_logprob_is_that_of_the_model(engine: Engine, reference: Checkpoint) -> None:
    utterance = make_utterance(noise(2.0), language="English", max_new_tokens=6)
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor.apply_transcription_request(utterance.waveform, language="English", prompt="")
    output = reference.model.generate(
        **inputs, max_new_tokens=6, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    scores = reference.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    (answer,) = _transcribed(engine.transcribe([utterance]))
    assert answer.avg_logprob == pytest.approx(float(scores.mean()), abs=1e-5)


def test_tokens_are_counted(engine: Engine) -> None:
    (answer,) = _transcribed(engine.transcribe([make_utterance(noise(2.0), max_new_tokens=4)]))
    assert (answer.audio_tokens, answer.text_tokens) == (26, 15)


def test_warming_up_raises_if_the_model_does_not_work(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.warm_up()
    monkeypatch.setattr(engine._runner, "encode", lambda group: 1 / 0)
    with pytest.raises(EngineFailure):
        engine.warm_up()


def _refusal(engine: Engine, utterance: Utterance) -> InvalidRequest:
    (refusal,) = engine.transcribe([utterance])
    assert isinstance(refusal, InvalidRequest)
    return refusal


def _largest(refusal: InvalidRequest) -> int:
    found = re.match(r"The service has room for an? [a-z ]+ of (\d+) tokens", refusal.message)
    assert found
    return int(found[1])


def test_a_budget_that_does_not_fit_is_refused_with_the_largest_that_does(endless: Engine) -> None:
    refusal = _refusal(endless, make_utterance(noise(1.0), max_new_tokens=4096))
    assert refusal.param == "max_new_tokens"
    assert "max_new_tokens is 4096. Send a smaller one." in refusal.message
    largest = _largest(refusal)
    assert _refusal(endless, make_utterance(noise(1.0), max_new_tokens=largest + 1)).param == "max_new_tokens"
    (answer,) = _transcribed(endless.transcribe([make_utterance(noise(1.0), max_new_tokens=largest)]))
    assert answer.finish_reason == "length"
    assert answer.output_tokens == largest
    assert answer.audio_tokens + answer.text_tokens + answer.output_tokens == 1024


@pytest.mark.parametrize("budget", [None, 1])
def test_a_prompt_that_does_not_fit_is_refused_with_the_longest_that_does(engine: Engine, budget: int | None) -> None:
    def of_words(words: int) -> Utterance:
        return make_utterance(noise(4.0), prompt="x " * words, max_new_tokens=budget)  # two tokens a word

    refusal = _refusal(engine, of_words(2000))
    assert refusal.param == "prompt"
    assert "this one has 4000. Send a shorter prompt." in refusal.message
    longest = _largest(refusal) // 2
    assert _refusal(engine, of_words(longest + 1)).param == "prompt"
    assert len(_transcribed(engine.transcribe([of_words(longest)]))) == 1


def test_where_both_are_too_large_the_prompt_is_told_first(engine: Engine) -> None:
    utterance = make_utterance(noise(4.0), prompt="x " * 2000, max_new_tokens=4096)
    refusal = _refusal(engine, utterance)
    assert refusal.param == "prompt"
    shorter = replace(utterance.options, prompt="x " * (_largest(refusal) // 2))
    refusal = _refusal(engine, Utterance(utterance.waveform, shorter))
    assert refusal.param == "max_new_tokens"
    assert _largest(refusal) >= token_budget(4.0), "the usual answer has room beside the prompt that was told to fit"


def test_a_long_prompt_fits_beside_a_small_budget(engine: Engine) -> None:
    utterance = make_utterance(noise(4.0), prompt="x " * 440)
    assert _refusal(engine, utterance).param == "prompt"
    small = Utterance(utterance.waveform, replace(utterance.options, max_new_tokens=TOKENS))
    (answer,) = _transcribed(engine.transcribe([small]))
    assert answer.text_tokens > 800


def test_what_the_longest_utterance_has_no_room_for_is_refused_with_a_short_one(checkpoint: Checkpoint) -> None:
    """It may be the first piece of a recording: nothing of it must be told if a further piece is to be refused."""
    engine = Engine(checkpoint, slots=1, slot_tokens=1024, admission_s=10.0, longest_s=30.0).start()
    try:
        fits, does_not = ({"prompt": "x " * words} for words in (50, 150))
        for seconds in (0.5, 30.0):
            assert isinstance(engine.transcribe([make_utterance(noise(seconds), **fits)])[0], Transcription)
            refusal = _refusal(engine, make_utterance(noise(seconds), **does_not))
            assert refusal.param == "prompt"
            assert "beside 30 seconds of audio" in refusal.message
            refusal = _refusal(engine, make_utterance(noise(seconds), max_new_tokens=1000))
            assert (refusal.param, _largest(refusal)) == ("max_new_tokens", 1024 - 390 - 15)
    finally:
        engine.stop()


def test_a_short_utterance_overtakes_a_long_one_that_came_first(endless: Engine) -> None:
    order: list[str] = []
    long = Request(make_utterance(noise(9.0), max_new_tokens=300))
    short = Request(make_utterance(noise(1.0), max_new_tokens=5))
    long.future.add_done_callback(lambda _: order.append("long"))
    short.future.add_done_callback(lambda _: order.append("short"))
    endless.submit([long])
    endless.submit([short])
    long.future.result()
    assert order == ["short", "long"]


def test_more_than_there_are_slots_wait_their_turn(engine: Engine) -> None:
    results = engine.transcribe([make_utterance(noise(0.5, seed=i), max_new_tokens=5) for i in range(17)])
    assert len(_transcribed(results)) == 17


def test_one_that_is_cancelled_frees_its_slot(endless: Engine) -> None:
    cancelled = [Request(make_utterance(noise(1.0), max_new_tokens=900)) for _ in range(5)]
    endless.submit(cancelled)
    for request in cancelled:
        request.future.cancel()
    # The five would have held all slots for 900 steps each.
    _transcribed(endless.transcribe([make_utterance(noise(1.0), max_new_tokens=5)]))
    endless.stop()  # so that its last step is done
    assert endless._running == []


def test_stopping_cancels_what_is_still_there(checkpoint: Checkpoint) -> None:
    engine = Engine(checkpoint, slots=1, slot_tokens=1024, admission_s=10.0).start()
    requests = [Request(make_utterance(noise(1.0), max_new_tokens=900)) for _ in range(3)]
    engine.submit(requests)
    engine.stop()
    assert any(request.future.cancelled() for request in requests)
    assert all(request.future.done() for request in requests)
    with pytest.raises(RuntimeError, match="thread"):
        engine.check()


def test_a_step_that_does_not_end_is_noticed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, entered = threading.Event(), threading.Event()
    decode = engine._runner.decode

    def hang(*args: Any, **kwargs: Any) -> torch.Tensor:
        entered.set()
        let_go.wait(30)
        return decode(*args, **kwargs)

    monkeypatch.setattr("deployments.model_health.HUNG_AFTER_S", -10.0)
    monkeypatch.setattr(engine._runner, "decode", hang)
    request = Request(make_utterance(noise(0.5), max_new_tokens=3))
    engine.submit([request])
    entered.wait(30)
    with pytest.raises(RuntimeError, match="hangs"):
        engine.check()
    let_go.set()
    request.future.result()


@pytest.fixture
def admitted(endless: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """Seconds of the utterances that were encoded together, group by group; of a long one, stretch by stretch."""
    groups: list[list[float]] = []
    encode, encode_stretches = endless._runner.encode, endless._runner.encode_stretches

    def note(group: Any) -> None:
        groups.append([sequence.utterance.duration for sequence in group])
        encode(group)

    def note_stretches(sequence: Any, seconds: float) -> Iterator[None]:
        groups.append([sequence.utterance.duration])
        for _ in encode_stretches(sequence, seconds):
            yield
            groups.append([sequence.utterance.duration])

    monkeypatch.setattr(endless._runner, "encode", note)
    monkeypatch.setattr(endless._runner, "encode_stretches", note_stretches)
    return groups


def test_a_full_admission_budget_lets_others_wait_but_never_the_first(
    endless: Engine, admitted: list[list[float]]
) -> None:
    """Budget 10 s: who is due first joins first, the two of 6 s one after the other, the 12 s one in two stretches."""
    endless.stop()  # steps by hand from here
    endless.submit([Request(make_utterance(noise(seconds), max_new_tokens=90)) for seconds in (12.0, 6.0, 6.0, 1.0)])
    with torch.inference_mode():
        for _ in range(60):
            endless.step()
    assert admitted == [[1.0, 6.0], [6.0], [12.0], [12.0]]
    assert len(endless._running) == 4


def test_none_is_overtaken_for_ever(endless: Engine, admitted: list[list[float]]) -> None:
    endless.stop()  # steps by hand from here
    long, short = (Request(make_utterance(noise(seconds), max_new_tokens=9)) for seconds in (12.0, 1.0))
    endless.submit([replace(long, arrived_at=short.arrived_at - 12.0), short])
    with torch.inference_mode():
        endless.step()
    assert admitted[0] == [12.0], "it has been due for a second"


@pytest.mark.parametrize("is_reading", [False, True])
def test_a_short_one_overtakes_a_long_one_that_is_on_its_way_in(
    endless: Engine, admitted: list[list[float]], monkeypatch: pytest.MonkeyPatch, is_reading: bool
) -> None:
    """While it is encoded, and while its prompt is read: rows that run get a token with each of these."""
    monkeypatch.setattr("deployments.asr.engine.PATIENCE", 0)  # and no more of them
    endless.stop()  # steps by hand from here
    first, long, short, longer = (
        Request(make_utterance(noise(seconds), max_new_tokens=90)) for seconds in (1.1, 12.0, 1.0, 12.1)
    )
    encode_stretches = endless._runner.encode_stretches

    def arrive_meanwhile(*args: Any) -> Iterator[None]:
        for _ in encode_stretches(*args):
            endless.submit([short, longer])
            yield

    with torch.inference_mode():
        endless.submit([first])
        endless.step()
        endless.submit([long])
        if is_reading:
            endless.step()
            endless.submit([short, longer])
        else:
            monkeypatch.setattr(endless._runner, "encode_stretches", arrive_meanwhile)
        told = len(endless._running[0].answer)
        endless.step()
    assert [sequence.request for sequence in endless._running] == [first, short]
    assert [sequence.request for sequence in endless._reading] == [long]
    assert len(endless._running[0].answer) == told + (1 if is_reading else 2)
    with torch.inference_mode():
        while not all(request.future.done() for request in (first, long, short, longer)):
            endless.step()
    for request in (first, long, short, longer):
        (alone,) = _transcribed([request.future.result()])
        assert alone.output_tokens == 90


def test_running_rows_advance_at_each_step_while_a_prompt_is_read_in_pieces(endless: Engine) -> None:
    endless.stop()  # steps by hand from here
    first, second = (Request(make_utterance(noise(seconds), max_new_tokens=90)) for seconds in (1.0, 3.0))
    with torch.inference_mode():
        endless.submit([first])
        endless.step()
        endless.submit([second])
        read: list[int] = []
        while len(endless._running) == 1:
            told = len(endless._running[0].answer)
            endless.step()
            assert len(endless._running[0].answer) == told + 1
            read.extend(sequence.read for sequence in endless._reading)
    prompt = len(endless._running[1].prompt_ids)
    assert endless._running[1].read == prompt
    steps = [end - start for start, end in pairwise([0, *read, prompt])]
    assert max(steps) <= 8
    assert len(steps) == -(-prompt // 8)


def _shorter(seconds: float, **options: Any) -> Request:
    return Request(make_utterance(noise(seconds, seed=round(10 * seconds)), max_new_tokens=90, **options))


@pytest.fixture
def wide(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine to be stepped by hand that reads 70 tokens of prompts along with a step; answers do not end."""
    engine = Engine(checkpoint, slots=6, slot_tokens=1024, admission_s=10.0, piece_tokens=70)
    monkeypatch.setattr(engine._prompt, "stop_ids", (engine._prompt.audio_id,))
    return engine


def test_short_prompts_are_read_together_as_many_as_fit(wide: Engine) -> None:
    first, *others = (_shorter(seconds) for seconds in (1.0, 0.3, 0.4, 0.5, 0.6))
    with torch.inference_mode():
        wide.submit([first])
        wide.step()
        wide.submit(others)
        wide.step()
        told = len(wide._running[0].answer)
        lengths = [len(sequence.prompt_ids) for sequence in (*wide._running[1:], *wide._reading)]
        assert [sequence.request for sequence in wide._running] == [first, *others[:3]]
        assert sum(lengths[:3]) <= 70 < sum(lengths)
        assert [sequence.read for sequence in wide._reading] == [0]
        wide.step()
    assert [sequence.request for sequence in wide._running] == [first, *others]
    assert len(wide._running[0].answer) == told + 1, "those that run go on meanwhile"


def test_the_rest_of_a_long_one_is_read_with_a_short_one_behind_it(wide: Engine) -> None:
    first, long, short = (_shorter(seconds) for seconds in (2.0, 6.0, 0.3))
    long = replace(long, arrived_at=long.arrived_at - 60)  # due before the short one
    with torch.inference_mode():
        wide.submit([first])
        wide.step()
        wide.submit([long, short])
        wide.step()
        assert [sequence.request for sequence in wide._reading] == [long, short]
        assert [bool(sequence.read) for sequence in wide._reading] == [True, False]
        wide.step()
    assert [sequence.request for sequence in wide._running] == [first, long, short]


def test_of_those_that_are_read_together_an_error_takes_only_the_one_that_causes_it(
    wide: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, one, poison, other = (_shorter(seconds) for seconds in (1.0, 0.3, 0.4, 0.5))
    alone = [wide._sequence(request).prompt_ids for request in (one, other)]

    def failing_on_poison(run: Any) -> Any:
        def run_or_fail(sequences: Items[Sequence], *args: Any, **kwargs: Any) -> torch.Tensor:
            if any(sequence.request is poison for sequence in (*sequences, *kwargs.get("reading", ()))):
                raise RuntimeError("out of memory, say")
            return cast(torch.Tensor, run(sequences, *args, **kwargs))

        return run_or_fail

    with torch.inference_mode():
        wide.submit([first])
        wide.step()
        for stage in ("prefill", "decode"):
            monkeypatch.setattr(wide._runner, stage, failing_on_poison(getattr(wide._runner, stage)))
        wide.submit([one, poison, other])
        wide.step()
    assert isinstance(result_of(poison.future), EngineFailure)
    assert [sequence.request for sequence in wide._running] == [first, one, other]
    assert [sequence.prompt_ids for sequence in wide._running[1:]] == alone
    assert not wide._reading
    assert (wide.load.waiting, wide.load.running) == (0, 3)


def test_one_that_is_cancelled_while_it_is_read_leaves_at_once(endless: Engine) -> None:
    endless.stop()  # steps by hand from here
    first, second = (Request(make_utterance(noise(seconds), max_new_tokens=90)) for seconds in (1.0, 3.0))
    with torch.inference_mode():
        endless.submit([first])
        endless.step()
        endless.submit([second])
        endless.step()
        assert len(endless._reading) == 1
        second.future.cancel()
        endless.step()
    assert not endless._reading
    assert len(endless._running) == 1


class Scripted:
    """In place of `sample`: each utterance gets the tokens that are written for it, one a step."""

    def __init__(self, scripts: dict[Utterance, list[int]]):
        self._scripts = scripts

    def __call__(self, _: torch.Tensor, sequences: Any) -> tuple[list[int], list[float]]:
        tokens = [self._scripts[sequence.utterance][len(sequence.answer)] for sequence in sequences]
        return tokens, [-0.5] * len(tokens)


@pytest.fixture
def script(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the model say texts, and then end its answer."""

    def have(said: dict[Utterance, str]) -> None:
        encode, stop = engine._prompt._encode, engine._prompt.stop_ids[0]
        scripts = {utterance: [*encode(text), stop] for utterance, text in said.items()}
        monkeypatch.setattr("deployments.asr.engine.sample", Scripted(scripts))

    return have


def test_a_loop_is_stopped_and_its_neighbours_go_on(engine: Engine, script: Any) -> None:
    looping, other = (
        make_utterance(noise(20.0, seed=i), language="English", loop_detection=True, max_new_tokens=700) for i in (0, 1)
    )
    sentence = " ".join(f"Gate {number} is next to gate {number + 1}." for number in range(20))
    script({looping: "Turn on" + " the light" * 300, other: sentence})
    stopped, whole = _transcribed(engine.transcribe([looping, other]))
    assert (stopped.finish_reason, whole.finish_reason) == ("repetition", "stop")
    assert whole.text == sentence
    per_repeat = len(engine._prompt._encode(" the light"))
    assert 20 * per_repeat <= stopped.output_tokens <= 20 * per_repeat + 16
    assert stopped.text.startswith("Turn on the light the light the light")


def test_the_deltas_of_a_stopped_loop_join_to_its_text(engine: Engine, script: Any) -> None:
    looping = make_utterance(noise(9.0), language="English", loop_detection=True, max_new_tokens=700, logprobs=True)
    script({looping: "请" + "开灯" * 200})
    told: list[Any] = []
    request = Request(looping, on_delta=told.append)
    engine.submit([request])
    answer = request.future.result()
    assert answer.finish_reason == "repetition"
    assert "".join(delta.text for delta in told) == answer.text
    assert tuple(token for delta in told for token in delta.tokens) == answer.tokens


@pytest.mark.parametrize(
    "said", ["no no no no", "No, no, no, no, no.", "哈哈哈哈", "0 0 0 0", "Go home. " * 3 + "Go home."]
)
def test_what_may_have_been_said_is_not_stopped(engine: Engine, script: Any, said: str) -> None:
    utterance = make_utterance(noise(3.0), language="English", loop_detection=True)
    script({utterance: said})
    (answer,) = _transcribed(engine.transcribe([utterance]))
    assert (answer.finish_reason, answer.text) == ("stop", said)


def test_a_loop_is_let_where_the_request_says_so(engine: Engine, script: Any) -> None:
    looping = make_utterance(noise(9.0), language="English", loop_detection=False, max_new_tokens=300)
    script({looping: "on and " * 400})
    (answer,) = _transcribed(engine.transcribe([looping]))
    assert (answer.finish_reason, answer.output_tokens) == ("length", 300)


def test_what_does_not_loop_is_decoded_as_ever(engine: Engine) -> None:
    utterances = _utterances()
    watched = [Utterance(each.waveform, replace(each.options, loop_detection=True)) for each in utterances]
    expected = _transcribed(engine.transcribe(utterances))
    for answer, free in zip(_transcribed(engine.transcribe(watched)), expected, strict=True):
        assert free.text.startswith(answer.text)
        assert answer.finish_reason == "repetition" or answer == pytest.approx(free)


def test_a_failed_step_takes_no_place_from_the_one_that_is_read(
    endless: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is encoded again, in stretches between which others might join."""
    endless.stop()  # steps by hand from here
    running = [Request(make_utterance(noise(1 + i / 10), max_new_tokens=90)) for i in range(4)]
    read, waiting = (Request(make_utterance(noise(seconds), max_new_tokens=90)) for seconds in (12.0, 12.1))
    decode, fails = endless._runner.decode, [True]

    def fail_once(*args: Any, reading: Items[Sequence] = (), **kwargs: Any) -> torch.Tensor:
        if reading and fails:
            fails.clear()
            raise RuntimeError("out of memory")
        return decode(*args, reading=reading, **kwargs)

    with torch.inference_mode():
        endless.submit(running)
        endless.step()
        endless.submit([read])
        endless.step()
        assert [sequence.request for sequence in endless._reading] == [read]
        endless.submit([waiting])
        monkeypatch.setattr(endless._runner, "decode", fail_once)
        endless.step()
    assert not fails
    assert [sequence.request for sequence in endless._running] == [*running, read]
    assert endless.load.waiting == 1
    assert all(len(sequence.prompt) == 0 for sequence in endless._running), "it is in the cache"
    assert not any(request.future.done() for request in (*running, read, waiting))


def test_a_step_has_time_for_the_prompt_that_is_read_in_it(endless: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    endless.stop()  # steps by hand from here
    working, seconds = endless._health.working, []

    def note(audio_s: float) -> AbstractContextManager[None]:
        seconds.append(audio_s)
        return working(audio_s)

    monkeypatch.setattr(endless._health, "working", note)
    with torch.inference_mode():
        for duration in (1.0, 12.0):
            endless.submit([Request(make_utterance(noise(duration), max_new_tokens=90))])
            endless.step()
        endless.step()
    assert seconds == [1.0, 12.0, 12.0]


def _fails_and_goes(engine: Engine, monkeypatch: pytest.MonkeyPatch, *, leaves: bool) -> None:
    """A long utterance whose audio is encoded to NaN, which is in the cache when it fails, or is cancelled."""
    fill_in = engine._runner._fill_in
    with monkeypatch.context() as patch, torch.inference_mode():
        patch.setattr(
            engine._runner, "_fill_in", lambda sequence, prompt, audio: fill_in(sequence, prompt, audio * NAN)
        )
        if leaves:
            patch.setattr(engine, "_choose", lambda rows, _: [(0, -1.0)] * len(rows))
        request = Request(make_utterance(noise(12.0), max_new_tokens=9))
        engine.submit([request])
        for _ in range(3):
            engine.step()
            if leaves:
                request.future.cancel()


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("reads_in_pieces", [False, True])
def test_who_gets_the_slot_of_a_row_without_finite_numbers_is_well(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, leaves: bool, reads_in_pieces: bool
) -> None:
    engine = Engine(checkpoint, slots=3, slot_tokens=1024, admission_s=30.0, piece_tokens=8)
    other = Request(make_utterance(noise(1.0), max_new_tokens=90))
    if reads_in_pieces:  # into the slot behind a running one
        with torch.inference_mode():
            engine.submit([other])
            engine.step()
    _fails_and_goes(engine, monkeypatch, leaves=leaves)
    requests = [Request(make_utterance(noise(seconds), max_new_tokens=9)) for seconds in (1.5, 9.0)]
    engine.submit(requests)
    with torch.inference_mode():
        for _ in range(120):
            engine.step()
    assert all(isinstance(result_of(request.future), Transcription) for request in requests)
