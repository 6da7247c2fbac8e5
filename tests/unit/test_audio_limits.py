"""What a small file may cost: streams, memory and processor time are bounded, whatever its header says."""

import io
import itertools
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from contextlib import suppress
from functools import partial

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream

from deployments.audio import decode as decode_module
from deployments.audio import metered
from deployments.audio.decode import MAX_SEARCH_S, MAX_WORK_S, SEARCH_S_PER_BYTE, decode, decode_blocks
from deployments.audio.media import MAX_STREAMS
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import InvalidAudio
from tests.media import KINDS, encode

LIMIT_S = 60.0
TONE = (0.5 * np.sin(np.arange(SAMPLE_RATE) / 7)).astype(np.float32)


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidAudio) as refused:
        decode(io.BytesIO(data), max_duration_s=LIMIT_S)
    assert refused.value.code == "invalid_value"
    return refused.value.message


def with_streams(count: int) -> bytes:
    """Return a Matroska file of that many audio streams, each a tenth of a second."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono") for _ in range(count)]
        for stream in streams:
            assert isinstance(stream, AudioStream)
            frame = av.AudioFrame.from_ndarray(np.full((1, 1_600), 99, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            container.mux(stream.encode(frame))
    return target.getvalue()


def test_as_many_streams_as_allowed() -> None:
    assert len(decode(io.BytesIO(with_streams(MAX_STREAMS)), max_duration_s=LIMIT_S)) == 1_600


@pytest.mark.parametrize("more", [1, 50])
def test_too_many_streams(more: int) -> None:
    assert "more than 100 streams" in refusal(with_streams(MAX_STREAMS + more))


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def mov_with_header_of(mebibytes: int) -> bytes:
    """Return a MOV file whose compressed header unpacks to that much; a thousandth of it in size."""
    pack = zlib.compressobj(9)
    packed = b"".join(pack.compress(bytes(2**20)) for _ in range(mebibytes)) + pack.flush()
    header = box(b"dcom", b"zlib") + box(b"cmvd", struct.pack(">I", mebibytes << 20) + packed)
    return box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", box(b"cmov", header)) + box(b"mdat", bytes(1_000))


def test_a_header_that_unpacks_to_much_takes_no_memory() -> None:
    """In a process of its own, since the peak of a process never falls."""
    program = textwrap.dedent("""
        import io, resource, sys
        from deployments.audio.decode import decode
        from deployments.exceptions import InvalidAudio
        data = sys.stdin.buffer.read()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode(io.BytesIO(data), max_duration_s=60)
        except InvalidAudio as error:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error.message)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], input=mov_with_header_of(300), capture_output=True, check=True
    )
    kibibytes, _, message = done.stdout.decode().partition(" ")
    assert message.startswith("Audio file might be corrupted or unsupported")
    assert int(kibibytes) < 64 * 1024
    assert done.stderr == b""


def test_a_frame_of_millions_of_samples() -> None:
    """TTA's frames last a second: at this rate, with so many channels, 50 MB, out of two that pack silence."""
    channels, rate = 16, 768_000
    frame_length = 256 * rate // 245
    header = b"TTA1" + struct.pack("<HHHII", 1, channels, 16, rate, frame_length)
    silence = bytes(frame_length * channels // 4)
    frame = silence + struct.pack("<I", zlib.crc32(silence))
    sizes = struct.pack("<I", len(frame))
    data = b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in (header, sizes)) + frame
    assert f"frames of {frame_length} samples" in refusal(data)


class Clock:
    """Processor time that passes with every look at it."""

    def __init__(self, step_s: float) -> None:
        self._ticks = itertools.count(0.0, step_s)

    def thread_time(self) -> float:
        return next(self._ticks)


