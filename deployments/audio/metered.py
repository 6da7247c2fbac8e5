"""A limit on the work that a media file may make before it gives the next sound."""

import time
from typing import BinaryIO

from deployments.audio import refusals
from deployments.exceptions import InvalidAudio


class Allowance:
    """Processor time of one thread, renewed for each block of sound.

    Processor time, since waiting for a core is not the file's doing. What passes between two blocks is not counted: the
    blocks may be drawn in any threads, at any pace.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._started = time.thread_time()

    def renew(self) -> None:
        """Begin to count, in the calling thread."""
        self._started = time.thread_time()

    def check(self) -> None:
        """Raise if it is used up.

        Raises:
            InvalidAudio: it is.
        """
        if time.thread_time() - self._started > self._seconds:
            raise refusals.too_much_work()


class MeteredFile:
    """A file that refuses to be read when the allowance is used up: the way to stop a demuxer within one call."""

    def __init__(self, file: BinaryIO, allowance: Allowance):
        self._allowance = allowance
        self._file = file
        self._refused = False

    def read(self, size: int = -1) -> bytes:
        """Read as files do.

        Raises:
            InvalidAudio: once, when the allowance is used up; from then on the file is at its end, as FFmpeg may try
                again and PyAV keeps one exception only.
        """
        if self._refused:
            return b""
        try:
            self._allowance.check()
        except InvalidAudio:
            self._refused = True
            raise
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, as files do."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, as files do."""
        return self._file.tell()
