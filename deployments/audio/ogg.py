"""The pages of an Ogg file (RFC 3533): it states no length, but its pages show whether all of it is there."""

import os
import struct
import zlib
from dataclasses import dataclass

from deployments.audio.metered import MeteredFile

_HEADER_BYTES = 27
_CHECKSUM = slice(22, 26)
_WINDOW = 65_536
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Pages:
    """Bytes of the pages of a file. FFmpeg leaves out a page whose checksum is wrong, and says nothing."""

    whole: int
    """Of those that are as they were written."""
    damaged: int
    """Of those that are not, and of what was written over others."""
    missing: int
    """Of the last one, if the file breaks off inside it; of one as long as the others, if in its header."""


def read_pages(source: MeteredFile) -> Pages:
    """Look at every page: they follow each other without a gap, and the last one says how long it is."""
    size = source.seek(0, os.SEEK_END)
    count = whole = damaged = offset = 0
    while offset < size:
        source.seek(offset)
        page = source.read(_HEADER_BYTES + 255)
        if page[:4] != b"OggS":
            found = _find_page(source, offset)
            if found is None:  # tags and the like at the end
                break
            damaged += found - offset
            offset = found
            continue
        lacing = page[_HEADER_BYTES : _HEADER_BYTES + page[26]] if len(page) > 26 else b""
        length = _HEADER_BYTES + len(lacing) + sum(lacing)
        has_whole_header = len(page) > 26 and len(lacing) == page[26]
        if offset + length > size or not has_whole_header:
            return Pages(whole, damaged, length if has_whole_header else whole // max(1, count))
        page = page[:length] + source.read(max(0, length - len(page)))
        if _is_as_written(page):
            whole += length
            count += 1
        else:
            damaged += length
        offset += length
    return Pages(whole, damaged, 0)


def _is_as_written(page: bytes) -> bool:
    """Whether the checksum of a page is right.

    It is the CRC of zlib with bits in the other order, from 0 on and not inverted at its end.
    """
    blank = page[: _CHECKSUM.start] + bytes(4) + page[_CHECKSUM.stop :]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return struct.pack(">I", mirrored).translate(_MIRRORED) == page[_CHECKSUM]


def _find_page(source: MeteredFile, offset: int) -> int | None:
    """Return where the next page begins, None if there is none."""
    source.seek(offset)
    window = source.read(_WINDOW)
    while len(window) >= 4:
        if (found := window.find(b"OggS")) >= 0:
            return offset + found
        offset += len(window) - 3
        window = window[-3:] + source.read(_WINDOW)
        if len(window) == 3:
            break
    return None
