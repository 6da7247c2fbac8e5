"""Where an MP4 keeps its index, without which FFmpeg knows nothing of what is in it."""

import os
import struct

from deployments.audio.metered import MeteredFile

_MOST_BOXES = 100
"""At the top of one file. Recorders write some five; a file of nothing but boxes would keep a processor busy."""


def ends_before_index(source: MeteredFile) -> bool:
    """Whether this is an MP4 (M4A, MOV) whose index is not there, or not to its end.

    Recorders write it last: an upload that broke off lacks it, and so does a recording that was never finished.
    """
    size = source.seek(0, os.SEEK_END)
    at = 0
    for _ in range(_MOST_BOXES):
        source.seek(at)
        header = source.read(16)
        if len(header) < 8:
            return at > 0
        length, kind = struct.unpack_from(">I4s", header)
        if at == 0 and kind != b"ftyp":
            return False
        if length == 1 and len(header) == 16:  # too long for 32 bits
            (length,) = struct.unpack_from(">Q", header, 8)
        if kind == b"moov":
            return length > size - at
        if length < 8:  # 0: to the end of the file
            return length == 0
        at += length
    return False
