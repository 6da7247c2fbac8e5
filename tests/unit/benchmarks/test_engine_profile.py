"""The profile of the engine accounts for the time that it measures."""

from pathlib import Path

import pytest

from benchmarks import engine_profile
from benchmarks.engine_profile import COLUMNS, measure
from deployments.asr.native import decoder
from deployments.asr.native.library import library


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


def test_a_step_in_c_has_its_products_and_the_rest(odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_profile, "read_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(engine_profile, "_arithmetic", lambda _: 2e9)
    *_, row = [dict(zip(COLUMNS, row, strict=True)) for row in measure(odd_folder, [2])]
    products, rest = row["products ms"], row["other operators ms"]
    assert isinstance(products, float)
    assert isinstance(rest, float)
    assert products > 0
    assert (row["attention ms"] is None) == (library() is not None)


def test_operators_are_told_apart() -> None:
    assert engine_profile._kind("mkldnn::_linear_pointwise") == "products"
    assert engine_profile._kind("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert engine_profile._kind("aten::rms_norm") == "other"
