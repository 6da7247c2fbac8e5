"""A limit on the work that a media file may make before it gives the next sound."""

import os
import time
from typing import BinaryIO

from deployments.audio import refusals


class Allowance:
    """Processor time of one thread, for each block of sound and, shorter, for each search for the next sound.

    Processor time, since waiting for a core is not the file's doing. What passes between two blocks is not counted: the
    blocks may be drawn in any threads, at any pace.
    """

    def __init__(self, block_s: float, search_s: float):
        """Begin to count, in the calling thread.

        Args:
            block_s: seconds for all that makes a block.
            search_s: seconds of them without any sound.
        """
        self._block_s, self._search_s = block_s, search_s
        self.renew()

    def renew(self) -> None:
        """Begin a block, in the calling thread."""
        self._began = self._heard = time.thread_time()

    def heard(self) -> None:
        """Begin a search: there was sound just now."""
        self._heard = time.thread_time()

    def check(self) -> None:
        """Go on, if there is time left for the block and for the search.

        Raises:
            InvalidAudio: one of them has taken too long.
        """
        now = time.thread_time()
        if now - self._began > self._block_s or now - self._heard > self._search_s:
            raise refusals.too_much_work()


class MeteredFile:
    """A file that refuses to be read when the allowance is used up: the way to stop a demuxer within one call.

    It raises once. From then on it is at its end and nothing in it can be sought, without a word: FFmpeg may try
    millions of times, and PyAV keeps one exception and prints each of the others.
    """

    def __init__(self, file: BinaryIO, allowance: Allowance):
        self._allowance = allowance
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self._position = 0
        self._failed = False

    def read(self, size: int = -1) -> bytes:
        """Read as files do.

        Raises:
            InvalidAudio: the allowance is used up.
            ValueError: the file is closed, by somebody in another thread who no longer waits for the sound.
            OSError: as of any file.
        """
        if self._failed:
            return b""
        try:
            self._allowance.check()
            self._file.seek(self._position)
            data = self._file.read(size)
        except BaseException:
            self._failed = True
            raise
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position, as files do, but return a negative one, FFmpeg's sign of an error, where that fails.

        The file follows with the next `read`: FFmpeg asks for the size before each box of MP4, by going to the end and
        back, and an upload that lies on disk would take a microsecond for that each time.
        """
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if self._failed or position < 0:
            return -1
        self._position = position
        return position

    def tell(self) -> int:
        """Return the position, as files do."""
        return self._position
