"""Sound out of media files with FFmpeg, which comes inside PyAV's wheel.

FFmpeg is kept on a short lead. Only demuxers of media files are let near the bytes and no protocol is allowed, so that
an uploaded playlist cannot make it open another file or address; only audio decoders run; it decodes frame by frame
into the resampler, with a limit on what it may allocate, so that memory does not grow with what a file unpacks to; and
it is stopped when it computes for too long without a result (`metered.py`).
"""

import ctypes
from collections.abc import Iterator
from typing import BinaryIO, cast

import av
import av._core
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from numpy.typing import NDArray

from deployments.audio import mp4, refusals
from deployments.audio.gaps import Gaps
from deployments.audio.metered import Allowance, MeteredFile
from deployments.audio.promise import Promise, read_promise
from deployments.audio.resample import MAX_CHANNELS, MAX_RATE, MIN_RATE, Resampler, mix_down
from deployments.audio.waveform import Waveform
from deployments.audio.wholeness import TOLERANCE_S, Passage, refuse_if_incomplete

_DEMUXERS = (
    "aac ac3 aiff amr ape asf au avi caf dts eac3 flac flv loas matroska mov mp3 mpeg mpegts nistsphere ogg sox "
    "tta voc w64 wav wv"
)
_DECODERS = (
    "aac aac_latm ac3 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha alac amrnb amrwb ape dca eac3 flac "
    "g723_1 gsm gsm_ms libopencore_amrnb libopencore_amrwb libopus mp1 mp1float mp2 mp2float mp3 mp3float opus "
    "pcm_alaw pcm_bluray pcm_dvd pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be pcm_s16be_planar "
    "pcm_s16le pcm_s16le_planar pcm_s24be pcm_s24le pcm_s24le_planar pcm_s32be pcm_s32le pcm_s32le_planar pcm_s8 "
    "pcm_s8_planar pcm_u16be pcm_u16le pcm_u8 speex tta vorbis wavpack wmalossless wmapro wmav1 wmav2 wmavoice"
)
MAX_STREAMS = 100
"""Video, sound, subtitles and attachments of one file. Matroska files with all their fonts stay below."""

_OPTIONS = {
    "max_streams": str(MAX_STREAMS + 1),  # further ones are ignored, not an error
    "format_whitelist": _DEMUXERS.replace(" ", ","),
    "codec_whitelist": _DECODERS.replace(" ", ","),
    "protocol_whitelist": "",
}
# Beside FFmpeg's errors PyAV raises these for values in crafted headers that it cannot represent, the last one for a
# stream that it has no decoder for: all mean that this file cannot be read, and a client is told so.
_FFMPEG_ERRORS = (av.FFmpegError, ValueError, ArithmeticError, LookupError, MemoryError, NotImplementedError)

_PACKETS_PER_S = 2_000
"""No encoder writes packets under a millisecond; a file of single samples would keep a thread busy for minutes."""

_MAX_FRAME_VALUES = 2**23
"""Samples of all channels together in one frame. The largest that encoders write have 1.2 million a channel (APE)."""

_MAX_ALLOCATION_BYTES = 128 * 1024 * 1024
"""Headers can be compressed and tell how large they are unpacked: a MOV file of 1 MB can ask for 2 GB. FFmpeg's own
tables for a video of many hours need some ten MB."""

_BLOCK = 16_384  # samples per channel that are mixed and resampled at a time

_PLANES = 8
"""From so many planes on PyAV 18.1 reads pointers behind the end of FFmpeg's array of planes (`AudioFrame.planes`)."""

av.logging.set_level(None)  # FFmpeg's own words help no caller and would fill the log
# For every single allocation in the whole process. PyAV has no function for it; FFmpeg's is found through its module.
ctypes.CDLL(av._core.__file__).av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION_BYTES))


def decode_track(source: BinaryIO, max_duration_s: float, allowance: Allowance) -> Iterator[Waveform]:
    """Decode the default or else first audio track of a media file, resampled to one mono waveform.

    Yields:
        It in chunks of any length, perhaps none; not checked for their range or for NaN.

    Raises:
        InvalidAudio: no media, no sound, longer than `max_duration_s`, cut off, damaged, or too much work.
    """
    file = MeteredFile(source, allowance)
    try:
        # Tags in other encodings than UTF-8 are common, and of no interest.
        with av.open(file, "r", options=_OPTIONS, metadata_errors="ignore") as container:
            track = _choose_track(container, file)
            promise = read_promise(container, track, file)
            _refuse_if_promised_too_long(promise, max_duration_s)
            passage = Passage(container, track)
            yield from _Decoding(container, track, passage, promise, max_duration_s, allowance).chunks()
            refuse_if_incomplete(passage, promise, file)
    except _FFMPEG_ERRORS as error:
        refusal = refusals.without_index() if mp4.ends_before_index(file) else refusals.unsupported()
        raise refusal from error


def _choose_track(container: InputContainer, file: MeteredFile) -> AudioStream:
    if len(container.streams) > MAX_STREAMS:
        raise refusals.unusual(f"more than {MAX_STREAMS} streams in one file")
    tracks = container.streams.audio
    if not tracks:
        raise refusals.without_index() if mp4.ends_before_index(file) else refusals.no_track()
    track = next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
    if track.codec_context is None or track.codec_context.codec.name not in _DECODERS.split():
        raise refusals.unsupported()
    track.codec_context.thread_count = 1  # requests are what runs in parallel
    return track


