"""From settings to a running engine."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch

from deployments.asr import start
from deployments.asr.engine import Engine
from deployments.exceptions import CheckpointError, InvalidRequest
from deployments.served_model import ServedModel
from deployments.settings import Settings
from tests.unit.asr.conftest import make_utterance
from tests.unit.tiny_models import noise


def _settings(folder: Path, **settings: object) -> Settings:
    return Settings.model_validate({"model": str(folder), "torch_threads": 1, "slots": 2, **settings})


def test_one_thread_loads_the_model_and_computes_with_it(native_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP threads of a second one would stay, and slow every step down."""
    loaded, stepped = [], []
    load, step = start.load, Engine.step

    def watched_load(*arguments: object, **options: object) -> object:
        loaded.append(threading.current_thread())
        return load(*arguments, **options)  # type: ignore[arg-type]

    def watched_step(self: Engine) -> None:
        stepped.append(threading.current_thread())
        step(self)

    monkeypatch.setattr(start, "load", watched_load)
    monkeypatch.setattr(Engine, "step", watched_step)
    settings = _settings(native_folder)
    engine = start.start_engine(settings, ServedModel.of(settings), num_gpus=0)
    try:
        engine.check()
        assert len(loaded) == 1
        assert set(stepped) == set(loaded) != {threading.current_thread()}
    finally:
        engine.stop()
    assert not loaded[0].is_alive()


def test_what_is_wrong_with_a_checkpoint_reaches_the_caller(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    with pytest.raises(CheckpointError):
        start.start_engine(settings, ServedModel.of(settings), num_gpus=0)


def test_what_the_longest_utterance_has_no_room_for_is_refused_with_a_short_one(native_folder: Path) -> None:
    settings = _settings(native_folder, slot_tokens=1024, max_utterance_s=30)
    engine = start.start_engine(settings, ServedModel.of(settings), num_gpus=0)
    try:
        (refusal,) = engine.transcribe([make_utterance(noise(0.5), prompt="x " * 150)])
        assert isinstance(refusal, InvalidRequest)
    finally:
        engine.stop()


def test_a_language_model_of_another_kind_is_refused(native_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(native_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (folder / "config.json").write_text(json.dumps(config))
    settings = _settings(folder)
    with pytest.raises(CheckpointError, match="gelu"):
        start.start_engine(settings, ServedModel.of(settings), num_gpus=0)


def test_an_engine_that_was_not_started_is_not_healthy(native_folder: Path) -> None:
    checkpoint = start.load(str(native_folder), dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="thread"):
        Engine(checkpoint, slots=1, slot_tokens=512, admission_s=10.0).check()
