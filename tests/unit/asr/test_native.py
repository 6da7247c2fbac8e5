"""The language model in C computes what torch's operators do, as near to float32."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.engine import noise_sequence
from benchmarks.random_checkpoint import SHAPES, write_native
from deployments.asr.attention import PromptPiece
from deployments.asr.checkpoint import load
from deployments.asr.linear import Quantization, native_int8, pack
from deployments.asr.native import decoder as decoder_module
from deployments.asr.native.library import library, load_library
from deployments.asr.native.weights import NativeLinear, NativeWeight
from deployments.asr.prompt import Prompt
from deployments.asr.runner import ModelRunner
from deployments.asr.sequence import Sequence
from tests.unit.asr.native_library import CPU, build, fences, needs_library, threads

ROWS = 17
"""More than are multiplied at a time."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_there_is_a_library_where_there_is_the_processor() -> None:
    assert (library() is not None) == torch.cpu.get_capabilities().get("avx512_bf16", False)


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        ("    5, sizeof(Layer)", "    4, sizeof(Layer)"),
        ("{1, sizeof(EncoderLayer)", "{0, sizeof(EncoderLayer)"),
        ("int64_t rows, first_slot;", "int64_t rows, first_slot, more;"),
        ("TILE = 32,", "TILE = 64,"),
        ("decoder_interface[]", "another_name[]"),
    ],
    ids=["meaning", "encoder", "structure", "layout", "none"],
)
def test_a_library_of_another_time_is_not_used(tmp_path: Path, change: tuple[str, str]) -> None:
    assert load_library(build(tmp_path, change).parent) is None


@needs_library
def test_the_library_of_this_time_is_used(tmp_path: Path) -> None:
    assert load_library(build(tmp_path).parent) is not None


def test_no_library_is_none(tmp_path: Path) -> None:
    assert load_library(tmp_path) is None


def empty_runner(
    folder: Path, dtype: torch.dtype, *, packed: bool, quantization: Quantization
) -> tuple[ModelRunner, Prompt]:
    checkpoint = load(str(folder), dtype=dtype, device=CPU)
    if packed:
        pack(checkpoint.model, quantization)
    prompt = Prompt(checkpoint.tokenizer)
    return ModelRunner(checkpoint, prompt, slots=ROWS, slot_tokens=256), prompt


def embeddings(runner: ModelRunner, sequence: Sequence, seed: int) -> torch.Tensor:
    """Of a prompt, with noise for audio, the same for all formats: what is compared is the language model."""
    prompt = runner._embed_tokens(torch.tensor(sequence.prompt_ids))
    is_audio = torch.tensor(sequence.prompt_ids) == runner._audio_id
    noise = torch.randn(prompt.shape, generator=torch.Generator().manual_seed(seed))
    prompt[is_audio] = (0.05 * noise[is_audio]).bfloat16().to(prompt.dtype)
    return prompt


def runner_of(
    folder: Path, dtype: torch.dtype, *, packed: bool, quantization: Quantization = "none"
) -> tuple[ModelRunner, list[Sequence]]:
    """A runner over prompts that are read, of different lengths, each with a first token of its own."""
    runner, prompt = empty_runner(folder, dtype, packed=packed, quantization=quantization)
    sequences = []
    for slot in range(ROWS):
        sequence = noise_sequence(runner, prompt, slot, seconds=1.0 + slot / 2)
        sequence.prompt = embeddings(runner, sequence, slot)
        runner.prefill([sequence], first_slot=slot)
        sequence.append(100 + slot, 0.0)
        sequences.append(sequence)
    return runner, sequences


@needs_library
@torch.inference_mode()
def test_a_step_is_as_near_to_float32_as_torch(odd_folder: Path) -> None:
    exact, sequences = runner_of(odd_folder, torch.float32, packed=False)
    expected = exact.decode(sequences)
    in_c, sequences = runner_of(odd_folder, torch.bfloat16, packed=True)
    assert in_c.runs_in_c
    found = in_c.decode(sequences)
    plain, sequences = runner_of(odd_folder, torch.bfloat16, packed=False)
    assert not plain.runs_in_c
    by_torch = plain.decode(sequences)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 1.2 * (by_torch - expected).abs().mean()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


