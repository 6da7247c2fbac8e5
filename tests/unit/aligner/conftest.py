from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.random_checkpoint import write_native, write_original
from deployments.aligner.checkpoint import load_aligner
from deployments.aligner.model import AlignerModel
from deployments.transcription.utterance import SAMPLE_RATE, Waveform
from deployments.transcription.words import Reading

CPU = torch.device("cpu")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models here are so small that a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def noise(seconds: float, *, seed: int = 0) -> Waveform:
    """Loud noise that the random model answers differently for every seed."""
    rng = np.random.default_rng(seed)
    samples: Waveform = rng.normal(0.0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return samples


READINGS = (
    Reading(noise(2.3, seed=1), "Turn on the light, please; it's twenty-five past.", "English"),
    Reading(noise(0.3, seed=2), "Oui.", "French"),
    Reading(noise(17.01, seed=3), "请打开厨房的灯。Hello 世界！", "Chinese"),
    Reading(noise(8.0, seed=4), "Grüße aus Köln, 1984", "German"),
)
