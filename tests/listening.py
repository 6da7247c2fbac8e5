"""Recordings that are heard as they are made: a listener for tests, and what it takes for speech."""

from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from deployments.audio.cutting import Cutter, Piece
from deployments.audio.speech import FRAME, SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform

LOUDNESS = 0.1


class Loudness:
    """Takes every frame for speech that is not silent."""

    def __init__(self) -> None:
        self._rest = np.empty(0, np.float32)

    def push(self, block: Waveform) -> NDArray[np.float32]:
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        return self._judge(samples[:whole])

    def finish(self) -> NDArray[np.float32]:
        return self._judge(np.pad(self._rest, (0, -len(self._rest) % FRAME)))

    def _judge(self, samples: Waveform) -> NDArray[np.float32]:
        return (np.abs(samples.reshape(-1, FRAME)).max(axis=1, initial=0) > LOUDNESS / 2).astype(np.float32)


def said(seconds: float) -> Waveform:
    """Something that `Loudness` takes for speech, of the same level all over."""
    return np.where(np.arange(round(seconds * SAMPLE_RATE)) % 2, LOUDNESS, -LOUDNESS).astype(np.float32)


def silence(seconds: float) -> Waveform:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def recorded(*seconds: float) -> Waveform:
    """Silence and speech by turns, silence first."""
    return np.concatenate([silence(length) if i % 2 == 0 else said(length) for i, length in enumerate(seconds)])


async def blocks_of(waveform: Waveform, seconds: float = 10.0) -> AsyncIterator[Waveform]:
    """A recording as the transcriber draws it."""
    for start in range(0, len(waveform), round(seconds * SAMPLE_RATE)):
        yield waveform[start : start + round(seconds * SAMPLE_RATE)]


def cut(
    waveform: Waveform,
    *,
    limit_s: float = 30.0,
    options: SpeechOptions | None = None,
    blocks: Sequence[float] = (10.0,),
) -> list[Piece]:
    """The pieces of a recording that is pushed in blocks of so many seconds, over and over."""
    cutter = Cutter(Loudness(), limit_s=limit_s, options=options or SpeechOptions())
    pieces, start, turn = [], 0, 0
    while start < len(waveform):
        end = start + max(1, round(blocks[turn % len(blocks)] * SAMPLE_RATE))
        pieces += cutter.push(waveform[start:end])
        start, turn = end, turn + 1
    return [*pieces, *cutter.finish()]
