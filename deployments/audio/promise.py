"""How long a media file says it is, where that can be relied on.

A file that was cut off in an upload still decodes, and a transcript that silently lacks its second half is the worst
answer there is. So what was decoded is compared with what the header promises, but only where that is a promise: FFmpeg
also estimates durations from bit rates (VBR MP3, ADTS) and clips them to the bytes that are there (WAV, CAF, AVI).
"""

import os
import struct
from dataclasses import dataclass
from typing import Literal

from av.audio.stream import AudioStream
from av.container import InputContainer

from deployments.audio import mp3, wav
from deployments.audio.metered import MeteredFile

_MICROSECONDS = 1_000_000
_COUNTED_SAMPLES = {"aiff", "ape", "au", "flac", "mov", "nistsphere", "tta", "wv"}  # in a header or sample table
_COUNTED_BYTES = {"asf", "avi", "caf", "w64", "wav"}
_ONE_LENGTH_FOR_ALL = {"asf", "avi", "flv", "matroska"}
_CONSTANT_RATE = ("adpcm_", "gsm", "pcm_")


@dataclass(frozen=True)
class Promise:
    """A length that the file's header states, and what to hold against it."""

    seconds: float
    clock: Literal["samples", "track", "container"]
    """`samples`: the sound decoded. `track`: the track's last time stamp, as stamps may leave gaps where nothing was
    said (DTX). `container`: the last time stamp of any track, as the picture may be longer than the sound."""


def read_promise(container: InputContainer, track: AudioStream, source: MeteredFile) -> Promise | None:
    """Return what the header promises about `track`, or None where it promises nothing.

    `source` is the file that `container` was opened on; its position is left as it was.
    """
    position = source.tell()
    try:
        return _read_promise(container, track, source)
    finally:
        source.seek(position)


def _read_promise(container: InputContainer, track: AudioStream, source: MeteredFile) -> Promise | None:
    kind, codec = container.format.name.partition(",")[0], track.codec_context
    if kind == "mp3":
        seconds = mp3.read_duration(source)
        return Promise(seconds, "samples") if seconds is not None else None
    clock: Literal["samples", "track", "container"]
    if kind in _ONE_LENGTH_FOR_ALL and container.duration is not None:
        # Matroska counts from zero, wherever its first track begins.
        begins = max(container.start_time or 0, 0) if kind == "matroska" else 0
        seconds = (container.duration - begins) / _MICROSECONDS
        clock = "container" if len(container.streams) > 1 else "track"
    elif track.duration is not None and track.time_base is not None:
        seconds = float(track.duration * track.time_base)
        clock = "track" if kind == "mov" else "samples"
    else:
        return None
    if kind in _COUNTED_BYTES:
        if kind in {"wav", "w64"} and not codec.name.startswith(_CONSTANT_RATE):
            return None
        promised, usable = _counted_bytes(kind, source)
        if promised is None:
            return None
        return Promise(seconds * max(1.0, promised / usable), clock)
    if kind in _COUNTED_SAMPLES:
        is_placeholder = seconds * (codec.bit_rate or 0) / 8 >= wav.PLACEHOLDER_BYTES
        return Promise(seconds, clock) if not is_placeholder else None
    return Promise(seconds, clock) if kind in _ONE_LENGTH_FOR_ALL else None


def _counted_bytes(kind: str, source: MeteredFile) -> tuple[int | None, int]:
    """Return how many bytes the file should have, None if it does not say, and how many of them FFmpeg can decode."""
    size = source.seek(0, os.SEEK_END)
    if kind == "wav":
        header = wav.read_header(source)
        known = header is not None and header.data_size is not None
        return (header.data_size, max(1, header.available)) if header is not None and known else (None, size)
    source.seek(0)
    head = source.read(65536)
    read = {"asf": _asf_size, "avi": _avi_size, "caf": _caf_size, "w64": _w64_size}[kind]
    try:
        promised = read(head)
    except struct.error:
        promised = None
    return promised if promised is not None and promised < wav.PLACEHOLDER_BYTES else None, size


def _avi_size(head: bytes) -> int | None:
    return int(struct.unpack_from("<I", head, 4)[0]) + 8


def _w64_size(head: bytes) -> int | None:
    return int(struct.unpack_from("<Q", head, 16)[0])


def _caf_size(head: bytes) -> int | None:
    offset = 8
    while True:
        name, length = struct.unpack_from(">4sq", head, offset)
        if length < 0:  # -1: to the end of the file, whose length the writer did not know
            return None
        if name == b"data":
            return offset + 12 + int(length)
        offset += 12 + length


def _asf_size(head: bytes) -> int | None:
    properties = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if properties < 0:
        return None
    broadcast = struct.unpack_from("<I", head, properties + 88)[0] & 1
    return None if broadcast else int(struct.unpack_from("<Q", head, properties + 40)[0])
