"""What a small file may cost: streams, memory and processor time are bounded, whatever its header says."""

import io
import itertools
import struct
import subprocess
import sys
import textwrap
import zlib

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream

from deployments.audio import metered
from deployments.audio.decode import MAX_WORK_S, decode, decode_blocks
from deployments.audio.media import MAX_STREAMS
from deployments.exceptions import InvalidAudio
from deployments.transcription.utterance import SAMPLE_RATE
from tests.media import encode

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
