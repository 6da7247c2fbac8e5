"""Whatever bytes are sent: a sound waveform or a polite refusal, nothing opened, nothing printed, nothing exploding."""

import ctypes
import io
import os
import random
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deployments.audio import media
from deployments.audio.decode import MIN_DURATION_S, decode
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import InvalidAudio
from tests.media import KINDS, encode, encode_picture_only

LIMIT_S = 5.0
TONE = (0.5 * np.sin(np.arange(SAMPLE_RATE) / 7)).astype(np.float32)
FILES = {kind: encode(TONE, kind) for kind in KINDS}
PDF = b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer\n<< /Root 1 0 R >>\n%%EOF\n"
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 32, 32, 8, 2, 0, 0, 0) + b"\0" * 4
GIF = b"GIF89a\x20\0\x20\0\xf0\0\0" + b"\0" * 200 + b";"


def polite(error: InvalidAudio) -> InvalidAudio:
    """Check that a refusal says what OpenAI's clients expect and nothing about the inside."""
    assert error.param == "file"
    assert error.code in ("invalid_value", "audio_too_short")
    assert error.message[0].isupper() or error.message.startswith("audio duration")
    assert not any(word in error.message for word in ("Errno", "av.", "Traceback", "/", "FFmpeg", "<none>"))
    return error


def outcome(data: bytes) -> InvalidAudio | None:
    """Decode, check everything `decode` promises about its result, and return the refusal if there was one."""
    try:
        waveform = decode(io.BytesIO(data), max_duration_s=LIMIT_S)
    except InvalidAudio as error:
        return polite(error)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert waveform.flags.c_contiguous
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() <= 1
    assert MIN_DURATION_S * SAMPLE_RATE <= len(waveform) <= LIMIT_S * SAMPLE_RATE + 1
    return None


def test_an_empty_file() -> None:
    error = outcome(b"")
    assert error is not None
    assert error.message.startswith("The file is empty.")
    assert error.code == "invalid_value"


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"RIFF",
        b"\0" * 100_000,
        b"hello, world\n" * 5_000,
        b'{"file": "a.wav"}',
        b"<!DOCTYPE html><html><body>404</body></html>",
        "语音识别".encode() * 1_000,
        PDF * 20,
        PNG + zlib.compress(random.Random(0).randbytes(5_000)),
        GIF,
        b"PK\3\4" + random.Random(1).randbytes(20_000),
        b"\x7fELF" + random.Random(2).randbytes(20_000),
        b"\xff\xd8\xff\xe0\0\x10JFIF\0" + random.Random(3).randbytes(20_000),
        b"ID3\4\0\0\0\0\0\x10" + b"\0" * 16,
        b"fLaC",
        b"OggS" * 1_000,
        b"\x1aE\xdf\xa3" + b"\0" * 100,
        b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n",
        b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    ],
)
def test_no_media(data: bytes) -> None:
    error = outcome(data)
    assert error is not None
    assert error.code == "invalid_value"
    assert error.message.startswith("Audio file might be corrupted or unsupported")


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes(seed: int) -> None:
    assert outcome(random.Random(seed).randbytes(30_000)) is not None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("-video")])
def test_picture_without_sound(kind: str) -> None:
    error = outcome(encode_picture_only(kind))
    assert error is not None
    assert error.message == "The file has no audio track. Send a recording with sound."


class OpenWatch:
    """Counts how often a file is opened by anybody, in C as well: Linux' inotify."""

    _IN_OPEN = 0x20

    def __init__(self, path: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._events, str(path).encode(), self._IN_OPEN) >= 0

    def count(self) -> int:
        """Return how often since the last call; at most the latest of equal events in a row counts."""
        try:
            return len(os.read(self._events, 4096)) // 16
        except BlockingIOError:
            return 0

    def close(self) -> None:
        os.close(self._events)


