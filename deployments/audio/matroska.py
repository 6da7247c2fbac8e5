"""Where the sound of a Matroska or WebM file begins, by its own structure (RFC 8794, RFC 9559)."""

from deployments.audio.metered import MeteredFile

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067
_BEFORE_CLUSTERS = {
    0x114D9B74,  # SeekHead
    0x1549A966,  # Info
    0x1654AE6B,  # Tracks
    0x1254C367,  # Tags
    0x1043A770,  # Chapters
    0x1941A469,  # Attachments
    0x1C53BB6B,  # Cues
    0xEC,  # Void
    0xBF,  # CRC-32
}
_MOST_ELEMENTS = 100
"""Before the first cluster. Muxers write some six; a file of nothing else would keep a processor busy."""


def first_cluster(source: MeteredFile) -> int | None:
    """Where the first cluster is, or what stands in its place; None where the file does not say."""
    at = 0
    for _ in range(_MOST_ELEMENTS):
        source.seek(at)
        name, size, length = _element(source.read(12))
        if name == _SEGMENT:
            at += length
        elif name in _BEFORE_CLUSTERS or (name == _HEADER and at == 0):
            if size is None:
                return None
            at += length + size
        else:
            return at if at > 0 else None
    return None


def _element(head: bytes) -> tuple[int, int | None, int]:
    """Its name, the bytes of its content, None if they are not told, and the bytes of both numbers; zeros for none."""
    name_length = _number_length(head)
    size_length = _number_length(head[name_length:])
    if not (1 <= name_length <= 4 and 1 <= size_length <= 8 and len(head) >= name_length + size_length):
        return 0, 0, 0
    size = int.from_bytes(head[name_length : name_length + size_length], "big")
    unknown = (1 << 7 * size_length) - 1
    size &= unknown
    return int.from_bytes(head[:name_length], "big"), None if size == unknown else size, name_length + size_length


def _number_length(head: bytes) -> int:
    """A number's first byte tells by its leading zeros how many it has; 9 for none."""
    return 9 - head[0].bit_length() if head else 9
