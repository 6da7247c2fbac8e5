"""The pages of an Ogg file: it states no length, but its pages show whether all of it is there."""

from deployments.audio.metered import MeteredFile

_HEADER_BYTES = 27
_WINDOW = 65_536


def compare_pages(source: MeteredFile, size: int) -> tuple[int | None, int]:
    """Return how many bytes the file should have, None if no page is missing, and up to where its pages are whole.

    Pages follow each other without a gap. What lies between two of them has been overwritten, and the last page says
    itself whether the file breaks off inside it.
    """
    has_holes = False
    offset = 0
    while offset < size:
        source.seek(offset)
        header = source.read(_HEADER_BYTES + 255)
        if header[:4] != b"OggS":
            found = _find_page(source, offset)
            if found is None:  # tags and the like at the end
                break
            has_holes = True
            offset = found
            continue
        lacing = header[_HEADER_BYTES : _HEADER_BYTES + header[26]] if len(header) > 26 else b""
        end = offset + _HEADER_BYTES + len(lacing) + sum(lacing)
        if end > size:
            return end, max(1, offset)
        offset = end
    return (size, size) if has_holes else (None, size)


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