@pytest.fixture
def sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good recording on the server's disk that no upload may reach."""
    path = tmp_path / "secret.wav"
    path.write_bytes(FILES["wav"])
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def opened(sentinel: Path) -> Iterator[OpenWatch]:
    watch = OpenWatch(sentinel)
    yield watch
    watch.close()


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{reference}\n#EXT-X-ENDLIST\n"
HLS_OF_PLAYLISTS = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{reference}\n"
HLS_WITH_KEY = (
    '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{reference}"\n'
    '#EXT-X-MAP:URI="{reference}"\n#EXTINF:1.0,\n{reference}\n#EXT-X-ENDLIST\n'
)
CONCAT = "ffconcat version 1.0\nfile '{reference}'\n"
CONCAT_WITH_OPTION = "ffconcat version 1.0\nfile '{reference}'\noption protocol_whitelist file,http,tcp\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\na=control:{reference}\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{reference}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
IMF = (
    '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:1</Id>'
    "<SegmentList><Segment><Id>{reference}</Id></Segment></SegmentList></CompositionPlaylist>"
)
REFERRING = (
    HLS, HLS_OF_PLAYLISTS, HLS_WITH_KEY, CONCAT, CONCAT_WITH_OPTION, SDP, DASH, IMF,
    "[playlist]\nFile1={reference}\nNumberOfEntries=1\n",
    "RTSPtext{reference}",
    "{reference}",
    '<asx version="3.0"><entry><ref href="{reference}"/></entry></asx>',
)  # fmt: skip


@pytest.mark.parametrize(
    "reference",
    ["{path}", "file://{path}", "secret.wav", "file:secret.wav", "concat:{path}|{path}", "subfile,,:{path}"],
)
@pytest.mark.parametrize("playlist", REFERRING)
def test_playlists_reach_no_file(playlist: str, reference: str, sentinel: Path, opened: OpenWatch) -> None:
    error = outcome(playlist.format(reference=reference.format(path=sentinel)).encode())
    assert error is not None
    assert error.message.startswith("Audio file might be corrupted or unsupported")
    assert opened.count() == 0


@pytest.mark.usefixtures("sentinel")
def test_ffmpeg_left_to_itself_would_follow_a_playlist(opened: OpenWatch) -> None:
    with av.open(io.BytesIO(CONCAT.format(reference="secret.wav").encode())) as container:
        assert container.streams.audio
    assert opened.count() > 0


