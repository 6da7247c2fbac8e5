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
"""Shorter ones are encoders' padding and rounded stamps."""
_SEARCHED = {"flv", "matroska"}
"""Containers without a table of what is where: behind damage, FFmpeg looks for the next thing that it knows."""
_SHARE = 0.5
"""So much of the bytes that a gap's sound would have taken, and the sound was there."""
_DELAY = 4
"""Packets of the track that may be in the decoder when the first frame behind a gap comes out of it."""
_MICROSECONDS = 1_000_000


class Gaps:
    """Follows one track as its packets and frames pass by."""

    def __init__(self, container: InputContainer, track: AudioStream):
        kind = container.format.name.partition(",")[0]
        self._is_stamped, self._is_searched = kind in _STAMPED, kind in _SEARCHED
        self._track = track
        self._ends_s = (container.start_time or 0) / _MICROSECONDS
        """Of the last frame; before the first one, where the file begins."""
        self._read_bytes = 0
        """Up to the end of the last packet."""
        self._skipped_bytes = 0
        """In no packet, since the last one of the track."""
        self._skipped_before: deque[int] = deque(maxlen=_DELAY)
        """The same of the last packets of the track."""
        self._track_bytes = 0

    def note(self, packet: "Packet[Stream]") -> None:
        """Take any packet of the file, in its order."""
        if packet.pos is None or packet.pos < 0:
            return
        if self._read_bytes:
            self._skipped_bytes += max(0, packet.pos - self._read_bytes)
        self._read_bytes = max(self._read_bytes, packet.pos + packet.size)
        if packet.stream is self._track:
            self._track_bytes += packet.size
            self._skipped_before.append(self._skipped_bytes)
            self._skipped_bytes = 0

    def before(self, frame: AudioFrame) -> float:
        """Seconds that are missing between the last frame and this one; 0.0 where there are none."""
        if not self._is_stamped or frame.pts is None or frame.time_base is None:
            return 0.0
        starts_s = float(frame.pts * frame.time_base)
        missing_s = starts_s - self._ends_s
        self._ends_s = starts_s + frame.samples / frame.sample_rate
        return missing_s if missing_s >= _SHORTEST_S else 0.0

    def is_damage(self, missing_s: float, decoded_s: float) -> bool:
        """Whether a gap that was just found is one in the file, too; decoded were so many seconds before it."""
        usual = self._track_bytes / decoded_s if decoded_s else 0.0
        skipped = max(self._skipped_before, default=0)
        return self._is_searched and usual > 0 and skipped >= _SHARE * usual * missing_s
