from pathlib import Path

import pytest
import torch

from benchmarks.random_checkpoint import write_native, write_original
from deployments.aligner.checkpoint import load_aligner
from deployments.aligner.model import AlignerModel
from deployments.transcription.words import Reading
from tests.unit.tiny_models import noise, one_thread

__all__ = ["one_thread"]

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("native"), "aligner-tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def original_folder(native_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(native_folder, tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="session")
def recognizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("recognizer"), "tiny", dtype=torch.float32)


@pytest.fixture(scope="session")
def model(native_folder: Path) -> AlignerModel:
    return load(native_folder)


def load(folder: Path) -> AlignerModel:
    return AlignerModel(load_aligner(str(folder), dtype=torch.float32, device=CPU))


READINGS = (
    Reading(noise(2.3, seed=1), "Turn on the light, please; it's twenty-five past.", "English"),
    Reading(noise(0.3, seed=2), "Oui.", "French"),
    Reading(noise(17.01, seed=3), "请打开厨房的灯。Hello 世界！", "Chinese"),
    Reading(noise(8.0, seed=4), "Grüße aus Köln, 1984", "German"),
)
