"""Any media file to one waveform: the way into the service for every recording."""

import os
from collections.abc import Generator, Iterator
from typing import BinaryIO

import numpy as np

from deployments.audio import media, refusals, wav
from deployments.audio.metered import Allowance
from deployments.audio.waveform import SAMPLE_RATE, Waveform

MIN_DURATION_S = 0.1
"""Shortest recording OpenAI's API takes."""

BLOCK_S = 10
"""Seconds that are decoded at a time: what others wait for a thread, and what is judged together (`silero.py`)."""

MAX_WORK_S = 20.0
"""Processor seconds that the next block may take; recordings take some hundredths of a second."""

MAX_SEARCH_S = 2.0
"""Of these, what may pass without any sound, ahead of the first above all. Recordings take some thousandths, a tenth
where a table tells of each frame of six hours, and a second where an hour of picture comes before the sound."""

SEARCH_S_PER_BYTE = 1 / 40_000_000
"""More of it for large files. What takes most is MP4 whose every frame is a fragment of its own, that is all read ahead
of the sound: 0.6 s for 25 MB."""


def decode(source: BinaryIO, *, max_duration_s: float) -> Waveform:
    """Decode the sound of a media file as a whole.

    A waveform that leaves [-1, 1], as float files and resampled square waves do, is divided by its peak.

    Returns:
        Shape `(samples,)`, contiguous, finite, in [-1, 1], from `MIN_DURATION_S` to `max_duration_s` long.

    Raises:
        InvalidAudio: as `decode_blocks`.
    """
    return within_full_scale(np.concatenate(list(decode_blocks(source, max_duration_s=max_duration_s))))


def decode_blocks(source: BinaryIO, *, max_duration_s: float) -> Generator[Waveform, None, None]:
    """Decode the sound of a media file, recognised by its content, block by block.

    Channels are averaged; of several audio tracks the default one is taken, or else the first. What is wrong with the
    end of a file is only known there, after the blocks before it.

    Args:
        source: a seekable file, read from its start and left anywhere, not closed.
        max_duration_s: longest recording accepted, in seconds.

    Yields:
        The waveform in blocks of about `BLOCK_S`, contiguous and finite, but perhaps beyond [-1, 1].

    Raises:
        InvalidAudio: the bytes are no media file, hold no sound, or sound that is too short, too long, cut off,
            damaged or not finite, or too much work. `deployments/audio/refusals.py` has all messages.

    Blocks. Safe in several threads at once, each with its own `source`; the blocks of one may be drawn in any threads.
    """
    size = source.seek(0, os.SEEK_END)
    if size == 0:
        raise refusals.empty()
    allowance = Allowance(MAX_WORK_S, MAX_SEARCH_S + size * SEARCH_S_PER_BYTE)
    samples = 0
    for block in _joined(_chunks(source, max_duration_s, allowance)):
        samples += len(block)
        if samples < MIN_DURATION_S * SAMPLE_RATE:  # it is the last one
            break
        if not np.isfinite(block).all():
            raise refusals.not_finite()
        yield block
        allowance.renew()
    if samples < MIN_DURATION_S * SAMPLE_RATE:
        raise refusals.too_short(MIN_DURATION_S)


def for_model(waveform: Waveform) -> Waveform:
    """What a model is given of a recording: within full scale, and without an offset that outweighs its sound.

    Models hear words in such an offset. Anything else reaches them as it is.
    """
    mean = float(waveform.mean(dtype=np.float64))
    return within_full_scale(waveform - np.float32(mean) if abs(mean) > float(waveform.std()) else waveform)


def within_full_scale(waveform: Waveform) -> Waveform:
    """Divide what leaves [-1, 1] by its peak: the rule of the `qwen-asr` package."""
    peak = max(float(waveform.max()), -float(waveform.min()))
    return waveform / np.float32(peak) if peak > 1 else waveform


def _chunks(source: BinaryIO, max_duration_s: float, allowance: Allowance) -> Iterator[Waveform]:
    header = wav.read_header(source)
    if header is None or not header.is_plain:
        yield from media.decode_track(source, max_duration_s, allowance)
        return
    if header.duration > max_duration_s:
        raise refusals.too_long(max_duration_s, duration_s=header.duration)
    yield from wav.read_chunks(source, header)


def _joined(chunks: Iterator[Waveform]) -> Iterator[Waveform]:
    """Join chunks into blocks of `BLOCK_S` at least, but for the last."""
    block: list[Waveform] = []
    for chunk in chunks:
        block.append(chunk)
        if sum(map(len, block)) >= BLOCK_S * SAMPLE_RATE:
            yield np.concatenate(block)
            block = []
    if block:
        yield np.concatenate(block)