@needs_library
@pytest.mark.parametrize("count", [1, 2])
@torch.inference_mode()
def test_a_row_is_the_same_in_any_company(odd_folder: Path, count: int) -> None:
    runner, sequences = runner_of(odd_folder, torch.bfloat16, packed=True)
    with threads(count):
        together = runner.decode(sequences)
        for slot in range(ROWS):
            assert torch.equal(runner.decode([sequences[slot]], first_slot=slot)[0], together[slot])
        for first, last in ((0, 2), (2, 5), (5, 13), (8, 17)):
            assert torch.equal(runner.decode(sequences[first:last], first_slot=first), together[first:last])


@needs_library
@torch.inference_mode()
def test_steps_leave_keys_and_values_for_the_next(odd_folder: Path) -> None:
    exact, sequences = runner_of(odd_folder, torch.float32, packed=False)
    in_c, same_sequences = runner_of(odd_folder, torch.bfloat16, packed=True)
    for _ in range(12):
        expected, found = exact.decode(sequences), in_c.decode(same_sequences)
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.15)
        for one, other, row in zip(sequences, same_sequences, expected, strict=True):
            one.append(int(row.argmax()), 0.0)
            other.append(int(row.argmax()), 0.0)


@needs_library
@torch.inference_mode()
def test_a_row_that_is_not_finite_stays_alone(odd_folder: Path) -> None:
    runner, sequences = runner_of(odd_folder, torch.bfloat16, packed=True)
    expected = runner.decode(sequences)
    keys, values = runner.cache.layer(0)
    keys[3, :, 5] = values[3, :, 5] = torch.nan
    found = runner.decode(sequences)
    others = [row for row in range(ROWS) if row != 3]
    assert torch.equal(found[others], expected[others])
    assert found[3].isnan().all()


@needs_library
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 4, 11, 12, 13, 25, 40])
@torch.inference_mode()
def test_the_head_multiplies_any_number_of_rows(rows: int, count: int) -> None:
    linear = nn.Linear(96, 555, bias=False, dtype=torch.bfloat16)
    inputs = torch.randn(rows, 96, dtype=torch.bfloat16)
    with threads(count):
        found = NativeLinear(NativeWeight.of(linear.weight))(inputs)
    torch.testing.assert_close(found, inputs.float() @ linear.weight.float().T)


@needs_library
@torch.inference_mode()
def test_what_would_leave_the_cache_is_refused(odd_folder: Path) -> None:
    runner, _ = runner_of(odd_folder, torch.bfloat16, packed=True)
    assert runner._native is not None
    two = torch.zeros(2, 96, dtype=torch.bfloat16)
    for positions, first_slot in (([1, 256], 0), ([-1, 1], 0), ([1, 2], ROWS - 1), ([1, 2], -1)):
        with pytest.raises(IndexError):
            runner._native(two, torch.tensor(positions), first_slot)
    for piece in (
        PromptPiece(0, 255, 257),
        PromptPiece(0, -1, 1),
        PromptPiece(ROWS, 0, 2),
        PromptPiece(-1, 0, 2),
        PromptPiece(0, 2, 2),
    ):
        with pytest.raises(IndexError):
            runner._native(two, torch.empty(0), 0, [piece])
    for rows, pieces in (
        ([3], [PromptPiece(1, 0, 1)]),  # in the slot of a row
        ([], [PromptPiece(2, 0, 1), PromptPiece(2, 1, 2)]),
        ([3], []),
        ([3], [PromptPiece(2, 0, 2)]),
    ):
        with pytest.raises(IndexError):
            runner._native(two, torch.tensor(rows), 1, pieces)
    with pytest.raises(IndexError):
        runner._native(two[:0], torch.empty(0), 0)


