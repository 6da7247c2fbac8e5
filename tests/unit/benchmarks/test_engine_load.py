"""The closed loop over an engine transcribes every clip and tells what it took."""

from pathlib import Path

import torch

from benchmarks.engine_load import COLUMNS, closed_loop, noise
from benchmarks.random_checkpoint import write_native
from deployments.asr.checkpoint import load
from deployments.asr.engine import Engine

CPU = torch.device("cpu")


def test_a_closed_loop(tmp_path: Path) -> None:
    checkpoint = load(str(write_native(tmp_path, "tiny", dtype=torch.float32)), dtype=torch.float32, device=CPU)
    engine = Engine(checkpoint, slots=3, slot_tokens=512, admission_s=10.0).start()
    try:
        row = closed_loop(engine, [noise(seed, 1.0, tokens=5) for seed in range(7)], concurrency=2)
    finally:
        engine.stop()
    told = dict(zip(COLUMNS, row, strict=True))
    assert (told["concurrency"], told["clips"]) == (2, 7)
    assert 1 <= float(told["rows a step"] or 0) <= 2
    assert float(told["audio s/s"] or 0) > 0
    assert float(told["p95 s"] or 0) >= float(told["mean s"] or 0) > 0
