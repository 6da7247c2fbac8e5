"""What one replica has to do, and gets done. Free of torch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.autoscaling import AUDIO_S, DONE_AUDIO_S_PER_S, UTTERANCES
from deployments.transcription.utterance import Utterance


class Workload:
    """The utterances that were taken and not yet answered: waiting for others to join them, for a slot, or running."""

    def __init__(self) -> None:
        self._utterances = 0
        self._audio_s = 0.0
        self._done_audio_s = 0.0
        self._reported_at = time.monotonic()

    @contextmanager
    def of(self, utterance: Utterance) -> Iterator[None]:
        """Count an utterance in while the context lasts, and as done if it ends well."""
        self._utterances += 1
        self._audio_s += utterance.duration
        try:
            yield
            self._done_audio_s += utterance.duration
        finally:
            self._utterances -= 1
            self._audio_s -= utterance.duration
            if not self._utterances:
                self._audio_s = 0.0  # no rounding is left behind: nothing to do is exactly nothing

    def report(self) -> dict[str, float]:
        """What the autoscaling policy is told: what there is to do, and how fast it was done since the last report."""
        now = time.monotonic()
        per_s = self._done_audio_s / max(now - self._reported_at, 1e-3)
        self._done_audio_s, self._reported_at = 0.0, now
        return {UTTERANCES: self._utterances, AUDIO_S: self._audio_s, DONE_AUDIO_S_PER_S: per_s}
