"""The profile of the engine accounts for the time that it measures."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import engine_profile
from benchmarks.engine_profile import COLUMNS, measure
from deployments.asr.checkpoint import load
from deployments.asr.encoder import AudioEncoder, encode_in_c
from deployments.asr.linear import native
from deployments.asr.native import decoder
from tests.unit.asr.native_library import needs_library
from tests.unit.tiny_models import noise


def test_every_stage_is_accounted_for(native_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "library", lambda: None)
    monkeypatch.setattr(engine_profile, "read_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(engine_profile, "_arithmetic", lambda _: 2e9)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in measure(native_folder, [1, 2])]
    assert [(row["stage"], row["rows"]) for row in rows] == [
        ("encode 10 s", 1),
        ("read its prompt", 1),
        ("decode step", 1),
        ("decode step", 2),
    ]
    for row in rows:
        parts = [row[f"{part} ms"] for part in ("products", "attention", "other operators", "between operators")]
        numbers = [part for part in parts if isinstance(part, float) and part >= 0]
        assert len(numbers) == len(parts)
        assert numbers[0] > 0
    assert [row["best"] for row in rows] == [None, "2 GFLOP/s", "1 GB/s", "1 GB/s"]


@needs_library
def test_a_stage_in_c_is_one_figure(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_profile, "read_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(engine_profile, "_arithmetic", lambda _: 2e9)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in measure(odd_folder, [2])]
    assert [row["best"] for row in rows] == ["2 GFLOP/s", "2 GFLOP/s", "1 GB/s"]
    for row in rows:
        assert isinstance(row["ms"], float)
        assert row["products ms"] is None
        assert float(str(row["reach"]).split()[0]) > 0


@needs_library
@torch.inference_mode()
def test_operations_of_the_encoder(odd_folder: Path) -> None:
    """Those of transformers' encoder, as torch counts them, but for attention."""
    checkpoint = load(str(odd_folder), dtype=torch.bfloat16, device=torch.device("cpu"))
    encoder = AudioEncoder(checkpoint)
    mels = encoder._log_mel([noise(3.0)])
    with FlopCounterMode(display=False) as counter:
        encoder._encode(mels, [300])
    counted = counter.get_flop_counts()["Global"]
    products = sum(amount for operator, amount in counted.items() if "attention" not in str(operator))
    assert encode_in_c(checkpoint.model, native)
    operations = engine_profile._encoder_operations(checkpoint.model.model.audio_tower, 39)
    filled_up = 2 * (3 * 50 * 64) * 8 * (16 - 9)  # the first convolution's inputs
    assert operations == products + filled_up


def test_operators_are_told_apart() -> None:
    assert engine_profile._kind("mkldnn::_linear_pointwise") == "products"
    assert engine_profile._kind("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert engine_profile._kind("aten::rms_norm") == "other"