def reader_of(
    folder: Path, dtype: torch.dtype, *, packed: bool, quantization: Quantization = "none"
) -> tuple[ModelRunner, list[Sequence]]:
    """A runner and encoded rows that it has not read: of 194 tokens and fewer, and a block is 128."""
    runner, prompt = empty_runner(folder, dtype, packed=packed, quantization=quantization)
    sequences = [noise_sequence(runner, prompt, seed, seconds=14 - 0.8 * seed) for seed in range(ROWS)]
    for seed, sequence in enumerate(sequences):
        sequence.prompt = embeddings(runner, sequence, seed)
    return runner, sequences


def written(runner: ModelRunner, sequences: list[Sequence], layer: int) -> torch.Tensor:
    """Keys and values that prompts left in the cache."""
    lengths = [len(sequence.prompt_ids) for sequence in sequences]
    entries = [part[slot, :, :length] for part in runner.cache.layer(layer) for slot, length in enumerate(lengths)]
    return torch.cat(entries, dim=1).float()


@needs_library
@torch.inference_mode()
def test_prompts_are_read_as_near_to_float32_as_by_torch(odd_folder: Path) -> None:
    exact, sequences = reader_of(odd_folder, torch.float32, packed=False)
    expected = exact.prefill(sequences, first_slot=0)
    in_c, same = reader_of(odd_folder, torch.bfloat16, packed=True)
    found = in_c.prefill(same, first_slot=0)
    plain, same = reader_of(odd_folder, torch.bfloat16, packed=False)
    by_torch = plain.prefill(same, first_slot=0)
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 1.2 * (by_torch - expected).abs().mean()
    for layer in (0, 1):
        entries, torchs, exacts = (written(runner, sequences, layer) for runner in (in_c, plain, exact))
        assert (entries - exacts).abs().mean() < 1.2 * (torchs - exacts).abs().mean()


@needs_library
@torch.inference_mode()
def test_int8_prompts_are_read_as_near_to_float32_as_by_torch(
    odd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, sequences = reader_of(odd_folder, torch.float32, packed=False)
    expected = exact.prefill(sequences, first_slot=0)
    in_c, same = reader_of(odd_folder, torch.bfloat16, packed=True, quantization="int8")
    assert in_c.runs_in_c
    found = in_c.prefill(same, first_slot=0)
    with monkeypatch.context() as patch:
        patch.setattr(decoder_module, "library", lambda: None)
        plain, same = reader_of(odd_folder, torch.bfloat16, packed=True, quantization="int8")
        by_torch = plain.prefill(same, first_slot=0)
    assert (found - expected).abs().mean() < 1.2 * (by_torch - expected).abs().mean()


@needs_library
@pytest.mark.parametrize("size", [1, 7, 100, 150])
@torch.inference_mode()
def test_a_prompt_may_be_read_in_pieces_beside_rows(odd_folder: Path, size: int) -> None:
    exact, (reading, *rows) = reader_of(odd_folder, torch.float32, packed=False)  # the longest one is read in pieces
    in_c, (same_reading, *same_rows) = reader_of(odd_folder, torch.bfloat16, packed=True)
    for runner, sequences in ((exact, rows), (in_c, same_rows)):
        runner.prefill(sequences, first_slot=0)
        for sequence in sequences:
            sequence.append(7, 0.0)
    for until in [*range(size, len(reading.prompt_ids), size), len(reading.prompt_ids)]:
        expected = exact.decode(rows, reading=[reading], until=[until])
        found = in_c.decode(same_rows, reading=[same_reading], until=[until])
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.15)
        reading.read = same_reading.read = until


