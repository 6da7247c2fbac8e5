"""Nothing but a whole forced aligner is loaded as one, and none is taken for a recognizer."""

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from deployments.aligner.checkpoint import load_aligner
from deployments.aligner.start import start_aligner
from deployments.asr.checkpoint_files import check_files
from deployments.exceptions import CheckpointError
from deployments.served_model import DEMO_ALIGNER_CHECKPOINT, aligner_checkpoint
from deployments.settings import Settings
from tests.unit.aligner.conftest import CPU, READINGS


@pytest.mark.parametrize("layout", ["native_folder", "original_folder"])
def test_an_aligner_is_told_from_a_recognizer(
    layout: str, recognizer_folder: Path, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(layout))
    check_files(folder, "aligner")
    with pytest.raises(CheckpointError, match="is a forced aligner, which cannot transcribe"):
        check_files(folder)
    check_files(str(recognizer_folder))
    with pytest.raises(CheckpointError, match="transcribes and cannot align"):
        check_files(str(recognizer_folder), "aligner")


def test_a_missing_head_is_named(native_folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(native_folder, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"incomplete: 1 missing keys, such as score\.weight"):
        load_aligner(str(broken), dtype=torch.float32, device=CPU)


def test_a_tokenizer_without_timestamps_is_refused(native_folder: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(native_folder, tmp_path / "broken"))
    path = broken / "tokenizer.json"
    path.write_text(path.read_text().replace("<timestamp>", "<other>"))
    with pytest.raises(CheckpointError, match="lacks <timestamp>"):
        load_aligner(str(broken), dtype=torch.float32, device=CPU)


def test_settings_say_which_aligner_there_is(native_folder: Path) -> None:
    assert aligner_checkpoint(Settings()) is None
    assert aligner_checkpoint(Settings(aligner="demo")) == str(DEMO_ALIGNER_CHECKPOINT)
    assert aligner_checkpoint(Settings(aligner=str(native_folder))) == str(native_folder)


def test_utterances_that_no_aligner_takes_are_refused() -> None:
    with pytest.raises(ValidationError, match="max_utterance_s must be at most 180"):
        Settings(aligner="demo", max_utterance_s=200, slot_tokens=8192)


def test_utterances_longer_than_its_classes_are_refused(native_folder: Path) -> None:
    settings = Settings(aligner=str(native_folder), max_utterance_s=60)
    with pytest.raises(CheckpointError, match=r"tells times up to 39\.92 s"):
        start_aligner(settings, str(native_folder))


def test_it_starts_ready_to_align(native_folder: Path) -> None:
    model = start_aligner(Settings(aligner=str(native_folder), torch_threads=1, dtype="float32"), str(native_folder))
    (words,) = model.align(READINGS[:1])
    assert isinstance(words, tuple)
    assert len(words) == 8
