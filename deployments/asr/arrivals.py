"""Utterances that wait to join the running ones, and who of them joins next. Knows nothing of the model."""

import threading
from collections.abc import Collection
from collections.abc import Sequence as Items

from deployments.asr.sequence import Sequence

OVERTAKING_TOKENS = 64
"""So long is the prompt of an utterance at most that overtakes others on their way in: some 3 s of audio."""


class Arrivals:
    """Utterances come in from any thread; the engine's takes them out.

    An utterance is due its own length after its arrival, and who is due first joins first: a short one overtakes long
    ones, and none waits for ever.

    Args:
        admission_s: seconds of audio that join together at most; one utterance always may.
    """

    def __init__(self, admission_s: float):
        self._admission_s = admission_s
        self._waiting: list[Sequence] = []
        self._joining: list[Sequence] = []
        self._changed = threading.Condition()
        self._closed = False

    def add(self, sequences: Items[Sequence]) -> None:
        """Queue utterances."""
        with self._changed:
            self._waiting.extend(sequences)
            self._changed.notify()

    def close(self) -> None:
        """Let `wait` return, now and for ever."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def wait(self, *, busy: bool) -> bool:
        """Return when somebody is waiting, or at once where there is other work; False once this is closed."""
        with self._changed:
            self._changed.wait_for(lambda: busy or self._waiting or self._closed)
            return not self._closed

    def take(self, free: int, reading: Collection[Sequence]) -> list[Sequence]:
        """Those that join now: the ones that are due first, as many as `admission_s` allows.

        While others are on their way in, only those that may overtake them: due before, and read at once.

        Args:
            free: slots that no running utterance holds.
            reading: utterances that have left here, and whose prompts are not read yet.

        Returns what `joined` must be told of.
        """
        group: list[Sequence] = []
        seconds = 0.0
        with self._changed:
            entering = [*self._joining, *reading]
            self._waiting = [sequence for sequence in self._waiting if not sequence.future.cancelled()]
            for sequence in sorted(self._waiting, key=lambda sequence: sequence.due_at):
                if len(entering) + len(group) == free:
                    break
                if any(sequence.due_at >= other.due_at for other in entering):
                    break
                if entering and len(sequence.prompt_ids) > OVERTAKING_TOKENS:
                    continue
                seconds += sequence.utterance.duration
                if group and seconds > self._admission_s:
                    break
                group.append(sequence)
            self._waiting = [sequence for sequence in self._waiting if sequence not in group]
            self._joining = [*self._joining, *group]
        return group

    def join_again(self, sequence: Sequence) -> None:
        """One that had joined is on its way in once more; `joined` must be told of it."""
        with self._changed:
            self._joining = [*self._joining, sequence]

    def joined(self, group: Items[Sequence]) -> None:
        """Those that were taken run now, are being read, or have ended."""
        with self._changed:
            self._joining = [sequence for sequence in self._joining if sequence not in group]

    def here(self) -> tuple[list[Sequence], list[Sequence]]:
        """Those that wait, and those that were taken and have not joined yet, at one moment."""
        with self._changed:
            return list(self._waiting), list(self._joining)
