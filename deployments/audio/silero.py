"""Silero's voice activity detector: how likely each 32 ms of a recording are speech.

The package's own loader imports torch, which the ingress never does; its ONNX model needs onnxruntime alone. It is the
one that takes any number of frames at once (`silero_vad.sequence_vad`), so that Python is not asked for each of them.
"""

from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from deployments.audio.speech import FRAME
from deployments.audio.waveform import Waveform

_CONTEXT = 64  # samples before a frame that the model sees with it
_MAX_FRAMES = 512  # at a time; bounds what the model takes of memory
_STATE = (1, 1, 128)

# The level that the model sees: it misses speech far below that of its training. As the level counts what the loudest
# twentieth of the frames have, so that neither a click nor the pauses decide.
_LEVEL_PERCENTILE = 95
_LEVEL_FRAMES = 125  # 4 s: fewer frames are judged together with those before them
_QUIET = 0.05  # -26 dBFS
_MAX_GAIN = 100.0  # 40 dB: the noise of an empty room stays below the level of speech

# Somebody quiet between two who are loud is below the level of what the model sees. So what it does not take for speech
# and is far below the level is heard once more, at a level of its own.
_DOUBTED = 0.5
_UNHEARD_FRAMES = 16  # 0.5 s
_FAR_BELOW = 0.1  # -20 dB

_State = tuple[NDArray[np.float32], NDArray[np.float32]]


class SileroVad:
    """One recording on its way through the detector, block by block. The model itself is loaded once."""

    def __init__(self) -> None:
        self._session = _load()
        self._state = _nothing_before()
        self._context: Waveform | None = None
        self._rest = np.empty(0, np.float32)
        self._levels = np.empty(0, np.float32)

    def push(self, block: Waveform) -> NDArray[np.float32]:
        """Take the next samples, of any number; return the probabilities of the frames that they complete."""
        samples = np.concatenate([self._rest, block])
        whole = len(samples) // FRAME * FRAME
        self._rest = samples[whole:]
        return self._judge(samples[:whole])

    def finish(self) -> NDArray[np.float32]:
        """End the recording; return the probability of its last frame if that was incomplete."""
        missing = -len(self._rest) % FRAME
        # The detector has to be told of a pause, not of a click down from an offset to zero.
        return self._judge(np.pad(self._rest, (0, missing), mode="edge") if missing else self._rest)

    def _judge(self, samples: Waveform) -> NDArray[np.float32]:
        if len(samples) == 0:
            return np.empty(0, np.float32)
        before = np.full(_CONTEXT, samples[0]) if self._context is None else self._context
        self._context = samples[-_CONTEXT:].copy()
        heard = np.concatenate([before, samples])
        heard -= heard.mean(dtype=np.float64).astype(np.float32)
        levels = np.sqrt(np.mean(np.square(heard[_CONTEXT:].reshape(-1, FRAME)), axis=1))
        level = self._level(levels)
        probabilities, self._state = self._run(_at_level(heard, level), self._state)
        for start, end, own in _unheard(probabilities, levels, level):
            alone = _at_level(heard[start * FRAME : end * FRAME + _CONTEXT], own)
            again, _ = self._run(alone, _nothing_before())
            probabilities[start:end] = np.maximum(probabilities[start:end], again)
        return probabilities

    def _run(self, samples: Waveform, state: _State) -> tuple[NDArray[np.float32], _State]:
        """The probabilities of all frames, which begin after the context of the first, and the state after the last."""
        frames = np.lib.stride_tricks.sliding_window_view(samples, _CONTEXT + FRAME)[::FRAME]
        judged = []
        hidden, cell = state
        for start in range(0, len(frames), _MAX_FRAMES):
            some = np.ascontiguousarray(frames[start : start + _MAX_FRAMES])
            probabilities, hidden, cell = self._session.run(
                ["speech_probs", "hn", "cn"], {"input": some, "h": hidden, "c": cell}
            )
            judged.append(np.asarray(probabilities, np.float32).reshape(-1))
        return np.concatenate(judged), (hidden, cell)

    def _level(self, levels: NDArray[np.float32]) -> float:
        """The level of the next frames, from theirs and those before them."""
        judged = np.concatenate([self._levels, levels])[-max(len(levels), _LEVEL_FRAMES) :]
        self._levels = judged[-_LEVEL_FRAMES:]
        return float(np.percentile(judged, _LEVEL_PERCENTILE))


def _at_level(samples: Waveform, level: float) -> Waveform:
    """Raise what is quiet and lower what is beyond full scale."""
    gain = 1.0 if _QUIET <= level <= 1 else min(_MAX_GAIN, _QUIET / max(level, 1e-12))
    return np.clip(samples * np.float32(gain), -1, 1)


def _unheard(
    probabilities: NDArray[np.float32], levels: NDArray[np.float32], level: float
) -> Iterator[tuple[int, int, float]]:
    """Frames in a row without speech, so far below the level that there may be some: (start, end, their own level)."""
    borders = np.flatnonzero(np.diff(probabilities < _DOUBTED, prepend=False, append=False))
    for start, end in borders.reshape(-1, 2).tolist():
        if end - start >= _UNHEARD_FRAMES:
            own = float(np.percentile(levels[start:end], _LEVEL_PERCENTILE))
            if _QUIET / _MAX_GAIN <= own < _FAR_BELOW * level:
                yield start, end, own


def _nothing_before() -> _State:
    return np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)


@cache
def _load() -> onnxruntime.InferenceSession:
    """The model, shared by all recordings and threads: it keeps no state of its own."""
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k_sequence.onnx")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # requests are what runs in parallel
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
