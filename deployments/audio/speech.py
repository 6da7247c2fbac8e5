"""Where somebody speaks in a recording, found while the recording is still being read."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deployments.audio.waveform import SAMPLE_RATE, Waveform

FRAME = 512
"""Samples that one probability is about: what silero's models were made for."""
FRAME_S = FRAME / SAMPLE_RATE

_MIN_SPEECH_FRAMES = 3  # 96 ms: a click is shorter, the shortest word is not
# A word so short is certain, a bit of music is not: the mean probability was above 0.8 in 58 of 60 pieces of words of
# 0.15 to 0.4 s between silence, and in none of ten spans found in five minutes of chords and melodies (at most 0.78).
_SHORT_FRAMES = 15  # 0.48 s
_SURE = 1.2  # makes 0.8 of a threshold of 0.5, and leaves 0 and 1 what they are
_HYSTERESIS = 0.15  # silero's own: speech goes on until its probability is so much below what began it
_LOWEST = 0.01


@dataclass(frozen=True)
class SpeechOptions:
    """What counts as speech, and what ends it: `chunking_strategy` of OpenAI's API, with its defaults."""

    threshold: float = 0.5
    """Probability from which on a frame is speech: 0 finds it everywhere, 1 nowhere but where the model is certain."""
    padding_s: float = 0.3
    """Seconds before speech that are kept with it."""
    silence_s: float = 0.2
    """Seconds without speech after which it has ended."""


@dataclass(frozen=True)
class Span:
    """Speech without a pause, in seconds from the start of the recording."""

    start: float
    end: float


class Listener(Protocol):
    """What says how likely speech is: `SileroVad`, or a fake in a test. It hears one recording, once."""

    def push(self, block: Waveform) -> NDArray[np.float32]:
        """Take the next samples; return one probability for each frame of `FRAME` samples that is complete."""
        ...

    def finish(self) -> NDArray[np.float32]:
        """End the recording; return the probability of the last, incomplete frame, if there is one."""
        ...


class SpeechFinder:
    """Turns the probabilities of frames into spans of speech. Times are whole frames."""

    def __init__(self, listener: Listener, options: SpeechOptions):
        self._listener = listener
        self._begins = options.threshold
        self._ends = max(options.threshold - _HYSTERESIS, _LOWEST)
        self._sure = options.threshold + _SURE * options.threshold * (1 - options.threshold)
        self._pause = options.silence_s / FRAME_S
        self._frames = 0
        self._start: int | None = None
        """The frame in which the speech began that is going on."""
        self._quiet_since: int | None = None
        self._heard: list[float] = []
        """Probabilities of its frames, without those of its pauses, as long as it is short."""

    @property
    def heard(self) -> float:
        """Seconds of the recording that have been judged."""
        return self._frames * FRAME_S

    @property
    def speaking(self) -> Span | None:
        """The speech that has not ended yet, as far as it was heard. It may turn out to be too short to be any."""
        if self._start is None:
            return None
        end = self._frames if self._quiet_since is None else self._quiet_since
        return Span(self._start * FRAME_S, end * FRAME_S)

    def push(self, block: Waveform) -> list[Span]:
        """Take the next samples; return the spans of speech that have ended."""
        return self._follow(self._listener.push(block))

    def finish(self) -> list[Span]:
        """End the recording; return its last span of speech, if that was still going on."""
        spans = self._follow(self._listener.finish())
        if self._start is not None:
            spans += self._end(self._start, self._frames if self._quiet_since is None else self._quiet_since)
        return spans

    def _follow(self, probabilities: NDArray[np.float32]) -> list[Span]:
        spans: list[Span] = []
        for probability in probabilities.tolist():
            if probability >= self._begins:
                self._quiet_since = None
                if self._start is None:
                    self._start, self._heard = self._frames, []
            elif self._start is not None:
                if self._quiet_since is None and probability < self._ends:
                    self._quiet_since = self._frames
                if self._quiet_since is not None and self._frames + 1 - self._quiet_since >= self._pause:
                    spans += self._end(self._start, self._quiet_since)
            if self._quiet_since is None and len(self._heard) <= _SHORT_FRAMES:
                self._heard.append(probability)
            self._frames += 1
        return spans

    def _end(self, start: int, end: int) -> list[Span]:
        """The speech in these frames, if it is not too short to be any, or too short for how unsure it is."""
        self._start = self._quiet_since = None
        is_speech = end - start >= _MIN_SPEECH_FRAMES and (
            end - start >= _SHORT_FRAMES or sum(self._heard) >= self._sure * len(self._heard)
        )
        return [Span(start * FRAME_S, end * FRAME_S)] if is_speech else []
