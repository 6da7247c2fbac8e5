"""The audio encoder in C computes what transformers' does, as near to float32."""

import ctypes
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.random_checkpoint import SHAPES, write_native
from deployments.asr.checkpoint import load
from deployments.asr.encoder import AudioEncoder, attend_in_windows
from deployments.asr.linear import Quantization, native, native_int8, pack
from deployments.asr.native.encoder import LayOut, NativeEncoder
from deployments.served_model import DEMO_CHECKPOINT
from tests.unit.asr.native_library import CPU, build, fences, needs_library, threads
from tests.unit.tiny_models import noise

SECONDS = [2.6, 10.0, 0.3, 8.0, 9.03, 17.77, 8.01]
"""Of what is encoded together: less than a chunk and a window, as much, and more."""
FUNCTIONS = """
void gelu_of(const float *numbers, float *to) { _mm512_storeu_ps(to, gelu(_mm512_loadu_ps(numbers))); }
void silu_of(const float *numbers, float *to) { _mm512_storeu_ps(to, silu(_mm512_loadu_ps(numbers))); }
void norm_of(const float *numbers, const bf16 *weight, int64_t size, bf16 *to) {
    normalise(numbers, weight, 1e-6f, size, to);
}
void layer_norm_of(const float *numbers, const float *weight, const float *bias, int64_t size, bf16 *to) {
    standardise(numbers, (LayerNorm){weight, bias}, 1e-5f, size, to);
}
"""


def exact_gelu(numbers: torch.Tensor) -> torch.Tensor:
    """That of torch says NaN for infinity."""
    wide = numbers.double()
    return (wide * (1 + torch.erf(wide / 2**0.5)) / 2).float()


def encoder_of(
    folder: Path | str, dtype: torch.dtype, *, packed: bool, quantization: Quantization = "none"
) -> AudioEncoder:
    checkpoint = load(str(folder), dtype=dtype, device=CPU)
    if packed:
        pack(checkpoint.model, quantization)
        assert isinstance(checkpoint.model.model.audio_tower, NativeEncoder)
    return AudioEncoder(checkpoint)


def waveforms() -> list:
    return [noise(seconds, seed=seed) for seed, seconds in enumerate(SECONDS)]


@needs_library
@pytest.mark.parametrize("checkpoint", ["odd", "demo"])
@torch.inference_mode()
def test_it_is_nearer_to_float32_than_torch(checkpoint: str, odd_folder: Path) -> None:
    folder = odd_folder if checkpoint == "odd" else DEMO_CHECKPOINT
    exact = encoder_of(folder, torch.float32, packed=False).encode(waveforms())
    by_torch = encoder_of(folder, torch.bfloat16, packed=False).encode(waveforms())
    found = encoder_of(folder, torch.bfloat16, packed=True).encode(waveforms())
    for ours, torchs, expected in zip(found, by_torch, exact, strict=True):
        assert ours.shape == expected.shape
        assert (ours.float() - expected).norm() < (torchs.float() - expected).norm()


@needs_library
@torch.inference_mode()
def test_in_int8_it_is_near(odd_folder: Path) -> None:
    exact = encoder_of(odd_folder, torch.float32, packed=False).encode(waveforms())
    found = encoder_of(odd_folder, torch.bfloat16, packed=True, quantization="int8").encode(waveforms())
    for ours, expected in zip(found, exact, strict=True):
        assert (ours.float() - expected).norm() < 0.03 * expected.norm()


@needs_library
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("count", [1, 2, 5])
@torch.inference_mode()
def test_an_utterance_is_the_same_in_any_company(odd_folder: Path, quantization: Quantization, count: int) -> None:
    encoder = encoder_of(odd_folder, torch.bfloat16, packed=True, quantization=quantization)
    together = encoder.encode(waveforms())
    with threads(count):
        for waveform, expected in zip(waveforms(), together, strict=True):
            assert torch.equal(encoder.encode([waveform])[0], expected)
            assert torch.equal(torch.cat(list(encoder.encode_stretches(waveform, 8.0))), expected)


@needs_library
@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("count", [1, 3, 32])
@torch.inference_mode()
def test_nothing_is_written_beside_the_room_for_it(odd_folder: Path, quantization: Quantization, count: int) -> None:
    encoder = encoder_of(odd_folder, torch.bfloat16, packed=True, quantization=quantization)
    with threads(count), fences():
        encoder.encode(waveforms())
        encoder.encode([noise(0.3)])


@needs_library
@torch.inference_mode()
def test_what_is_not_finite_stays_alone(odd_folder: Path) -> None:
    encoder = encoder_of(odd_folder, torch.bfloat16, packed=True)
    expected = encoder.encode(waveforms())
    broken = waveforms()
    broken[1][5000:6000] = 1e30
    found = encoder.encode(broken)
    assert not found[1].isfinite().all()
    assert all(torch.equal(found[i], expected[i]) for i in range(len(SECONDS)) if i != 1)


