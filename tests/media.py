"""Encodes a waveform as the files people upload, with the FFmpeg inside PyAV."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from deployments.audio.waveform import SAMPLE_RATE

DATA = Path(__file__).parent / "data"

LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


@dataclass(frozen=True)
class Kind:
    """A container with its codecs."""

    container: str
    codec: str
    rate: int = SAMPLE_RATE
    """Used where the caller asks for no rate."""
    channels: int = 1
    """Used where the caller asks for no number of channels."""
    video: str | None = None
    muxer: dict[str, str] = field(default_factory=dict)
    encoder: dict[str, str] = field(default_factory=dict)
    bit_rate: int | None = None


KINDS = {
    "wav": Kind("wav", "pcm_s16le"),
    "wav-8bit": Kind("wav", "pcm_u8"),
    "wav-24bit": Kind("wav", "pcm_s24le"),
    "wav-32bit": Kind("wav", "pcm_s32le"),
    "wav-float": Kind("wav", "pcm_f32le"),
    "wav-float64": Kind("wav", "pcm_f64le"),
    "wav-mulaw": Kind("wav", "pcm_mulaw", rate=8_000),
    "wav-alaw": Kind("wav", "pcm_alaw", rate=8_000),
    "wav-adpcm": Kind("wav", "adpcm_ms"),
    "rf64": Kind("wav", "pcm_s16le", muxer={"rf64": "always"}),
    "w64": Kind("w64", "pcm_s16le"),
    "aiff": Kind("aiff", "pcm_s16be", rate=44_100),
    "au": Kind("au", "pcm_s16be", rate=44_100),
    "caf": Kind("caf", "pcm_s16le", rate=44_100),
    "flac": Kind("flac", "flac"),
    "mp3": Kind("mp3", "libmp3lame", rate=44_100),
    "mp3-no-header": Kind("mp3", "libmp3lame", rate=44_100, muxer={"write_xing": "0"}),
    "mp3-vbr-no-header": Kind(
        "mp3",
        "libmp3lame",
        rate=44_100,
        muxer={"write_xing": "0"},
        encoder={"global_quality": "236", "flags": "+qscale"},
    ),
    "mp2": Kind("mp2", "mp2", rate=44_100),
    "aac": Kind("adts", "aac", rate=44_100),
    "ac3": Kind("ac3", "ac3", rate=44_100),
    "amr": Kind("amr", "libopencore_amrnb", rate=8_000),
    "wma": Kind("asf", "wmav2", rate=44_100, bit_rate=96_000),
    "ogg-vorbis": Kind("ogg", "vorbis", rate=44_100, channels=2, encoder={"strict": "experimental"}),
    "ogg-flac": Kind("ogg", "flac"),
    "opus": Kind("ogg", "libopus", rate=48_000),
    "m4a": Kind("ipod", "aac", rate=44_100),
    "m4a-fragmented": Kind("mp4", "aac", rate=44_100, muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "alac": Kind("ipod", "alac", rate=44_100),
    "3gp": Kind("3gp", "libopencore_amrnb", rate=8_000),
    "webm": Kind("webm", "libopus", rate=48_000),
    "mka": Kind("matroska", "flac", rate=44_100),
    "mp4-video": Kind("mp4", "aac", rate=44_100, channels=2, video="mpeg4"),
    "mp4-video-index-first": Kind("mp4", "aac", rate=44_100, channels=2, video="mpeg4", muxer={"moov_size": "20000"}),
    "mov-video": Kind("mov", "pcm_s16le", rate=48_000, channels=2, video="mpeg4"),
    "webm-video": Kind("webm", "libopus", rate=48_000, channels=2, video="libvpx"),
    "mkv-video": Kind("matroska", "libmp3lame", rate=44_100, channels=2, video="mpeg4"),
    "avi-video": Kind("avi", "libmp3lame", rate=44_100, channels=2, video="mpeg4"),
    "flv-video": Kind("flv", "aac", rate=44_100, channels=2, video="flv"),
    "ts-video": Kind("mpegts", "aac", rate=44_100, channels=2, video="mpeg2video"),
}


class _Pipe:
    """What a recorder without a disk writes into: it cannot go back and complete its header."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)


