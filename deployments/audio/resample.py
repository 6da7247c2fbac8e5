"""Sound of any rate and number of channels to the service's mono 16 kHz, chunk by chunk."""

import numpy as np
import soxr
from numpy.typing import NDArray

from deployments.audio.waveform import SAMPLE_RATE, Waveform

MIN_RATE, MAX_RATE = 4_000, 768_000
"""Samples per second of what recorders and converters write; other rates come from broken headers."""

MAX_CHANNELS = 64

# soxr's "high quality": flat to 0.91 of the lower Nyquist frequency (7.3 kHz here), everything above that Nyquist
# frequency more than 100 dB down, linear phase with its delay taken out. "Very high" differs below -120 dB only.
_QUALITY = "HQ"


def mix_down(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    """Return the mean of the channels of `(channels, samples)` as `(samples,)`, integers scaled to [-1, 1)."""
    with np.errstate(over="ignore", invalid="ignore"):  # infinities and NaN are refused once all is decoded
        by_channel = samples.astype(np.float32, order="C")
        mono: NDArray[np.float32] = by_channel.mean(axis=0) if len(by_channel) > 1 else by_channel[0]
    if samples.dtype.kind == "f":
        return mono
    full_scale = np.float32(2.0 ** (8 * samples.dtype.itemsize - 1))
    if samples.dtype.kind == "u":
        mono -= full_scale
    mono /= full_scale
    return mono


class Resampler:
    """One continuous mono signal at `rate` Hz on its way to `SAMPLE_RATE`.

    What `push` returns lags behind by the filter's length; `finish` returns the rest. All chunks together have
    `round(pushed * SAMPLE_RATE / rate)` samples, and sample n sounds at the time n / SAMPLE_RATE of the input.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", _QUALITY)
        self._pushed = 0
        self._returned = 0

    def push(self, chunk: NDArray[np.float32]) -> Waveform:
        """Take the next `(samples,)` at `rate`, return the samples at `SAMPLE_RATE` that are ready, maybe none."""
        if self._stream is None:
            return chunk
        ready: Waveform = self._stream.resample_chunk(chunk)
        self._pushed += len(chunk)
        self._returned += len(ready)
        return ready

    def finish(self) -> Waveform:
        """End the signal and return its last samples. The resampler is of no use afterwards."""
        if self._stream is None:
            return np.empty(0, np.float32)
        rest: Waveform = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        missing = round(self._pushed * SAMPLE_RATE / self.rate) - self._returned - len(rest)
        # soxr rounds its count its own way, by a sample at most.
        return np.pad(rest, (0, missing)) if missing > 0 else rest[: len(rest) + missing]
