"""Replicas that start, transcribe and stop, and the recordings that are with them."""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.autoscaling.rates import Rates
from benchmarks.autoscaling.traces import Recording


@dataclass(frozen=True)
class Setup:
    """What a replica is, and how recordings are cut: the defaults of the service on a GPU."""

    rates: Rates
    """Of one replica."""
    start_s: float = 60.0
    """Until a new replica is ready, on a node that is there."""
    slots: int = 256
    ongoing: int = 384
    """Utterances in one replica; more wait in the ingress."""
    utterance_s: float = 30.0
    window: int = 8
    """Utterances of one recording that are on their way together."""

    @cached_property
    def speeds(self) -> list[float]:
        """Audio seconds per second that each of so many utterances gets."""
        return [0.0, *(self.rates.at(together) / together for together in range(1, self.slots + 1))]


@dataclass(eq=False)
class Job:
    """A recording, and what of it is still to be sent and to be answered."""

    recording: Recording
    to_send: deque[float]
    unanswered: int


@dataclass(eq=False)
class Replica:
    """Decodes up to `slots` utterances together, all at the same speed."""

    name: str
    setup: Setup
    started: float
    stopping: bool = False
    progress: float = 0.0
    """Audio seconds that an utterance would have got which ran from the start."""
    progress_at: float = 0.0
    running: list[tuple[float, int, float, Job]] = field(default_factory=list)
    """A heap: the progress at which it ends, its number, its seconds, whose it is."""
    waiting: deque[tuple[int, float, Job]] = field(default_factory=deque)
    audio_s: float = 0.0
    done_audio_s: float = 0.0
    version: int = 0
    """Of the time at which the next one ends, which changes with every arrival."""

    @property
    def utterances(self) -> int:
        return len(self.running) + len(self.waiting)

    def take(self, t: float, number: int, seconds: float, job: Job) -> None:
        self._advance(t)
        self.audio_s += seconds
        if len(self.running) < self.setup.slots:
            heapq.heappush(self.running, (self.progress + seconds, number, seconds, job))
        else:
            self.waiting.append((number, seconds, job))

    def finish_one(self, t: float) -> Job:
        """Take out the one that ends now, and let the next one join."""
        self._advance(t)
        _, _, seconds, job = heapq.heappop(self.running)
        self.audio_s -= seconds
        self.done_audio_s += seconds
        if self.waiting:
            number, following, its_job = self.waiting.popleft()
            heapq.heappush(self.running, (self.progress + following, number, following, its_job))
        if not self.running:
            self.audio_s = 0.0
        return job

    def next_end(self, t: float) -> float:
        return t + max(0.0, self.running[0][0] - self.progress) / self.setup.speeds[len(self.running)]

    def _advance(self, t: float) -> None:
        if self.running:
            self.progress += self.setup.speeds[len(self.running)] * (t - self.progress_at)
        self.progress_at = t


class Fleet:
    """All replicas, the queue in the ingress, and what came of the recordings."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.replicas: list[Replica] = []
        self.queue: deque[tuple[int, float, Job]] = deque()
        self.late_s: list[float] = []
        """By recording: seconds until its answer beyond those it would have taken alone."""
        self.replica_s = 0.0
        """Seconds of all replicas, starting and stopping included."""
        self._numbers = itertools.count()
        self._ends: list[tuple[float, int, int, Replica]] = []
        self._chance = random.Random(0)
        self._ready: list[Replica] = []

    @property
    def next_end(self) -> float:
        """When the next utterance ends."""
        while self._ends and self._ends[0][2] != self._ends[0][3].version:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    @property
    def ready(self) -> Sequence[Replica]:
        """The replicas that take utterances."""
        return self._ready

    def resize(self, t: float, target: int) -> None:
        """Start or stop replicas; one that stops ends what it has begun. Called once a second."""
        staying = [replica for replica in self.replicas if not replica.stopping]
        for _ in range(target - len(staying)):
            name = f"{next(self._numbers):08d}"
            self.replicas.append(Replica(name, self.setup, started=t, progress_at=t))
        newest_first = sorted(
            staying, key=lambda replica: (replica.started + self.setup.start_s <= t, -replica.started)
        )
        for replica in newest_first[: max(0, len(staying) - target)]:
            replica.stopping = True
        self.replicas = [replica for replica in self.replicas if not (replica.stopping and not replica.utterances)]
        self.replica_s += len(self.replicas)
        self._ready = [r for r in self.replicas if not r.stopping and r.started + self.setup.start_s <= t]
        self._send_queued(t)

    def arrive(self, t: float, recording: Recording) -> None:
        """Cut it and send the first pieces."""
        whole, rest = divmod(recording.duration, self.setup.utterance_s)
        pieces = deque([self.setup.utterance_s] * int(whole) + [rest] * (rest > 0))
        job = Job(recording, pieces, len(pieces))
        for _ in range(min(self.setup.window, len(pieces))):
            self._send(t, job)

    def end(self) -> float:
        """Let the next utterance end, and send what it made room for. Returns the time.

        Raises:
            ValueError: nothing is running.
        """
        if math.isinf(self.next_end):
            raise ValueError("nothing is running")
        t, _, _, replica = heapq.heappop(self._ends)
        job = replica.finish_one(t)
        self._schedule(t, replica)
        self._send_queued(t)
        job.unanswered -= 1
        if job.to_send:
            self._send(t, job)
        if not job.unanswered:
            self.late_s.append(max(0.0, t - job.recording.arrives - self._alone_s(job.recording)))
        return t

    def _alone_s(self, recording: Recording) -> float:
        together = min(self.setup.window, max(1, round(recording.duration / self.setup.utterance_s)))
        return recording.duration / self.setup.rates.at(together)

    def _send(self, t: float, job: Job) -> None:
        self.queue.append((next(self._numbers), job.to_send.popleft(), job))
        self._send_queued(t)

    def _send_queued(self, t: float) -> None:
        """First come, first served, to the less loaded of two replicas by chance, as Serve does."""
        while self.queue:
            replica = self._less_loaded()
            if replica is None:
                return
            replica.take(t, *self.queue.popleft())
            self._schedule(t, replica)

    def _less_loaded(self) -> Replica | None:
        candidates = self._chance.sample(self._ready, 2) if len(self._ready) > 2 else self._ready
        replica = min(candidates, key=lambda replica: replica.utterances, default=None)
        if replica is None or replica.utterances < self.setup.ongoing:
            return replica
        return next((replica for replica in self._ready if replica.utterances < self.setup.ongoing), None)

    def _schedule(self, t: float, replica: Replica) -> None:
        replica.version += 1
        if replica.running:
            heapq.heappush(self._ends, (replica.next_end(t), next(self._numbers), replica.version, replica))
