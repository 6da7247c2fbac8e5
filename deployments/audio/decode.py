"""Any media file to one waveform: the way into the service for every recording."""

import os
from typing import BinaryIO

import numpy as np

from deployments.audio import media, refusals, wav
from deployments.transcription.utterance import SAMPLE_RATE, Waveform

MIN_DURATION_S = 0.1
"""Shortest recording OpenAI's API takes."""


def decode(source: BinaryIO, *, max_duration_s: float) -> Waveform:
    """Decode the sound of a media file, recognised by its content.

    Channels are averaged; of several audio tracks the default one is taken, or else the first. A waveform that leaves
    [-1, 1], as float files and resampled square waves do, is divided by its peak: the rule of the `qwen-asr` package.

    Args:
        source: a seekable file, read from its start and left anywhere, not closed.
        max_duration_s: longest recording accepted, in seconds.

    Returns:
        Shape `(samples,)`, contiguous, finite, in [-1, 1], from `MIN_DURATION_S` to `max_duration_s` long.

    Raises:
        InvalidAudio: the bytes are no media file, hold no sound, or sound that is too short, too long, cut off,
            damaged or not finite. `deployments/audio/refusals.py` has all messages.

    Blocks. Safe in several threads at once, each with its own `source`.
    """
    if source.seek(0, os.SEEK_END) == 0:
        raise refusals.empty()
    header = wav.read_header(source)
    if header is not None and header.is_plain:
        if header.duration > max_duration_s:
            raise refusals.too_long(max_duration_s, duration_s=header.duration)
        waveform = wav.read_waveform(source, header)
    else:
        waveform = media.decode_track(source, max_duration_s)
    if len(waveform) < MIN_DURATION_S * SAMPLE_RATE:
        raise refusals.too_short(MIN_DURATION_S)
    return _within_full_scale(waveform)


def _within_full_scale(waveform: Waveform) -> Waveform:
    peak = float(np.maximum(waveform.max(), -waveform.min()))  # NaN if any sample is
    if not np.isfinite(peak):
        raise refusals.not_finite()
    if peak > 1:
        waveform /= np.float32(peak)
    return waveform