@pytest.mark.parametrize(
    "scheme", ["http", "https", "tcp", "tls", "rtmp", "rtsp", "ftp", "gopher", "concat:http", "hls+http"]
)
@pytest.mark.parametrize("playlist", REFERRING)
def test_playlists_reach_no_address(playlist: str, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        reference = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/a.ts"
        assert outcome(playlist.format(reference=reference).encode()) is not None
        with pytest.raises(BlockingIOError):
            server.accept()


def test_ffmpeg_left_to_itself_would_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        callers: list[object] = []

        def hang_up() -> None:
            connection, caller = server.accept()
            callers.append(caller)
            connection.close()

        answering = threading.Thread(target=hang_up)
        answering.start()
        playlist = CONCAT.format(reference=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(av.FFmpegError):
            av.open(io.BytesIO(playlist.encode()), options={"protocol_whitelist": "tcp", "safe": "0"})
        answering.join()
        assert len(callers) == 1


def test_no_demuxer_that_refers_to_elsewhere_is_let_near() -> None:
    allowed = set(media._DEMUXERS.split())
    assert allowed.isdisjoint(
        {"applehttp", "concat", "dash", "ffmetadata", "hls", "image2", "image2pipe", "imf", "lavfi", "mpjpeg", "rtp"}
        | {"rtsp", "sap", "sdp", "vobsub", "webm_dash_manifest"}
    )
    assert media._OPTIONS["protocol_whitelist"] == ""


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_printed(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = FILES[kind]
    for damaged in (data, data[: len(data) // 2], data[: len(data) // 2] + b"\x5a" * 2_000 + data[len(data) // 2 :]):
        outcome(damaged)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", KINDS)
def test_mutations(kind: str) -> None:
    """Flipped, cut, repeated and swapped bytes in otherwise good files, most of them in the header."""
    chance = random.Random(kind)
    for _ in range(15):
        data = bytearray(FILES[kind])
        for _ in range(chance.choice([1, 3, 30])):
            reach = chance.choice([64, 1_024, len(data)])
            at = chance.randrange(min(reach, len(data)) or 1)
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    data[at : at + 4] = chance.choice(
                        [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80"]
                    )
                case 2:
                    del data[at : at + chance.randrange(1, 200)]
                case 3:
                    data[at:at] = data[at : at + chance.randrange(1, 200)]
        outcome(bytes(data))


FIELDS = st.integers(0, 0xFFFF) | st.sampled_from([0, 1, 2, 3, 6, 7, 8, 0x11, 0x55, 0xFFFE, 0xFFFF])
SIZES = st.integers(0, 0xFFFF_FFFF) | st.sampled_from([0, 1, 7_999, 8_000, 0x7FFF_F000, 0xFFFF_FFFF])
RATES = SIZES | st.sampled_from([8_000, 16_000, 44_100, 192_000])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    riff=st.sampled_from([b"RIFF", b"RF64", b"RIFX", b"BW64"]),
    tag=FIELDS,
    channels=FIELDS,
    rate=RATES,
    byte_rate=SIZES,
    align=FIELDS,
    bits=FIELDS | st.sampled_from([8, 16, 24, 32, 64]),
    fmt_size=st.sampled_from([0, 14, 16, 18, 40, 0xFFFF_FFFF]),
    data_size=SIZES,
    sound=st.binary(max_size=200).map(lambda piece: piece * 40),
)
@example(b"RIFF", 1, 65_535, 0xFFFF_FFFF, 0, 65_535, 8, 16, 0xFFFF_FFFF, bytes(8_000))
@example(b"RIFF", 1, 0, 16_000, 0, 0, 16, 16, 8_000, bytes(8_000))
@example(b"RIFF", 1, 1, 1, 2, 2, 16, 16, 8_000, bytes(8_000))
@example(b"RF64", 3, 1, 16_000, 64_000, 4, 32, 16, 8_000, b"\xff" * 8_000)
def test_any_wav_header(
    riff: bytes, tag: int, channels: int, rate: int, byte_rate: int, align: int, bits: int, fmt_size: int,
    data_size: int, sound: bytes,
) -> None:  # fmt: skip
    fmt = struct.pack("<HHIIHH", tag, channels, rate, byte_rate, align, bits)
    head = riff + struct.pack("<I4s4sI", data_size, b"WAVE", b"fmt ", fmt_size) + fmt
    outcome(head + struct.pack("<4sI", b"data", data_size) + sound)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=400), start=st.sampled_from([*(data[:40] for data in FILES.values()), b""]))
def test_any_bytes_behind_a_known_beginning(start: bytes, data: bytes) -> None:
    outcome(start + data)


def test_many_tiny_chunks_do_not_take_long() -> None:
    assert outcome(b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 200_000) is not None


def test_a_file_of_single_samples_does_not_take_long() -> None:
    """With so absurd a count of frames per packet FFmpeg reads this CAF sample by sample."""
    data = bytearray(encode(np.tile(TONE, 4), "caf"))
    data[40:44] = b"\0\x52\0\1"
    error = outcome(bytes(data))
    assert error is not None
    assert error.message.startswith("Audio file might be corrupted or unsupported")


@pytest.mark.parametrize("rate", [1, 3_999, 768_001, 0x7FFF_FFFF])
def test_absurd_rates(rate: int) -> None:
    fmt = struct.pack("<HHIIHH", 1, 1, rate, min(2 * rate, 0xFFFF_FFFF), 2, 16)
    data = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + fmt + b"data\x40\x9c\0\0" + bytes(40_000)
    assert outcome(data) is not None


def test_what_unpacks_to_hours_is_stopped_at_the_limit() -> None:
    """Silence packs so well that a small upload could fill the memory."""
    silence = encode(np.zeros(120 * SAMPLE_RATE, np.float32), "flac", piped=True)
    assert len(silence) < 50_000
    error = outcome(silence)
    assert error is not None
    assert "longer than 5 seconds" in error.message