@needs_library
@torch.inference_mode()
def test_several_prompts_may_be_read_beside_rows(odd_folder: Path) -> None:
    exact, sequences = reader_of(odd_folder, torch.float32, packed=False)
    in_c, same = reader_of(odd_folder, torch.bfloat16, packed=True)
    found = []
    for runner, (*reading, first, second) in ((exact, sequences), (in_c, same)):
        rows = [first, second]
        runner.prefill(rows, first_slot=0)
        for row in rows:
            row.append(7, 0.0)
        found.append(runner.decode(rows, reading=reading, until=[len(each.prompt_ids) for each in reading]))
        assert len(found[-1]) == len(sequences)
    torch.testing.assert_close(found[1], found[0], rtol=0.1, atol=0.15)


@needs_library
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("size", [1, 7, 100])
@torch.inference_mode()
def test_a_prompt_is_the_same_in_any_company(odd_folder: Path, size: int, quantization: Quantization) -> None:
    runner, (reading, *rows) = reader_of(odd_folder, torch.bfloat16, packed=True, quantization=quantization)
    (expected,) = runner.prefill([reading], first_slot=len(rows))
    runner.prefill(rows, first_slot=0)
    for row in rows:
        row.append(7, 0.0)
    together = runner.decode(rows)
    for until in [*range(size, len(reading.prompt_ids), size), len(reading.prompt_ids)]:
        *found, last = runner.decode(rows, reading=[reading], until=[until])
        assert torch.equal(torch.stack(found), together)
        reading.read = until
    assert torch.equal(last, expected)


@needs_library
@pytest.mark.parametrize("count", [1, 2, 4, 32])
@pytest.mark.parametrize("quantization", ["none", "int8"])
@torch.inference_mode()
def test_nothing_is_written_beside_the_room_for_it(odd_folder: Path, count: int, quantization: Quantization) -> None:
    """Of a prompt only the last token goes on to the last layer's products, which each thread then prepares itself."""
    runner, (*rows, reading) = reader_of(odd_folder, torch.bfloat16, packed=True, quantization=quantization)
    rows = rows[:11]  # with it as many as are few
    with threads(count):
        runner.prefill(rows, first_slot=0)
        for row in rows:
            row.append(7, 0.0)
        with fences():
            runner.prefill([reading], first_slot=len(rows))
            for until in (8, len(reading.prompt_ids)):
                runner.decode(rows, reading=[reading], until=[until])
                reading.read = until
            runner.decode(rows)


@needs_library
@torch.inference_mode()
def test_what_was_in_a_slot_before_does_not_matter(odd_folder: Path) -> None:
    runner, sequences = reader_of(odd_folder, torch.bfloat16, packed=True)
    expected = runner.prefill(sequences, first_slot=0)
    for layer in range(2):
        for part in runner.cache.layer(layer):
            part[:] = torch.nan
    assert torch.equal(runner.prefill(sequences, first_slot=0), expected)


@needs_library
@pytest.mark.parametrize("quantization", ["none", "int8"])
@torch.inference_mode()
def test_a_prompt_that_begins_alike_is_read_as_if_it_were_whole(odd_folder: Path, quantization: Quantization) -> None:
    runner, sequences = reader_of(odd_folder, torch.bfloat16, packed=True, quantization=quantization)
    expected = runner.prefill(sequences, first_slot=0)
    beginning = sequences[0].prompt_ids.index(runner._audio_id)
    for layer in range(2):
        for part in runner.cache.layer(layer):
            part[:] = torch.nan
    assert runner.recall(sequences[0], slot=3) == beginning, "it came often enough in a group"
    found = runner.prefill(sequences, first_slot=0)
    assert torch.equal(found, expected)


