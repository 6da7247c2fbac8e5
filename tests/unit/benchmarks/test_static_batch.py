"""The baseline answers what the engine answers; only later."""

from pathlib import Path

import pytest
import torch

from benchmarks.static_batch import StaticBatch, check_options, until_stop
from deployments.asr.checkpoint import load
from deployments.asr.engine import Engine
from deployments.exceptions import InvalidRequest
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Transcription, Utterance
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise

SECONDS = [0.3, 1.0, 1.27, 3.21, 5.0, 9.9]


@pytest.fixture(scope="module")
def batch(native_folder: Path) -> StaticBatch:
    """On a model of its own: the engine makes its model over."""
    return StaticBatch(load(str(native_folder), dtype=torch.float32, device=torch.device("cpu")))


@pytest.fixture
def utterances() -> list[Utterance]:
    """Of different lengths, prompts, languages and budgets."""
    return [
        make_utterance(
            noise(seconds, seed=i),
            language=[None, "English"][i % 2],
            prompt=["", "Anna, Peter and the kitchen", ""][i % 3],
            max_new_tokens=[24, 3, 10][i % 3],
        )
        for i, seconds in enumerate(SECONDS)
    ]


def test_a_padded_batch_answers_as_the_engine_does(
    batch: StaticBatch, engine: Engine, utterances: list[Utterance]
) -> None:
    answers = batch.transcribe(utterances)
    for answer, expected in zip(answers, engine.transcribe(utterances), strict=True):
        assert isinstance(expected, Transcription)
        assert answer.text == expected.text
        assert answer.language == expected.language
        assert answer.finish_reason == expected.finish_reason
        assert (answer.audio_tokens, answer.text_tokens) == (expected.audio_tokens, expected.text_tokens)
        assert answer.output_tokens == expected.output_tokens
    assert len({answer.text for answer in answers}) > len(SECONDS) // 2, "the model must tell utterances apart"
    assert [answer.output_tokens <= 3 for answer in answers[1::3]] == [True, True]


def test_company_changes_nothing(batch: StaticBatch, utterances: list[Utterance]) -> None:
    assert batch.transcribe(utterances) == [batch.transcribe([utterance])[0] for utterance in utterances]


def test_an_answer_ends_with_its_first_stop_token() -> None:
    assert until_stop([5, 1, 5, 1], {1, 2}) == [5, 1]
    assert until_stop([5, 5], {1, 2}) == [5, 5]


def test_only_what_a_batch_can_do_is_accepted() -> None:
    check_options(DecodingOptions(language="English", prompt="Anna", max_new_tokens=3))
    with pytest.raises(InvalidRequest, match="greedily"):
        check_options(DecodingOptions(temperature=0.5))