@pytest.mark.parametrize(
    "sizes",
    [
        {"downsample_hidden_size": 12},
        {"encoder_ffn_dim": 72},
        {"encoder_attention_heads": 4},
        {"max_position_embeddings": 12},
        {"downsample_hidden_size": 24, "num_mel_bins": 100},
    ],
    ids=str,
)
@needs_library
@torch.inference_mode()
def test_sizes_that_it_does_not_take(sizes: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = SHAPES["tiny"]
    monkeypatch.setitem(SHAPES, "other", replace(tiny, encoder={**tiny.encoder, **sizes}))
    checkpoint = load(str(write_native(tmp_path, "other")), dtype=torch.bfloat16, device=CPU)
    assert "11 PackedLinear" in pack(checkpoint.model, "none")


@needs_library
@pytest.mark.parametrize("lay_out", [native, native_int8])
@pytest.mark.parametrize(
    "sizes", [{"downsample_hidden_size": 40}, {"downsample_hidden_size": 16, "num_mel_bins": 100}], ids=str
)
@torch.inference_mode()
def test_other_sizes_that_it_takes(
    sizes: dict[str, int], lay_out: LayOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels that fill a tile and a part of the next, and bins whose last one stands alone."""
    tiny = SHAPES["tiny"]
    monkeypatch.setitem(SHAPES, "other", replace(tiny, encoder={**tiny.encoder, **sizes}))
    model = load(str(write_native(tmp_path, "other")), dtype=torch.bfloat16, device=CPU).model
    mel = torch.randn(model.config.audio_config.num_mel_bins, 300).bfloat16()
    mask = torch.ones(1, 300, dtype=torch.long)
    exact = deepcopy(model).float().get_audio_features(mel.float()[None], mask).pooler_output
    by_torch = model.get_audio_features(mel[None], mask).pooler_output
    attend_in_windows(model)
    encoder = NativeEncoder.of(model.model, lay_out)
    assert encoder is not None
    found = encoder([mel], [13, 13, 13], [39])
    allowed = (by_torch.float() - exact).norm() if lay_out is native else 0.03 * exact.norm()
    assert (found.float() - exact).norm() < allowed


@needs_library
@torch.inference_mode()
def test_what_does_not_go_together_is_refused(odd_folder: Path) -> None:
    encoder = encoder_of(odd_folder, torch.bfloat16, packed=True)._native
    assert encoder is not None
    mel = torch.zeros(128, 200)
    assert len(encoder([mel], [13, 5], [18])) == 18
    for mels, tokens, windows in (
        ([mel[:80]], [13, 13], [26]),
        ([mel], [13, 13, 13], [39]),
        ([mel[:, :150]], [13, 7], [20]),
        ([mel], [13, 14], [27]),
        ([mel], [13, 0], [13]),
        ([mel], [13, 13], [13]),
        ([], [], []),
    ):
        with pytest.raises(ValueError, match="chunks"):
            encoder(mels, tokens, windows)


@needs_library
def test_its_functions_are_those_of_torch(tmp_path: Path) -> None:
    """Also of numbers that are huge, tiny or none."""
    functions = ctypes.CDLL(str(build(tmp_path, more=FUNCTIONS)))
    numbers = torch.cat([torch.linspace(-120, 120, 4000), torch.logspace(-40, 38, 44), -torch.logspace(-40, 38, 44)])
    numbers = torch.cat([numbers, torch.tensor([0.0, torch.inf, torch.nan, -0.0] * 2)]).view(-1, 16)
    for name, expected in (("gelu_of", exact_gelu), ("silu_of", nn.functional.silu)):
        found = torch.empty_like(numbers)
        for row, to in zip(numbers, found, strict=True):
            getattr(functions, name)(ctypes.c_void_p(row.data_ptr()), ctypes.c_void_p(to.data_ptr()))
        torch.testing.assert_close(found, expected(numbers), rtol=2**-10, atol=2e-6, equal_nan=True)
    rows, weight, bias = torch.randn(96) * 30 + 5, torch.randn(96), torch.randn(96)
    normed = torch.empty(96, dtype=torch.bfloat16)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, weight, bias)]
    functions.layer_norm_of(*pointers, ctypes.c_int64(96), ctypes.c_void_p(normed.data_ptr()))
    expected_norm = nn.functional.layer_norm(rows, (96,), weight, bias)
    torch.testing.assert_close(normed.float(), expected_norm, rtol=2**-8, atol=1e-5)
    narrow = weight.bfloat16()
    functions.norm_of(
        pointers[0], ctypes.c_void_p(narrow.data_ptr()), ctypes.c_int64(96), ctypes.c_void_p(normed.data_ptr())
    )
    expected_norm = nn.functional.rms_norm(rows, (96,), narrow.float(), 1e-6)
    torch.testing.assert_close(normed.float(), expected_norm, rtol=2**-8, atol=1e-6)
