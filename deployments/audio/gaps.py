"""Moments of a track for which its file has no sound: a late start, a pause of the recorder, or damage.

Decoders put frames one after the other, whatever their time stamps say, so that all that follows a gap would be told
too early: word times and subtitles are of the file's own clock, the one that its picture follows too.
"""

from collections import deque

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

_STAMPED = {"flv", "matroska", "mov"}
"""Containers that stamp what they hold. Others count samples or bytes, or restart their clocks as they like (MPEG)."""
_SHORTEST_S = 0.2
"""A lag behind the stamps that is filled; shorter ones are encoders' padding, rounding and jitter."""
_RESTART_S = 5.0
"""Stamps that go back so far have begun to count anew."""
_SEARCHED = {"flv", "matroska"}
"""Containers without a table of what is where: behind damage, FFmpeg looks for the next thing that it knows."""
_SHARE = 0.5
"""So much of the bytes that a gap's sound would have taken in one piece, and the sound was there."""
_HEADER_BYTES = 256
"""Of what stands between two packets in any file."""
_DELAY = 4
"""Packets of the track that may be in the decoder when the first frame behind a gap comes out of it."""
_MICROSECONDS = 1_000_000


class Gaps:
    """Follows one track as its packets and frames pass by."""

    def __init__(self, container: InputContainer, track: AudioStream):
        kind = container.format.name.partition(",")[0]
        self._is_stamped, self._is_searched = kind in _STAMPED, kind in _SEARCHED
        self._track = track
        self._begins_s = (container.start_time or 0) / _MICROSECONDS
        """The stamp at which what was heard so far began: where the file begins, unless its clock was set anew."""
        self._read_bytes = 0
        """Up to the end of the last packet."""
        self._hole_bytes = 0
        """The largest stretch that is in no packet, since the last one of the track."""
        self._holes_before: deque[int] = deque(maxlen=_DELAY)
        """The same of the last packets of the track."""
        self._track_bytes = 0

    def note(self, packet: "Packet[Stream]") -> None:
        """Take any packet of the file, in its order."""
        if packet.pos is None or packet.pos < 0:
            return
        if self._read_bytes:
            self._hole_bytes = max(self._hole_bytes, packet.pos - self._read_bytes - _HEADER_BYTES)
        self._read_bytes = max(self._read_bytes, packet.pos + packet.size)
        if packet.stream is self._track:
            self._track_bytes += packet.size
            self._holes_before.append(self._hole_bytes)
            self._hole_bytes = 0

    def before(self, frame: AudioFrame, heard_s: float) -> float:
        """Seconds that are missing before a frame for it to begin at its stamp; 0.0 where there are none.

        Args:
            frame: the next one.
            heard_s: seconds of the track so far, with those that were missing.
        """
        if not self._is_stamped or frame.pts is None or frame.time_base is None:
            return 0.0
        missing_s = float(frame.pts * frame.time_base) - self._begins_s - heard_s
        if missing_s < -_RESTART_S:
            self.go_on(missing_s)
        return missing_s if missing_s >= _SHORTEST_S else 0.0

    def go_on(self, missing_s: float) -> None:
        """Take a stamp that is wrong by so much for the one that should stand there: the next count from it."""
        self._begins_s += missing_s

    def is_damage(self, missing_s: float, sound_s: float) -> bool:
        """Whether a gap that was just found is one in the file, too.

        Args:
            missing_s: seconds.
            sound_s: seconds of sound that were decoded before it.
        """
        usual = self._track_bytes / sound_s if sound_s else 0.0
        hole = max(self._holes_before, default=0)
        return self._is_searched and usual > 0 and hole >= _SHARE * usual * missing_s
