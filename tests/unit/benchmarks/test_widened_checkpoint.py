"""A checkpoint that was widened says what the one it was made of says."""

from pathlib import Path

import pytest
import torch

from benchmarks.random_checkpoint import SHAPES, Shape, write_original
from benchmarks.widened_checkpoint import repeated, rotations, write_widened
from deployments.asr.checkpoint import load
from deployments.asr.engine import Engine
from deployments.asr.linear import Quantization, pack
from deployments.served_model import DEMO_CHECKPOINT
from deployments.transcription.utterance import Transcription, Utterance
from tests.speech import RECORDINGS, error_rate

CPU = torch.device("cpu")
WIDER = Shape(
    encoder={
        "d_model": 448,
        "encoder_layers": 5,
        "encoder_attention_heads": 7,
        "encoder_ffn_dim": 640,
        "downsample_hidden_size": 32,
    },
    text={
        "vocab_size": 1500,
        "hidden_size": 640,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 128,
        "max_position_embeddings": 2048,
    },
)
"""Wider in every size than the demo checkpoint, each by another factor."""


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return [Utterance(recording.waveform) for recording in RECORDINGS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "wider", WIDER)
        return write_widened(tmp_path_factory.mktemp("wider"), "wider", dtype=torch.float32)


def _texts(folder: Path, utterances: list[Utterance], quantization: Quantization = "none") -> list[str]:
    checkpoint = load(str(folder), dtype=torch.float32, device=CPU)
    pack(checkpoint.model, quantization)
    engine = Engine(checkpoint, slots=16, slot_tokens=512, admission_s=10.0, piece_tokens=32).start()
    try:
        answers = engine.transcribe(utterances)
    finally:
        engine.stop()
    assert {answer.finish_reason for answer in answers if isinstance(answer, Transcription)} == {"stop"}
    return [answer.text for answer in answers if isinstance(answer, Transcription)]


def test_it_says_what_the_demo_checkpoint_says(folder: Path, utterances: list[Utterance]) -> None:
    assert _texts(folder, utterances) == _texts(DEMO_CHECKPOINT, utterances)


def test_it_says_so_in_the_original_layout(folder: Path, utterances: list[Utterance], tmp_path: Path) -> None:
    assert _texts(write_original(folder, tmp_path), utterances[:4]) == _texts(DEMO_CHECKPOINT, utterances[:4])


def test_rows_of_zeros_can_be_rounded(folder: Path, utterances: list[Utterance]) -> None:
    """Idle heads and layers are nothing but zeros, whose largest value is no scale to divide by."""
    texts = _texts(folder, utterances, "int8")
    assert error_rate(list(zip(RECORDINGS, texts, strict=True))) < 0.1


def test_copies_are_written_alike_and_read_as_their_mean() -> None:
    axis = repeated(2, 5)
    assert axis.write(torch.tensor([3.0, 4.0])).tolist() == [3, 4, 3, 4, 0]
    assert axis.read(torch.tensor([[6.0, 2.0]])).tolist() == [[3, 1, 3, 1, 0]]
    assert axis.share == pytest.approx(0.8)


def test_every_second_rotation_is_one_of_the_narrow_head() -> None:
    assert rotations(4, 12).sources.tolist() == [0, -1, 1, -1, -1, -1, 2, -1, 3, -1, -1, -1]
