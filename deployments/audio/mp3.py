"""The frame count in the first frame of an MP3 file: the one place where MP3 states its length.

FFmpeg reads it too, but falls back to an estimate from the bit rate without telling which of the two it returns.
"""

from deployments.audio.metered import MeteredFile

_MAX_TAGS = 8  # bounds the search in a hostile file
_SCAN_BYTES = 65536  # what may lie between the tags and the first frame: padding, leftovers of taggers
_RATES = (44_100, 48_000, 32_000)  # of MPEG-1; MPEG-2 has half of each, MPEG-2.5 a quarter
_MPEG_1, _MPEG_2 = 3, 2
_HAS_FRAME_COUNT = 1


def read_duration(source: MeteredFile) -> float | None:
    """Return the seconds that a Xing, Info or VBRI header states, or None where there is no such header.

    The encoder's delay and padding count as sound: about 0.1 s. `source` is left anywhere.
    """
    _skip_id3(source)
    head = source.read(_SCAN_BYTES)
    start = head.find(b"\xff")
    while 0 <= start < len(head) - 4:
        if (seconds_per_frame := _seconds_per_frame(head[start : start + 4])) is not None:
            frames = _frame_count(head[start:])
            return frames * seconds_per_frame if frames is not None else None
        start = head.find(b"\xff", start + 1)
    return None


def _skip_id3(source: MeteredFile) -> None:
    """Leave `source` behind its ID3v2 tags, of which careless taggers write several."""
    offset = 0
    for _ in range(_MAX_TAGS):
        source.seek(offset)
        tag = source.read(10)
        if len(tag) < 10 or tag[:3] != b"ID3":
            break
        has_footer = tag[5] & 0x10
        length = (tag[6] & 127) << 21 | (tag[7] & 127) << 14 | (tag[8] & 127) << 7 | tag[9] & 127
        offset += 10 + length + (10 if has_footer else 0)
    source.seek(offset)


def _seconds_per_frame(header: bytes) -> float | None:
    """Return the length of a layer III frame by its header of four bytes, None if it is none."""
    sync, version, layer = header[0] << 3 | header[1] >> 5, header[1] >> 3 & 3, header[1] >> 1 & 3
    bit_rate, rate = header[2] >> 4, header[2] >> 2 & 3
    if sync != 0x7FF or version == 1 or layer != 1 or bit_rate in (0, 15) or rate == 3:
        return None
    if version == _MPEG_1:
        return 1152 / _RATES[rate]
    return 576 / _RATES[rate] * (2 if version == _MPEG_2 else 4)


def _frame_count(frame: bytes) -> int | None:
    version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
    side_information = (17 if mono else 32) if version == _MPEG_1 else (9 if mono else 17)
    xing = frame[4 + side_information :][:12]
    if xing[:4] in (b"Xing", b"Info") and len(xing) == 12 and xing[7] & _HAS_FRAME_COUNT:
        return int.from_bytes(xing[8:12], "big")
    vbri = frame[4 + 32 :][:18]  # always at this place, whatever the side information
    if vbri[:4] == b"VBRI" and len(vbri) == 18:
        return int.from_bytes(vbri[14:18], "big")
    return None
