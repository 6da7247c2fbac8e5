"""Decode steps in padded buckets give what exact ones do. On a GPU (`make test-gpu`) they are replayed as graphs."""

from pathlib import Path

import pytest
import torch

from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.engine import Engine
from deployments.asr.graphs import doubling
from deployments.transcription.utterance import Transcription, Utterance
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise


def test_buckets_reach_the_last_size() -> None:
    assert doubling(1, 16) == [1, 2, 4, 8, 16]
    assert doubling(1, 20) == [1, 2, 4, 8, 16, 20]
    assert doubling(256, 700) == [256, 512, 700]
    assert doubling(256, 256) == [256]


def _utterances() -> list[Utterance]:
    """More than there are slots, ending at different times, growing over a bucket's length."""
    return [
        make_utterance(noise(seconds, seed=i), max_new_tokens=tokens)
        for i, (seconds, tokens) in enumerate(
            [(0.5, 3), (17.0, 40), (1.0, 25), (18.3, 30), (3.0, 1), (2.0, 30), (9, 9)]
        )
    ]


def _texts(checkpoint: Checkpoint, *, graphs: bool, compiled: bool = False) -> list[str]:
    engine = Engine(checkpoint, slots=5, slot_tokens=600, admission_s=20.0, graphs=graphs, compiled=compiled).start()
    try:
        results = engine.transcribe(_utterances())
        assert (engine._runner._graphs is not None) == graphs
    finally:
        engine.stop()
    return [result.text for result in results if isinstance(result, Transcription)]


def test_padded_steps_give_the_same_tokens(checkpoint: Checkpoint) -> None:
    texts = _texts(checkpoint, graphs=True)
    assert len(texts) == 7
    assert texts == _texts(checkpoint, graphs=False)


def test_a_device_that_cannot_record_runs_without(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.asr.graphs.DecodeGraphs.replay", lambda *_, **__: 1 / 0)
    engine = Engine(checkpoint, slots=2, slot_tokens=600, admission_s=20.0, graphs=True).start()
    try:
        assert isinstance(engine.transcribe([make_utterance(noise(1.0), max_new_tokens=4)])[0], Transcription)
    finally:
        engine.stop()


def test_a_machine_that_cannot_compile_runs_without(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: refuse)
    assert _texts(checkpoint, graphs=False, compiled=True) == _texts(checkpoint, graphs=False)


@pytest.mark.gpu
def test_compiled_it_gives_the_same_tokens(native_folder: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    checkpoint = load(str(native_folder), dtype=torch.float32, device=torch.device("cuda"))
    assert _texts(checkpoint, graphs=True, compiled=True) == _texts(checkpoint, graphs=True)


@pytest.mark.gpu
def test_recorded_graphs_give_the_same_tokens(native_folder: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    checkpoint = load(str(native_folder), dtype=torch.float32, device=torch.device("cuda"))
    assert _texts(checkpoint, graphs=True) == _texts(checkpoint, graphs=False)


@pytest.mark.gpu
def test_the_gpu_answers_what_the_cpu_does(native_folder: Path, checkpoint: Checkpoint) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    on_gpu = load(str(native_folder), dtype=torch.float32, device=torch.device("cuda"))
    assert _texts(on_gpu, graphs=True) == _texts(checkpoint, graphs=False)


@pytest.mark.gpu
def test_a_decode_step_waits_for_the_gpu_once(native_folder: Path) -> None:
    checkpoint = load(str(native_folder), dtype=torch.bfloat16, device=torch.device("cuda"))
    engine = Engine(checkpoint, slots=4, slot_tokens=600, admission_s=20.0, graphs=True)  # steps by hand
    from deployments.asr.request import Request

    engine.submit([Request(make_utterance(noise(1.0), max_new_tokens=20))])
    with torch.inference_mode():
        engine.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            logits = engine._runner.decode(engine._running)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert logits.isfinite().all()
