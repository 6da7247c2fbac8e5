"""Told piece by piece, an answer is exactly the text of the whole, in whole characters."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from deployments.asr.answer import AnswerReader
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.engine import Engine
from deployments.asr.prompt import Prompt
from deployments.asr.request import Request
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Delta, Transcription
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise

TOKENIZER = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
PROMPT = Prompt(TOKENIZER)


def _deltas(ids: list[int], language: str | None, *, logprobs: bool = False) -> list[Delta]:
    reader = AnswerReader(PROMPT, DecodingOptions(language=language, logprobs=logprobs))
    deltas = [reader.read(token, -0.5) for token in ids]
    _, text = PROMPT.read_answer(ids, forced_language=language)
    return [delta for delta in (*deltas, reader.finish(text)) if delta is not None]


TEXTS = st.one_of(st.text(), st.sampled_from([" a  b ", "请开灯。", "é🙂", "language English", "\n", " "]))


@given(TEXTS, st.sampled_from([None, "English"]), st.booleans())
def test_the_deltas_join_to_the_text(text: str, language: str | None, opened: bool) -> None:
    opening = "language English<asr_text>" if opened else ""
    ids = TOKENIZER.encode(f"{opening}{text}<|im_end|>", add_special_tokens=False)
    deltas = _deltas(ids, language)
    assert "".join(delta.text for delta in deltas) == PROMPT.read_answer(ids, forced_language=language)[1]
    assert all(delta.text for delta in deltas)


@given(st.lists(st.integers(0, len(TOKENIZER) + 5), max_size=40), st.sampled_from([None, "English"]))
def test_whatever_tokens_the_model_writes(ids: list[int], language: str | None) -> None:
    told = "".join(delta.text for delta in _deltas(ids, language))
    assert told == PROMPT.read_answer(ids, forced_language=language)[1]


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_the_text_of_tokens_is_the_tokenizers(ids: list[int]) -> None:
    plain = [token for token in ids if token not in TOKENIZER.get_added_vocab().values()]
    said = TOKENIZER.decode(plain, clean_up_tokenization_spaces=False).replace("\ufffd", "").strip()
    assert PROMPT.text_of(ids) == said


def test_broken_characters_are_not_told() -> None:
    broken = TOKENIZER.encode("🙂", add_special_tokens=False)[:-1]
    ids = [*TOKENIZER.encode("So", add_special_tokens=False), *broken, *TOKENIZER.encode(" it is.")]
    assert PROMPT.text_of(ids) == "".join(delta.text for delta in _deltas(ids, "English")) == "So it is."
    assert PROMPT.text_of(broken) == ""


def test_a_character_is_told_when_it_is_whole() -> None:
    ids = TOKENIZER.encode("🙂!", add_special_tokens=False)
    assert len(ids) > 2, "several tokens for one character"
    assert [delta.text for delta in _deltas(ids, "English")] == ["🙂", "!"]


def test_the_tokens_of_a_delta_are_what_it_is_made_of() -> None:
    ids = TOKENIZER.encode("Turn 🙂 on", add_special_tokens=False)
    deltas = _deltas(ids, "English", logprobs=True)
    for delta in deltas:
        assert b"".join(token.data for token in delta.tokens).decode() == delta.text
    assert sum(len(delta.tokens) for delta in deltas) == len(ids)


@pytest.mark.parametrize("options", [{}, {"language": "English"}, {"temperature": 1.0, "seed": 5}])
def test_the_engine_tells_what_it_answers(engine: Engine, options: dict[str, Any]) -> None:
    heard: list[list[Delta]] = [[], []]
    requests = [
        Request(make_utterance(noise(2.0, seed=i), max_new_tokens=30, logprobs=True, **options), on_delta=told.append)
        for i, told in enumerate(heard)
    ]
    engine.submit(requests)
    for request, deltas in zip(requests, heard, strict=True):
        answer = request.future.result()
        assert "".join(delta.text for delta in deltas) == answer.text
        told = [token for delta in deltas for token in delta.tokens]
        assert told == list(answer.tokens[: len(told)])


def test_a_listener_that_fails_takes_only_its_own_utterance_with_it(engine: Engine) -> None:
    def fail(_: Delta) -> None:
        raise RuntimeError("the listener has gone")

    broken = Request(make_utterance(noise(1.0), language="English", max_new_tokens=30), on_delta=fail)
    fine = Request(make_utterance(noise(1.0), language="English", max_new_tokens=30))
    engine.submit([broken, fine])
    assert isinstance(fine.future.result(), Transcription)
    assert broken.future.exception() is not None
    engine.check()


def test_logprobs_are_those_of_the_text(engine: Engine, checkpoint: Checkpoint) -> None:
    utterance = make_utterance(noise(2.0), language="English", max_new_tokens=12, logprobs=True)
    (answer,) = engine.transcribe([utterance])
    assert isinstance(answer, Transcription)
    assert b"".join(token.data for token in answer.tokens).decode(errors="ignore").strip() == answer.text
    if len(answer.tokens) == answer.output_tokens:
        mean = sum(token.logprob for token in answer.tokens) / len(answer.tokens)
        assert mean == pytest.approx(answer.avg_logprob)
    assert all(token.logprob <= 0 for token in answer.tokens)


@pytest.mark.parametrize("languages", [("English",), ("Chinese", "Japanese"), ("Cantonese", "Arabic", "Thai")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_languages_are_detected(engine: Engine, languages: tuple[str, ...], temperature: float) -> None:
    utterances = [
        make_utterance(noise(1.0, seed=i), languages=languages, temperature=temperature, max_new_tokens=30)
        for i in range(6)
    ]
    for answer in engine.transcribe(utterances):
        assert isinstance(answer, Transcription)
        assert answer.language in {*languages, None}