@needs_library
@pytest.mark.parametrize("head_dim", [16, 48, 80, 128])
@torch.inference_mode()
def test_heads_of_any_size(head_dim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the demo checkpoint is 48, of the released ones 128."""
    tiny = SHAPES["tiny"]
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head_dim}
    monkeypatch.setitem(SHAPES, "heads", replace(tiny, text={**tiny.text, **sizes}))
    folder = write_native(tmp_path, "heads")
    exact, sequences = runner_of(folder, torch.float32, packed=False)
    in_c, same_sequences = runner_of(folder, torch.bfloat16, packed=True)
    assert in_c.runs_in_c
    torch.testing.assert_close(in_c.decode(same_sequences), exact.decode(sequences), rtol=0.1, atol=0.15)


@pytest.mark.parametrize(
    "sizes",
    [
        {"intermediate_size": 216},
        {"hidden_size": 104},
        {"head_dim": 40, "num_attention_heads": 4, "num_key_value_heads": 4},
        {"head_dim": 208, "num_attention_heads": 4, "num_key_value_heads": 4},
    ],
    ids=str,
)
def test_sizes_that_the_library_does_not_take(
    sizes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = SHAPES["tiny"]
    monkeypatch.setitem(SHAPES, "other", replace(tiny, text={**tiny.text, **sizes}))
    checkpoint = load(str(write_native(tmp_path, "other")), dtype=torch.bfloat16, device=CPU)
    assert pack(checkpoint.model, "none") == "20 PackedLinear"


@needs_library
@pytest.mark.parametrize("rows", [1, 8, 11, 13, 40])
@torch.inference_mode()
def test_int8_rounds_each_row_by_itself(rows: int) -> None:
    """Rows of a thousandth and of a thousand times the others' size are as exact as those."""
    linear = nn.Linear(96, 75, bias=False, dtype=torch.bfloat16)
    sizes = torch.tensor([1.0, 1e-3, 1e3] * rows)[:rows, None]
    inputs = (torch.randn(rows, 96) * sizes).bfloat16()
    found = NativeLinear(native_int8(linear))(inputs)
    expected = inputs.float() @ linear.weight.float().T
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.02
    inputs[0, 5] = torch.inf
    broken = NativeLinear(native_int8(linear))(inputs)
    assert not broken[0].isfinite().any()
    assert torch.equal(broken[1:], found[1:])


@needs_library
@torch.inference_mode()
def test_int8_steps_are_as_near_to_float32_as_torchs(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, sequences = runner_of(odd_folder, torch.float32, packed=False)
    expected = exact.decode(sequences)
    in_c, sequences = runner_of(odd_folder, torch.bfloat16, packed=True, quantization="int8")
    assert in_c.runs_in_c
    found = in_c.decode(sequences)
    assert torch.equal(in_c.decode(sequences[3:5], first_slot=3), found[3:5])
    with monkeypatch.context() as patch:
        patch.setattr(decoder_module, "library", lambda: None)
        plain, sequences = runner_of(odd_folder, torch.bfloat16, packed=True, quantization="int8")
        assert not plain.runs_in_c
        by_torch = plain.decode(sequences)
    assert (found - expected).abs().mean() < 1.2 * (by_torch - expected).abs().mean()


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_other_formats_are_torchs(odd_folder: Path, quantization: Quantization) -> None:
    checkpoint = load(str(odd_folder), dtype=torch.float32, device=CPU)
    pack(checkpoint.model, quantization)
    assert not ModelRunner(checkpoint, Prompt(checkpoint.tokenizer), slots=1, slot_tokens=64).runs_in_c


@needs_library
def test_weights_are_kept_once(odd_folder: Path) -> None:
    checkpoint = load(str(odd_folder), dtype=torch.bfloat16, device=CPU)
    layout = pack(checkpoint.model, "none", spare_bytes=0)
    assert layout == "11 NativeEncoder, 9 NativeLinear"
    assert not [
        name for name, parameter in checkpoint.model.named_parameters() if parameter.dim() > 1 and "embed" not in name
    ]


def test_another_processor_runs_torch(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "library", lambda: None)
    checkpoint = load(str(odd_folder), dtype=torch.bfloat16, device=CPU)
    assert pack(checkpoint.model, "none") == "20 PackedLinear"
    runner = ModelRunner(checkpoint, Prompt(checkpoint.tokenizer), slots=1, slot_tokens=64)
    assert not runner.runs_in_c