@pytest.mark.parametrize("kind", ["mp3", "flac", "ogg-vorbis", "m4a", "webm-video", "ts-video", "wma"])
def test_a_file_that_computes_without_end_is_stopped(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(np.tile(TONE, 5), kind)
    monkeypatch.setattr(metered, "time", Clock(MAX_WORK_S / 3))
    assert refusal(data).startswith("The audio takes too long to decode.")
    assert capfd.readouterr() == ("", "")


def test_sound_that_comes_too_slowly_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No single search takes long, but the block does."""
    monkeypatch.setattr(metered, "time", Clock(MAX_SEARCH_S / 10))
    drawn = decode_blocks(io.BytesIO(encode(np.tile(TONE, 35), "mp3")), max_duration_s=LIMIT_S)
    with pytest.raises(InvalidAudio, match="takes too long"):
        next(drawn)


def test_reading_without_end_is_stopped_within_one_call_of_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a good beginning comes what the demuxer skips: it would read all of it before it gives a packet."""
    data = encode(TONE, "mp3") + bytes(8 << 20)
    reads = []

    class Source(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            reads.append(size)
            return super().read(size)

    monkeypatch.setattr(metered, "time", Clock(MAX_WORK_S / 20))
    with pytest.raises(InvalidAudio, match="takes too long"):
        decode(Source(data), max_duration_s=LIMIT_S)
    assert len(reads) <= 25


def test_the_allowance_is_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long recording may take long, and what is done between two blocks is not the file's."""
    now = [0.0]

    class Time:
        thread_time = staticmethod(lambda: now[0])

    monkeypatch.setattr(metered, "time", Time)
    blocks = 0
    for _ in decode_blocks(io.BytesIO(encode(np.tile(TONE, 35), "flac")), max_duration_s=LIMIT_S):
        now[0] += 0.9 * MAX_WORK_S
        blocks += 1
    assert blocks == 4


UPLOAD_BYTES = 25_000_000
"""As many as the service takes by default."""


def filled(start: bytes, piece: bytes) -> bytes:
    return start + piece * ((UPLOAD_BYTES - len(start)) // len(piece))


OGG_PAGE = b"OggS\0\0" + bytes(8) + struct.pack("<I", 1) + bytes(9)
CRAFTED = {
    "wav": lambda: filled(b"RIFF\xff\xff\xff\x7fWAVE", b"JUNK\0\0\0\0"),
    "wav-adpcm": lambda: filled(encode(TONE, "wav-adpcm"), b"JUNK\0\0\0\0"),
    "mp4": lambda: filled(box(b"ftyp", b"isom\0\0\0\0isom"), box(b"free", b"")),
    "m4a": lambda: filled(encode(TONE, "m4a"), box(b"moof", b"")),
    "ogg": lambda: filled(encode(TONE, "opus"), b"\0OggS"),
    "ogg-pages": lambda: filled(data := encode(TONE, "opus"), b"\0" + OGG_PAGE) + data[data.rindex(b"OggS") :],
    "aac": lambda: filled(b"", bytes.fromhex("fff1508000e0fc")),
    "id3": lambda: filled(b"ID3\4\0\0\x0b\x7f\x7f\x7f", b"PRIV\0\0\0\3\0\0a\0b") + encode(TONE, "mp3"),
    "webm": lambda: filled(encode(TONE, "webm"), b"\xec\x80"),
    "flac": lambda: filled(encode(TONE, "flac")[:42], b"\1\0\0\0"),
}
"""Files of which a demuxer has to look at millions of pieces before it gives the next sound."""


@pytest.mark.parametrize("kind", CRAFTED)
def test_millions_of_empty_pieces_do_not_take_long(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Measured, but in processor time, and what is allowed is the same on a slow machine."""
    data = CRAFTED[kind]()
    began_s = time.thread_time()
    with suppress(InvalidAudio):
        decode(io.BytesIO(data), max_duration_s=LIMIT_S)
    assert time.thread_time() - began_s < MAX_SEARCH_S + UPLOAD_BYTES * SEARCH_S_PER_BYTE + 1
    assert capfd.readouterr() == ("", "")


def test_a_wav_file_of_nothing_but_chunks_is_not_searched() -> None:
    data = CRAFTED["wav"]()
    began_s = time.thread_time()
    assert refusal(data).startswith("Audio file might be corrupted or unsupported")
    assert time.thread_time() - began_s < 0.5


def with_cover(kind: str, image: bytes) -> bytes:
    """Return a file with a picture ahead of its sound."""
    data = encode(TONE, kind)
    if kind == "mp3":
        tag = b"\0image/jpeg\0\3\0" + image
        tag = b"APIC" + syncsafe(len(tag)) + b"\0\0" + tag
        return b"ID3\4\0\0" + syncsafe(len(tag)) + tag + data
    picture = struct.pack(">II10s5II", 3, 10, b"image/jpeg", 0, 600, 600, 24, 0, len(image)) + image
    return data[:42] + b"\6" + len(picture).to_bytes(3, "big") + picture + data[42:]


def syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def fragmented(seconds: int) -> bytes:
    """Return an MP4 file whose every frame is a fragment of its own: what takes longest to list."""
    target = io.BytesIO()
    how = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    with (
        av.open(io.BytesIO(encode(np.tile(TONE, seconds), "m4a")), "r") as source,
        av.open(target, "w", format="mp4", options=how) as container,
    ):
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux():
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    return target.getvalue()


def index_last(between: bytes) -> bytes:
    data = encode(TONE, "m4a")
    index = data.rindex(b"moov") - 4
    return data[:index] + box(b"free", between) + data[index:]


HONEST = {
    **{kind: partial(encode, TONE, kind) for kind in KINDS},
    **{f"{kind}-cover": partial(with_cover, kind, bytes(range(256)) * 40_000) for kind in ("mp3", "flac")},
    **{f"{kind}-piped": partial(encode, TONE, kind, piped=True) for kind in ("webm", "mp3", "ts-video")},
    "m4a-index-last": partial(index_last, bytes(20_000_000)),
    "m4a-fragments": partial(fragmented, 50),
    "mp4-late": partial(encode, TONE, "mp4-video", video_s=50, delay_s=49),
}


@pytest.mark.parametrize("kind", HONEST)
def test_recordings_need_a_tenth_of_what_is_allowed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = HONEST[kind]()
    monkeypatch.setattr(decode_module, "MAX_SEARCH_S", MAX_SEARCH_S / 10)
    monkeypatch.setattr(decode_module, "SEARCH_S_PER_BYTE", SEARCH_S_PER_BYTE / 10)
    assert len(decode(io.BytesIO(data), max_duration_s=LIMIT_S)) >= 0.9 * SAMPLE_RATE


class Counted(io.BytesIO):
    """Counts what is asked of it; is closed at a given read, as by a client that leaves."""

    def __init__(self, data: bytes, close_at: int | None = None) -> None:
        super().__init__(data)
        self._close_at = close_at
        self.reads = 0
        self.late = 0
        """Reads and seeks after it was closed."""

    def read(self, size: int | None = -1) -> bytes:
        self.late += self.closed
        self.reads += 1
        if self.reads == self._close_at:
            self.close()
        return super().read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.late += self.closed
        return super().seek(offset, whence)


LEFT = ["wav-adpcm", "mp4", "m4a", "ogg", "aac", "webm"]


@pytest.mark.parametrize("kind", LEFT)
def test_a_file_that_is_closed_meanwhile_ends_without_a_word(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    source = Counted(CRAFTED[kind](), close_at=20)
    began_s = time.thread_time()
    with pytest.raises(InvalidAudio):
        decode(source, max_duration_s=LIMIT_S)
    assert source.closed
    assert time.thread_time() - began_s < 1
    assert source.late < 10_000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", LEFT)
def test_a_file_that_is_refused_midway_ends_without_a_word(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = Counted(CRAFTED[kind]())
    now = itertools.count()

    class Time:
        @staticmethod
        def thread_time() -> float:
            return 1e6 * (source.reads > 20) + next(now) / 1e9

    monkeypatch.setattr(metered, "time", Time)
    began_s = time.thread_time()
    with pytest.raises(InvalidAudio, match="takes too long"):
        decode(source, max_duration_s=LIMIT_S)
    assert time.thread_time() - began_s < 1
    assert source.reads < 30
    assert capfd.readouterr() == ("", "")
