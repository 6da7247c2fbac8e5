"""The figures of a row are its own, to the bit."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from deployments.asr.request import Request
from deployments.asr.sampling import sample
from deployments.asr.sequence import Sequence
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise

VOCABULARY = 151_936
"""Of the released models: threads share the sum over a row of this size, where it is alone."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("seed", range(8))
def test_a_token_has_the_same_probability_alone_and_in_company(seed: int) -> None:
    rows = 7
    logits = 4 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    sequences = [
        Sequence(Request(make_utterance(noise(0.1))), [], audio_tokens=0, budget=1, reader=cast(Any, None))
        for _ in range(rows)
    ]
    alone = [sample(logits[row : row + 1], sequences[row : row + 1]) for row in range(rows)]
    tokens, logprobs = sample(logits, sequences)
    assert [([token], [logprob]) for token, logprob in zip(tokens, logprobs, strict=True)] == alone
    expected = logits.double().log_softmax(dim=-1)[range(rows), tokens]
    assert logprobs == pytest.approx(expected.tolist(), abs=1e-5)
