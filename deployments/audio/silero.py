"""Silero's voice activity detector: how likely each 32 ms of a recording are speech.

The package's own loader imports torch, which the ingress never does; its ONNX model needs onnxruntime alone. It is the
one that takes any number of frames at once (`silero_vad.sequence_vad`), so that Python is not asked for each of them.
"""

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


class SileroVad:
    """One recording on its way through the detector, block by block. The model itself is loaded once."""

    def __init__(self) -> None:
        self._session = _load()
        self._hidden = np.zeros(_STATE, np.float32)
        self._cell = np.zeros(_STATE, np.float32)
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
        levelled = self._level(np.concatenate([before, samples]))
        frames = np.lib.stride_tricks.sliding_window_view(levelled, _CONTEXT + FRAME)[::FRAME]
        judged = []
        for start in range(0, len(frames), _MAX_FRAMES):
            probabilities, self._hidden, self._cell = self._session.run(
                ["speech_probs", "hn", "cn"],
                {
                    "input": np.ascontiguousarray(frames[start : start + _MAX_FRAMES]),
                    "h": self._hidden,
                    "c": self._cell,
                },
            )
            judged.append(np.asarray(probabilities, np.float32).reshape(-1))
        return np.concatenate(judged)

    def _level(self, samples: Waveform) -> Waveform:
        """Take the offset out, raise what is quiet and lower what is beyond full scale."""
        centred = samples - samples.mean(dtype=np.float64).astype(np.float32)
        frames = centred[_CONTEXT:].reshape(-1, FRAME)
        levels = np.sqrt(np.mean(np.square(frames), axis=1))
        judged = np.concatenate([self._levels, levels])[-max(len(levels), _LEVEL_FRAMES) :]
        self._levels = judged[-_LEVEL_FRAMES:]
        level = max(float(np.percentile(judged, _LEVEL_PERCENTILE)), 1e-12)
        if _QUIET <= level <= 1:
            return np.clip(centred, -1, 1)
        return np.clip(centred * np.float32(min(_MAX_GAIN, _QUIET / level)), -1, 1)


@cache
def _load() -> onnxruntime.InferenceSession:
    """The model, shared by all recordings and threads: it keeps no state of its own."""
    path = distribution("silero-vad").locate_file("silero_vad/data/silero_vad_16k_sequence.onnx")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1  # requests are what runs in parallel
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
