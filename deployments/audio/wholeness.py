"""Whether all the sound of a media file was decoded: a transcript must not silently lack a part of it."""

import os
from typing import Literal

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from deployments.audio import matroska, ogg, refusals
from deployments.audio.metered import MeteredFile
from deployments.audio.promise import Promise

TOLERANCE_S = 0.5
"""Sound that may be missing before a file counts as damaged: encoders pad, headers round, last frames break off."""

_CLUSTER_HEAD = 1024
"""Bytes from where Matroska's first cluster begins to its first packet, at most: usually there are some ten."""


class Passage:
    """What was decoded, passed by and lost on the way through a track."""

    def __init__(self, container: InputContainer, track: AudioStream):
        self.kind = container.format.name.partition(",")[0]
        """Of the container, as FFmpeg calls it."""
        self.decoded_s = 0.0
        self.lost_s = 0.0
        """In packets that could not be decoded, and where time stamps leave out what was there."""
        self.broke_off = False
        """Whether FFmpeg could not go on."""
        self.first_byte: int | None = None
        """Of the first packet."""
        self.read_bytes = 0
        """Up to the end of the last packet."""
        self._track = track.index
        self._ticks_s = [float(stream.time_base or 0) for stream in container.streams]
        self._spans_s: dict[int, tuple[float, float]] = {}
        """First and last time stamp of every stream."""

    def note(self, packet: "Packet[Stream]") -> None:
        """A packet of any stream passes by."""
        if packet.pos is not None and packet.pos >= 0:
            self.first_byte = packet.pos if self.first_byte is None else self.first_byte
            self.read_bytes = max(self.read_bytes, packet.pos + packet.size)
        if packet.pts is None or packet.is_discard:
            return
        index = packet.stream.index
        start_s = packet.pts * self._ticks_s[index]
        end_s = start_s + (packet.duration or 0) * self._ticks_s[index]
        first_s, last_s = self._spans_s.get(index, (start_s, end_s))
        self._spans_s[index] = min(first_s, start_s), max(last_s, end_s)

    def reached_s(self, clock: Literal["samples", "track", "container"]) -> float:
        """How far it went: what was decoded, or where time stamps count, from the first of them to the last."""
        if clock == "samples":
            return self.decoded_s
        spans = [span for index, span in self._spans_s.items() if clock == "container" or index == self._track]
        passed_s = max((last for _, last in spans), default=0.0) - min((first for first, _ in spans), default=0.0)
        return max(self.decoded_s, passed_s)


def refuse_if_incomplete(passage: Passage, promise: Promise | None, source: MeteredFile) -> None:
    """Refuse a file of which more than `TOLERANCE_S` of sound is missing, at its end or in between.

    Where its header makes no promise and its structure shows nothing, only what FFmpeg reports as undecodable is known
    to be missing.

    Args:
        passage: all the way through its track.
        promise: what the header promises of it.
        source: the file; left anywhere.

    Raises:
        InvalidAudio: the file is cut off, damaged, or was no media after all.
    """
    lost_s = passage.lost_s
    if passage.decoded_s == 0 and (lost_s > 0 or passage.broke_off):
        raise refusals.unsupported()
    if promise is not None:
        reached_s = passage.reached_s(promise.clock)
        if promise.seconds - reached_s > TOLERANCE_S:
            raise refusals.truncated(promise.seconds, reached_s)
    elif passage.broke_off and passage.read_bytes > 0:
        unread = source.seek(0, os.SEEK_END) - passage.read_bytes
        lost_s += passage.decoded_s * unread / passage.read_bytes
    if passage.kind == "ogg":
        lost_s = max(lost_s, _lost_with_pages(passage.decoded_s, source))
    if lost_s > TOLERANCE_S:
        raise refusals.damaged(lost_s)
    if passage.kind == "matroska" and _passed_over_the_beginning(passage, source):
        raise refusals.damaged_beginning()


def _lost_with_pages(decoded_s: float, source: MeteredFile) -> float:
    """How many seconds were on damaged pages, if those on the others are spread evenly.

    Raises:
        InvalidAudio: the file breaks off within a page.
    """
    pages = ogg.read_pages(source)
    seconds_a_byte = decoded_s / max(1, pages.whole)
    if pages.missing * seconds_a_byte > TOLERANCE_S:
        raise refusals.truncated(None, decoded_s)
    return pages.damaged * seconds_a_byte


def _passed_over_the_beginning(passage: Passage, source: MeteredFile) -> bool:
    """Whether there is something ahead of the first packet that FFmpeg could not read, and says nothing of."""
    begins = matroska.first_cluster(source)
    return begins is not None and passage.first_byte is not None and passage.first_byte - begins > _CLUSTER_HEAD
