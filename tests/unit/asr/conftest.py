from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoProcessor

from benchmarks.random_checkpoint import SHAPES, write_native, write_original
from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.engine import Engine
from deployments.audio.waveform import Waveform
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Utterance
from tests.unit.tiny_models import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("native"), "tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, of sizes that decode steps in C take, odder than the released: three query heads to a key head."""
    tiny = SHAPES["tiny"]
    sizes = {"hidden_size": 96, "intermediate_size": 224, "num_attention_heads": 6, "head_dim": 32}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "odd", replace(tiny, text={**tiny.text, **sizes}))
        return write_native(tmp_path_factory.mktemp("odd"), "odd")


@pytest.fixture(scope="session")
def original_folder(native_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(native_folder, tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="session")
def checkpoint(native_folder: Path) -> Checkpoint:
    return load(str(native_folder), dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def reference(native_folder: Path) -> Checkpoint:
    """The same model for `generate` alone: an engine changes how the one it is given attends."""
    return load(str(native_folder), dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def engine(checkpoint: Checkpoint) -> Iterator[Engine]:
    engine = Engine(checkpoint, slots=5, slot_tokens=1024, admission_s=10.0, piece_tokens=8).start()
    yield engine
    engine.stop()


def make_utterance(waveform: Waveform, **options: Any) -> Utterance:
    """An utterance with its `DecodingOptions` written out. Random models loop, and are let."""
    return Utterance(waveform, DecodingOptions(**({"loop_detection": False} | options)))


def by_plain_generate(checkpoint: Checkpoint, utterance: Utterance) -> str:
    """The independent reference: the released processor and `generate`, one utterance, nothing of ours.

    But for broken characters, of which random models say many: they are left out.
    """
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    inputs = processor.apply_transcription_request(
        utterance.waveform, language=utterance.options.language, prompt=utterance.options.prompt
    )
    output = checkpoint.model.generate(**inputs, max_new_tokens=utterance.options.max_new_tokens, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    text = processor.decode(answer, return_format="transcription_only")
    return cast(str, text).replace("\N{REPLACEMENT CHARACTER}", "").strip()
