"""What makes a replica of the Aligner unhealthy."""

from collections.abc import Sequence

import pytest

from deployments import model_health
from deployments.aligner.deployment import Aligner
from deployments.exceptions import ServiceError
from deployments.model_health import ModelHealth
from deployments.transcription.words import Reading, Word
from tests.unit.aligner.conftest import READINGS

READING = READINGS[1]


class Replica(Aligner.func_or_class):  # type: ignore[name-defined]
    """`Aligner` without Ray, around a model that looks at the replica's health while it aligns."""

    def __init__(self) -> None:
        self._health = ModelHealth()
        self._model = self
        self.is_healthy: bool | None = None

    def align(self, readings: Sequence[Reading]) -> list[tuple[Word, ...] | ServiceError]:
        self.is_healthy = self.looks_healthy
        return [() for _ in readings]

    @property
    def looks_healthy(self) -> bool:
        try:
            self._health.check()
        except RuntimeError:
            return False
        return True


def test_a_batch_that_takes_its_time_is_healthy() -> None:
    replica = Replica()
    replica._align([READING])
    assert replica.is_healthy


def test_one_that_hangs_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_health, "HUNG_AFTER_S", -READING.duration * model_health.HUNG_AFTER_S_PER_S - 1e-3)
    replica = Replica()
    replica._align([READING])
    assert replica.is_healthy is False
    assert replica.looks_healthy, "it ended after all"
