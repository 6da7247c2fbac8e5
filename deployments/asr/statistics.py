"""What an engine has to do and what it did, counted for whoever publishes it; it knows nothing of who that is.

Counting is on the way of every decode step, so it is plain Python: a lock and a few additions. Whoever publishes takes
what has gathered, once a second.
"""

import threading
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from deployments.asr.request import Request
from deployments.exceptions import EngineFailure, ServiceError
from deployments.transcription.utterance import Transcription

_KEPT = 10_000
"""Single observations that are kept for a reader that does not come; the older ones go."""


@dataclass(frozen=True)
class Load:
    """What an engine has to do at one moment."""

    slots: int
    """Utterances that run together at most."""
    running: int
    """Utterances that hold a slot, or are being admitted to one."""
    waiting: int
    running_audio_seconds: float
    waiting_audio_seconds: float


@dataclass
class Period:
    """What an engine did between two readings. Seconds are those of the clock on the wall."""

    encode_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    tokens: int = 0
    """Generated; an utterance's first comes from its prefill."""
    audio_seconds: float = 0.0
    """Of what was transcribed."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Utterances that ended: `transcribed`, `refused`, `failed`, `cancelled`."""
    utterance_prefill_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """From its encoding to its first token."""
    groups: "deque[Group]" = field(default_factory=lambda: deque(maxlen=_KEPT))
    queue_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Of each utterance that was admitted."""
    utterance_decode_s: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Of each utterance that was transcribed, from its first token to its last."""


@dataclass(frozen=True)
class Group:
    """Utterances that were encoded together."""

    rows: int
    encode_s: float


class Statistics:
    """Counts; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._period = Period()

    def take(self) -> Period:
        """What was done since the last call."""
        with self._lock:
            period, self._period = self._period, Period()
        return period

    def admitted(self, group: Group, queue_s: list[float]) -> None:
        """A group was encoded, after its utterances had waited for so long."""
        with self._lock:
            period = self._period
            period.groups.append(group)
            period.queue_s.extend(queue_s)
            period.encode_s += group.encode_s

    def prefilled(self, seconds: float) -> None:
        """Prompts were read, with nobody else running."""
        with self._lock:
            self._period.prefill_s += seconds

    def began(self, seconds: float) -> None:
        """An utterance has its first token, so long after it was encoded."""
        with self._lock:
            self._period.utterance_prefill_s.append(seconds)

    def decoded(self, seconds: float) -> None:
        """One step has advanced all running rows, and perhaps read a piece of a prompt with them."""
        with self._lock:
            self._period.decode_steps += 1
            self._period.decode_s += seconds

    def generated(self, tokens: int) -> None:
        """So many tokens were handed out."""
        with self._lock:
            self._period.tokens += tokens

    def watch(self, request: Request) -> None:
        """Count how a request ends, whoever ends it."""
        request.future.add_done_callback(lambda future: self._ended(request, future))

    def _ended(self, request: Request, future: "Future[Transcription]") -> None:
        outcome = _outcome(future)
        with self._lock:
            period = self._period
            period.outcomes[outcome] += 1
            if outcome == "transcribed":
                period.audio_seconds += request.utterance.duration
                if (timings := future.result().timings) is not None:
                    period.utterance_decode_s.append(timings.decode_s)


def _outcome(future: "Future[Transcription]") -> str:
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    if error is None:
        return "transcribed"
    return "refused" if isinstance(error, ServiceError) and not isinstance(error, EngineFailure) else "failed"
