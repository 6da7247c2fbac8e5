"""WAV files without FFmpeg: the commonest upload, and FFmpeg would first search it for hidden DTS for 35 ms.

Only complete files of plain samples are read here. Whatever is unusual is left to FFmpeg, which knows all about it.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from deployments.audio import refusals
from deployments.audio.metered import MeteredFile
from deployments.audio.resample import MAX_CHANNELS, MAX_RATE, MIN_RATE, Resampler, mix_down
from deployments.audio.waveform import Waveform

PLACEHOLDER_BYTES = 0x7E00_0000
"""Sizes from here up are what writers into a pipe put where they do not know the size: 0xFFFFFFFF (FFmpeg), 0x7FFFF000
(sox, espeak), 0x80000000 (arecord), 0x7F000000 (sox, AIFF). No upload comes near them."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_DTYPES = {
    (_PCM, 8): "u1",
    (_PCM, 16): "<i2",
    (_PCM, 24): "<i4",
    (_PCM, 32): "<i4",
    (_FLOAT, 32): "<f4",
    (_FLOAT, 64): "<f8",
}
_MAX_CHUNKS = 1_000  # ahead of the sound; recorders write a dozen, hostile files millions
_BLOCK = 65_536  # samples per channel that are converted at a time


@dataclass(frozen=True)
class WavHeader:
    """What a WAV file says about itself."""

    format_tag: int
    channels: int
    rate: int
    block_align: int
    bits: int
    data_start: int
    """Offset of the first byte of sound."""
    data_size: int | None
    """Bytes of sound the header promises, or None where its writer did not know."""
    available: int
    """Bytes of the file from `data_start` on."""

    @property
    def is_plain(self) -> bool:
        """Whether `read_chunks` can read it: complete, integer or float samples."""
        return (
            (self.format_tag, self.bits) in _DTYPES
            and 1 <= self.channels <= MAX_CHANNELS
            and MIN_RATE <= self.rate <= MAX_RATE
            and self.block_align == self.channels * self.bits // 8
            and self.data_size is not None
            and self.data_size <= self.available
        )

    @property
    def samples(self) -> int:
        """Samples per channel that a plain file holds."""
        return (self.data_size or 0) // self.block_align

    @property
    def duration(self) -> float:
        """Seconds that a plain file lasts."""
        return self.samples / self.rate


def read_header(source: BinaryIO | MeteredFile) -> WavHeader | None:
    """Read the chunks of a RIFF or RF64 file up to its sound; None if it is no such file, or a broken one.

    Raises:
        InvalidAudio: there is no sound behind more chunks than anybody writes; FFmpeg would look at all of them.
    """
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    riff = source.read(12)
    if riff[:4] not in (b"RIFF", b"RF64", b"BW64") or riff[8:] != b"WAVE":
        return None
    fmt = b""
    size_64: int | None = None
    for _ in range(_MAX_CHUNKS):
        chunk = source.read(8)
        if len(chunk) < 8:
            return None
        name, length = struct.unpack("<4sI", chunk)
        body = source.tell()
        if name == b"data":
            if length == 0xFFFF_FFFF and size_64 is not None:
                length = size_64
            return _parse(fmt, body, length, size - body) if len(fmt) >= 16 else None
        if name == b"fmt ":
            fmt = source.read(min(length, 40))
        elif name == b"ds64" and length >= 16:
            size_64 = int.from_bytes(source.read(16)[8:], "little")
        source.seek(body + length + length % 2)  # chunks are padded to even sizes
    raise refusals.unsupported()


def _parse(fmt: bytes, data_start: int, length: int, available: int) -> WavHeader:
    tag, channels, rate, _, block_align, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) == 40:
        tag = int.from_bytes(fmt[24:26], "little")  # the GUID of the sub-format begins with the tag it stands for
    data_size = length if 0 < length < PLACEHOLDER_BYTES else None
    return WavHeader(tag, channels, rate, block_align, bits, data_start, data_size, available)


def read_chunks(source: BinaryIO, header: WavHeader) -> Iterator[Waveform]:
    """Read the sound behind a plain header chunk by chunk; 16 kHz mono int16 comes out as exactly x / 32768."""
    source.seek(header.data_start)
    resampler = Resampler(header.rate)
    for block in _blocks(source, header):
        yield resampler.push(mix_down(block))
    yield resampler.finish()


def _blocks(source: BinaryIO, header: WavHeader) -> Iterator[NDArray[np.generic]]:
    """Yield the samples as `(channels, up to _BLOCK)`."""
    dtype = np.dtype(_DTYPES[header.format_tag, header.bits])
    for start in range(0, header.samples, _BLOCK):
        data = source.read(min(_BLOCK, header.samples - start) * header.block_align)
        if header.bits == 24:
            widened = np.zeros((len(data) // 3, 4), np.uint8)
            widened[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            data = widened.tobytes()
        yield np.frombuffer(data, dtype).reshape(-1, header.channels).T
