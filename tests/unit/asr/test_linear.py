"""Packed and quantised layers compute what the plain ones do, within what their format can hold."""

from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from transformers import Qwen3ASRForConditionalGeneration

from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.device import choose_dtype
from deployments.asr.engine import Engine
from deployments.asr.linear import (
    DualLinear,
    HalfEmbedding,
    HalfLinear,
    Int8Linear,
    PackedLinear,
    UnsuitableLayer,
    pack,
    round_up,
)
from deployments.exceptions import CheckpointError
from deployments.transcription.utterance import Transcription
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise

CPU = torch.device("cpu")


def _released(linear: nn.Linear) -> nn.Linear:
    """With weights as a checkpoint in bfloat16 has them."""
    with torch.no_grad():
        linear.weight.copy_(linear.weight.bfloat16())
    return linear


@pytest.mark.parametrize("rows", [1, 3, 16, 200])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", sorted({torch.float32, choose_dtype("auto", CPU)}, key=str))
@torch.inference_mode()
def test_packed_is_the_same_but_for_rounding(rows: int, bias: bool, dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 48, bias=bias, dtype=dtype)
    inputs = torch.randn(2, rows, 64, dtype=dtype)
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


def test_rows_are_rounded_up_to_few_numbers() -> None:
    rounded = [round_up(rows) for rows in range(4097)]
    assert rounded[:18] == [*range(17), 20]
    assert rounded == sorted(rounded)
    assert all(0 <= more - rows < max(4, rows / 16 + 1) for rows, more in enumerate(rounded))
    assert len(set(rounded)) < 130, "times the shapes of weights: what oneDNN's cache of 1024 kernels must hold"


@torch.inference_mode()
def test_memory_does_not_grow_with_the_numbers_of_rows_seen() -> None:
    layer = PackedLinear(nn.Linear(256, 512))
    process = psutil.Process()

    def see(numbers: range) -> int:
        for rows in numbers:
            layer(torch.zeros(rows, 256))
        return process.memory_info().rss

    before = see(range(4, 401, 4))
    assert see(range(17, 400)) - before < 25 * 2**20, "it would be a hundred"


@pytest.mark.parametrize("rows", [1, 3, 16, 200])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [HalfLinear, DualLinear])
@torch.inference_mode()
def test_half_is_the_same_but_for_rounding(rows: int, bias: bool, layout: type[nn.Module]) -> None:
    linear = _released(nn.Linear(64, 48, bias=bias))
    inputs = torch.randn(2, rows, 64)
    torch.testing.assert_close(layout(linear)(inputs), linear(inputs))


@pytest.mark.parametrize(
    "weight", [torch.full((4, 4), 1 / 3), torch.full((4, 4), 1e5), torch.tensor([[1.0 + 2**-12, 0.0]])]
)
def test_a_weight_that_float16_would_round_is_refused(weight: torch.Tensor) -> None:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
    with pytest.raises(UnsuitableLayer):
        HalfLinear(linear)


@pytest.mark.parametrize("rows", [1, 16])
@torch.inference_mode()
def test_int8_is_within_two_percent(rows: int) -> None:
    linear = nn.Linear(512, 256)
    inputs = torch.randn(rows, 512)
    expected = linear(inputs)
    error = (Int8Linear(linear)(inputs) - expected).norm() / expected.norm()
    assert error < 0.025


@torch.inference_mode()
def test_large_activations_do_not_overflow() -> None:
    linear = nn.Linear(64, 8, bias=False)
    linear.weight.fill_(1.0)
    inputs = torch.full((4, 64), 100.0)
    torch.testing.assert_close(Int8Linear(linear)(inputs), torch.full((4, 8), 6400.0), rtol=0.02, atol=0)


@torch.inference_mode()
def test_an_embedding_is_kept_in_half_only_where_nothing_is_lost() -> None:
    embedding = nn.Embedding(10, 4)
    with pytest.raises(UnsuitableLayer):
        HalfEmbedding(embedding)
    embedding.weight.copy_(embedding.weight.bfloat16())
    tokens = torch.tensor([[3, 3], [0, 9]])
    assert torch.equal(HalfEmbedding(embedding)(tokens), embedding(tokens))


@pytest.fixture
def model(native_folder: Path) -> Qwen3ASRForConditionalGeneration:
    """In float32, with weights as a checkpoint in bfloat16 has them."""
    return load(str(native_folder), dtype=torch.bfloat16, device=CPU).model.float()


def _kinds(part: nn.Module) -> set[type[nn.Module]]:
    kinds = (nn.Linear, PackedLinear, HalfLinear, DualLinear, Int8Linear, nn.Embedding, HalfEmbedding)
    return {type(module) for module in part.modules() if type(module) in kinds}


def test_each_part_gets_the_layout_that_suits_it(model: Qwen3ASRForConditionalGeneration) -> None:
    layout = pack(model, "none")
    assert layout == "8 DualLinear, 1 HalfLinear, 11 PackedLinear"
    assert _kinds(model.model.audio_tower) == {PackedLinear}
    assert type(model.lm_head) is HalfLinear
    assert type(model.model.language_model.embed_tokens) is HalfEmbedding


def test_without_memory_to_spare_weights_are_kept_once(model: Qwen3ASRForConditionalGeneration) -> None:
    assert pack(model, "none", spare_bytes=0) == "9 HalfLinear, 11 PackedLinear"


def test_int8_is_for_every_layer(model: Qwen3ASRForConditionalGeneration) -> None:
    assert pack(model, "int8") == "20 Int8Linear"


def test_layers_stay_plain_where_the_operators_are_missing(
    model: Qwen3ASRForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(self: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator")

    for layout in (PackedLinear, HalfLinear, Int8Linear):
        monkeypatch.setattr(layout, "forward", missing)
    assert pack(model, "none") == "20 Linear"
    with pytest.raises(CheckpointError, match="int8"):
        pack(model, "int8")


@pytest.mark.parametrize("released", [torch.bfloat16, torch.float32])
def test_the_packed_model_answers_the_same(native_folder: Path, released: torch.dtype) -> None:
    """Of a checkpoint released in bfloat16 it runs with float16 weights, of one in float32 with packed ones."""
    utterances = [make_utterance(noise(seconds, seed=i), max_new_tokens=20) for i, seconds in enumerate([0.5, 2, 5])]

    def answers(packed: bool) -> list[str]:
        checkpoint: Checkpoint = load(str(native_folder), dtype=released, device=CPU)
        checkpoint.model.float()
        if packed:
            pack(checkpoint.model, "none")
        engine = Engine(checkpoint, slots=5, slot_tokens=1024, admission_s=10.0).start()
        try:
            results = engine.transcribe(utterances)
        finally:
            engine.stop()
        return [result.text for result in results if isinstance(result, Transcription)]

    assert answers(packed=True) == answers(packed=False)
    assert len(answers(packed=True)) == 3