def encode(
    waveform: NDArray[np.float32],
    kind: str,
    *,
    rate: int | None = None,
    channels: int | None = None,
    video_s: float | None = None,
    delay_s: float = 0.0,
    pause: tuple[float, float] | None = None,
    restamp: Callable[[float], float] | None = None,
    piped: bool = False,
) -> bytes:
    """Encode sound as a file of one of `KINDS`.

    Args:
        waveform: mono at 16 kHz, `(samples,)`; or `(channels, samples)` that are at `rate` already.
        rate: samples per second of the file; each kind has one that suits it.
        channels: how often a mono waveform is repeated.
        video_s: length of the picture of video kinds, by default that of the sound.
        delay_s: how much later than the file, or its picture, the sound begins.
        pause: from which second on the recorder paused and for how many, which only time stamps tell.
        restamp: seconds of a packet of the sound to those that are written.
        piped: write as into a pipe, so that no header learns how long the file became.
    """
    how = KINDS[kind]
    rate = rate or how.rate
    if waveform.ndim == 1:
        resampled = soxr.resample(waveform, SAMPLE_RATE, rate)
        waveform = np.tile(resampled, (channels or how.channels, 1))

    def stamped(packet: "Packet[AudioStream]") -> "Packet[AudioStream]":
        if packet.pts is not None and (restamp is not None or pause is not None):
            stamp_s = float(packet.pts * packet.time_base)
            later_s = pause[1] if pause is not None and stamp_s >= pause[0] else 0.0
            stamp_s = restamp(stamp_s) if restamp is not None else stamp_s
            packet.pts = packet.dts = round((stamp_s + later_s) / packet.time_base)
        return packet

    target = _Pipe() if piped else io.BytesIO()
    with av.open(target, "w", format=how.container, options=how.muxer) as container:
        picture = _add_picture(container, how.video) if how.video is not None else None
        sound = container.add_stream(how.codec, rate=rate, layout=LAYOUTS[len(waveform)])
        assert isinstance(sound, AudioStream)
        sound.codec_context.options = how.encoder
        if how.bit_rate is not None:
            sound.codec_context.bit_rate = how.bit_rate
        if picture is None:
            _write_sound(container, sound, waveform, round(delay_s * rate), stamped)
        else:
            _write_both(container, sound, waveform, picture, video_s or waveform.shape[1] / rate, delay_s, stamped)
    return bytes(target.written) if isinstance(target, _Pipe) else target.getvalue()


def encode_picture_only(kind: str, seconds: float = 1.0) -> bytes:
    """Encode a video of a video kind without any sound."""
    how = KINDS[kind]
    assert how.video is not None
    target = io.BytesIO()
    with av.open(target, "w", format=how.container) as container:
        picture = _add_picture(container, how.video)
        for number in range(round(seconds * 10)):
            container.mux(picture.encode(_picture(number)))
        container.mux(picture.encode(None))
    return target.getvalue()


Stamped = Callable[["Packet[AudioStream]"], "Packet[AudioStream]"]


def _write_sound(
    container: OutputContainer, sound: AudioStream, waveform: NDArray[np.float32], later: int, stamped: Stamped
) -> None:
    for start in range(0, waveform.shape[1], 4096):
        frame = _frame(waveform[:, start : start + 4096], sound.rate, start + later)
        container.mux([stamped(packet) for packet in sound.encode(frame)])
    container.mux([stamped(packet) for packet in sound.encode(None)])


def _write_both(
    container: OutputContainer,
    sound: AudioStream,
    waveform: NDArray[np.float32],
    picture: VideoStream,
    video_s: float,
    delay_s: float,
    stamped: Stamped,
) -> None:
    """Write sound and picture by turns of a tenth of a second, as recorders do."""
    tenth = sound.rate // 10
    for number in range(max(round(video_s * 10), -(-waveform.shape[1] // tenth))):
        start = number * tenth
        if number < video_s * 10:
            container.mux(picture.encode(_picture(number)))
        if start < waveform.shape[1]:
            later = start + round(delay_s * sound.rate)
            frame = _frame(waveform[:, start : start + tenth], sound.rate, later)
            container.mux([stamped(packet) for packet in sound.encode(frame)])
    container.mux([stamped(packet) for packet in sound.encode(None)])
    container.mux(picture.encode(None))


def _add_picture(container: OutputContainer, codec: str) -> VideoStream:
    rate = 25 if codec == "mpeg2video" else 10
    picture = container.add_stream(codec, rate=rate)
    assert isinstance(picture, VideoStream)
    picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
    return picture


def _picture(number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.full((72, 64), 40 + number % 100, np.uint8), format="yuv420p")
    frame.pts = number
    return frame


def _frame(samples: NDArray[np.float32], rate: int, start: int) -> av.AudioFrame:
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=LAYOUTS[len(samples)])
    frame.sample_rate = rate
    frame.pts = start
    return frame
