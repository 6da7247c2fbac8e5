"""Who sends what when: arrivals of recordings, the same ones every time."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

HOUR = 3600.0
DAY = 2 * HOUR
"""A short one: what is added in the morning and removed in the evening is simulated in seconds."""


@dataclass(frozen=True)
class Recording:
    """One request."""

    arrives: float
    """Seconds from the start of the trace."""
    duration: float
    """Seconds of audio."""


@dataclass(frozen=True)
class Trace:
    """Recordings in the order of their arrival."""

    name: str
    what: str
    seconds: float
    recordings: tuple[Recording, ...]
    starts_with: int = 1
    """Replicas that are there at the start."""


def traces(capacity: float) -> list[Trace]:
    """The traces, for replicas that transcribe `capacity` audio seconds per second at most."""
    return [
        _trace(
            "steady",
            "calls of 1 to 4 min, worth 2.5 replicas",
            HOUR / 2,
            lambda _: 2.5 * capacity,
            60,
            240,
            starts_with=4,
        ),
        _trace(
            "commands",
            "commands of 1 to 4 s, worth 1.5 replicas",
            HOUR / 10,
            lambda _: 1.5 * capacity,
            1,
            4,
            starts_with=3,
        ),
        _trace("burst", "calls worth 0.5 replicas, for 5 min 5", HOUR / 2, lambda t: _burst(t) * capacity, 60, 240),
        _trace("day", "calls worth 0.1 to 3 replicas and back, in 2 h", DAY, lambda t: _day(t) * capacity, 60, 240),
        Trace("one file", "one recording of 6 h", HOUR, (Recording(60.0, 6 * HOUR),)),
    ]


def _burst(t: float) -> float:
    return 5.0 if 300 <= t < 600 else 0.5


def _day(t: float) -> float:
    return 1.55 - 1.45 * math.cos(2 * math.pi * t / DAY)


def _trace(
    name: str,
    what: str,
    seconds: float,
    audio_s_per_s: Callable[[float], float],
    shortest: float,
    longest: float,
    starts_with: int = 1,
) -> Trace:
    return Trace(name, what, seconds, tuple(_arrivals(seconds, audio_s_per_s, shortest, longest)), starts_with)


def _arrivals(
    seconds: float, audio_s_per_s: Callable[[float], float], shortest: float, longest: float
) -> Iterator[Recording]:
    """Poisson arrivals whose rate follows the audio wanted; lengths are spread evenly."""
    chance = np.random.default_rng(0)
    t = 0.0
    while True:
        rate = audio_s_per_s(t) / ((shortest + longest) / 2)
        t += chance.exponential(1 / rate)
        if t >= seconds:
            return
        yield Recording(t, chance.uniform(shortest, longest))