def _refuse_if_promised_too_long(promise: Promise | None, max_duration_s: float) -> None:
    """Spare the decoding of what is too long anyway. Headers count padding, so close calls are left to `_Decoding`."""
    if promise is None or promise.clock == "container":  # the picture may be longer than the sound
        return
    if promise.seconds > max_duration_s + TOLERANCE_S:
        raise refusals.too_long(max_duration_s, duration_s=promise.seconds)


class _Decoding:
    """One pass over a track; what was decoded, passed by and lost on the way is noted in `passage`."""

    def __init__(
        self,
        container: InputContainer,
        track: AudioStream,
        passage: Passage,
        promise: Promise | None,
        max_duration_s: float,
        allowance: Allowance,
    ):
        self._container = container
        self._passage = passage
        self._gaps = Gaps(container, track)
        promised_s = max(promise.seconds if promise is not None else 0.0, (container.duration or 0) / 1_000_000)
        self._ends_s = promised_s + TOLERANCE_S if promised_s else max_duration_s
        """A time stamp that leads further is wrong."""
        self._allowance = allowance
        self._track = track
        self._max_duration_s = max_duration_s
        self._silence_s = 0.0  # of what was decoded, what is in no packet
        self._frame_s = 0.0  # length of the last frame
        self._packet_count = 0

    def chunks(self) -> Iterator[Waveform]:
        """Yield the track piece by piece, mono at `SAMPLE_RATE`.

        Raises:
            InvalidAudio: as soon as more than the longest recording has been decoded.
        """
        resampler: Resampler | None = None
        for rate, samples in self._blocks():
            if resampler is None or resampler.rate != rate:
                if resampler is not None:
                    yield resampler.finish()
                resampler = Resampler(rate)
            yield resampler.push(mix_down(samples))
        if resampler is not None:
            yield resampler.finish()

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Yield sample rates and `(channels, samples)`. Frames are so short that they are joined by the dozen."""
        block: list[AudioFrame] = []
        samples = 0
        for missing_s, frame in self._frames():
            if block and (missing_s or _kind(frame) != _kind(block[0]) or samples >= _BLOCK):
                yield block[0].sample_rate, _join(block)
                block, samples = [], 0
            yield from _silence(missing_s, frame.sample_rate)
            block.append(frame)
            samples += frame.samples
        if block:
            yield block[0].sample_rate, _join(block)

    def _frames(self) -> Iterator[tuple[float, AudioFrame]]:
        """Yield frames, each with the seconds of silence before it."""
        for packet in self._packets():
            for frame in self._decode(packet):
                _refuse_unusual(frame)
                missing_s = self._missing_before(frame)
                self._frame_s = frame.samples / frame.sample_rate
                self._passage.decoded_s += missing_s + self._frame_s
                if self._passage.decoded_s > self._max_duration_s + 1e-6:  # sums of floats
                    raise refusals.too_long(self._max_duration_s)
                self._allowance.heard()
                yield missing_s, frame

    def _missing_before(self, frame: AudioFrame) -> float:
        missing_s = self._gaps.before(frame, self._passage.decoded_s)
        if not missing_s:
            return 0.0
        if self._passage.decoded_s + missing_s > self._ends_s:
            self._gaps.go_on(missing_s)
            return 0.0
        if self._gaps.is_damage(missing_s, self._passage.decoded_s - self._silence_s):
            self._passage.lost_s += missing_s
        self._silence_s += missing_s
        return missing_s

    def _packets(self) -> "Iterator[Packet[AudioStream]]":
        """Demux the track. The other tracks pass by too, as their time stamps tell how far the file goes."""
        try:
            for packet in self._container.demux():
                self._allowance.check()
                self._gaps.note(packet)
                self._passage.note(packet)
                if packet.stream is self._track:  # the last, empty packets have no index of their own
                    self._packet_count += 1
                    if self._packet_count > _PACKETS_PER_S * (10 + self._passage.decoded_s - self._silence_s):
                        raise refusals.unsupported()
                    yield cast("Packet[AudioStream]", packet)
        except av.FFmpegError:
            self._passage.broke_off = True

    def _decode(self, packet: "Packet[AudioStream]") -> list[AudioFrame]:
        try:
            return packet.decode()
        except av.FFmpegError:
            # A packet that does not say how long it is counts like the frame before it.
            self._passage.lost_s += float(packet.duration * packet.time_base) if packet.duration else self._frame_s
            return []


def _silence(seconds: float, rate: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Blocks as of any other sound."""
    samples = round(seconds * rate)
    while samples > 0:
        block = min(samples, _BLOCK)
        yield rate, np.zeros((1, block), np.float32)
        samples -= block


def _refuse_unusual(frame: AudioFrame) -> None:
    if not MIN_RATE <= frame.sample_rate <= MAX_RATE:
        raise refusals.unusual(f"{frame.sample_rate} samples per second")
    if frame.layout.nb_channels > MAX_CHANNELS:
        raise refusals.unusual(f"{frame.layout.nb_channels} channels")
    if frame.samples * frame.layout.nb_channels > _MAX_FRAME_VALUES:
        raise refusals.unusual(f"frames of {frame.samples} samples")


def _kind(frame: AudioFrame) -> tuple[int, str, int]:
    return frame.sample_rate, frame.format.name, frame.layout.nb_channels


def _join(frames: list[AudioFrame]) -> NDArray[np.generic]:
    """Return the samples of frames of one kind as `(channels, samples)`."""
    if frames[0].format.is_planar and frames[0].layout.nb_channels >= _PLANES:
        packer = av.AudioResampler(frames[0].format.packed, frames[0].layout, frames[0].sample_rate)
        frames = [packed for frame in frames for packed in packer.resample(frame)]
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return samples if frames[0].format.is_planar else samples.reshape(-1, frames[0].layout.nb_channels).T
