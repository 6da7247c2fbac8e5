"""Every kind of file people upload comes out as the sound that went in, or is refused with words that help."""

import io
import re
import struct
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any, BinaryIO, cast

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.audio import media
from deployments.audio.decode import decode
from deployments.audio.gaps import Gaps
from deployments.audio.matroska import first_cluster
from deployments.audio.metered import Allowance, MeteredFile
from deployments.audio.ogg import Pages, read_pages
from deployments.audio.refusals import SUPPORTED
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.exceptions import InvalidAudio
from tests.media import DATA, KINDS, LAYOUTS, encode

LIMIT_S = 60.0
JFK_S = 11.0

EXACT = ["wav", "wav-24bit", "wav-32bit", "wav-float", "wav-float64", "rf64", "w64", "flac", "ogg-flac"]
EIGHT_KHZ = ["wav-mulaw", "wav-alaw", "amr", "3gp"]
IN_TIME = {"mp3", "m4a", "ogg-vorbis", "opus", "webm", "mp4-video", "webm-video", "mkv-video", *EXACT}
"""Kinds that say how much padding their encoder put in front; the others carry up to 50 ms of it."""

PROMISING = [
    *("wav", "wav-8bit", "wav-mulaw", "wav-adpcm", "rf64", "w64", "aiff", "au", "caf", "flac", "mp3", "wma", "webm"),
    *("mka", "mkv-video", "webm-video", "avi-video", "flv-video", "mp4-video-index-first", "m4a-fragmented"),
]
"""Kinds whose first half alone tells how long the whole was."""


def decode_bytes(data: bytes, max_duration_s: float = LIMIT_S) -> Waveform:
    return decode(io.BytesIO(data), max_duration_s=max_duration_s)


def refusal(data: bytes, max_duration_s: float = LIMIT_S) -> InvalidAudio:
    with pytest.raises(InvalidAudio) as caught:
        decode_bytes(data, max_duration_s)
    assert caught.value.param == "file"
    return caught.value


def _metered(data: bytes) -> MeteredFile:
    return MeteredFile(io.BytesIO(data), Allowance(60, 60))


def _pages(data: bytes) -> Pages:
    return read_pages(_metered(data))


def delay_and_match(heard: Waveform, sent: Waveform) -> tuple[int, float]:
    """Return by how many samples `heard` comes later, and how well the two correlate when that is taken out."""
    size = 1 << (len(heard) + len(sent)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sent, size)), size)
    delay = (int(correlation.argmax()) + size // 2) % size - size // 2
    heard, sent = heard[max(0, delay) :], sent[max(0, -delay) :]
    shorter = min(len(heard), len(sent))
    return delay, float(np.corrcoef(heard[:shorter], sent[:shorter])[0, 1])


def tone(seconds: float, hertz: float = 440.0, rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def riff(fmt: bytes, data: bytes, size: int | None = None, before: bytes = b"") -> bytes:
    """Write a WAV file by hand, so that its data chunk can lie about its size."""
    size = len(data) if size is None else size
    head = b"WAVE" + struct.pack("<4sI", b"fmt ", len(fmt)) + fmt + before + struct.pack("<4sI", b"data", size)
    return b"RIFF" + struct.pack("<I", min(0xFFFF_FFFF, len(head) + size)) + head + data


def pcm_format(rate: int = SAMPLE_RATE, channels: int = 1, bits: int = 16, tag: int = 1) -> bytes:
    align = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * align, align, bits)


def int16(waveform: NDArray[np.float32]) -> bytes:
    return (waveform * 32767).round().astype("<i2").tobytes()


@cache
def recording() -> Waveform:
    return decode_bytes((DATA / "jfk.flac").read_bytes())


@cache
def encoded(kind: str) -> bytes:
    """The fixture `speech` as a file; kept, as encoding is what takes the time here."""
    return encode(recording()[: 3 * SAMPLE_RATE], kind)


@pytest.fixture
def jfk() -> Waveform:
    return recording()


@pytest.fixture
def speech(jfk: Waveform) -> Waveform:
    """Three seconds of speech."""
    return jfk[: 3 * SAMPLE_RATE]


def test_a_real_recording(jfk: Waveform) -> None:
    assert len(jfk) == JFK_S * SAMPLE_RATE
    assert jfk.dtype == np.float32
    assert jfk.ndim == 1
    assert jfk.flags.c_contiguous
    assert 0.3 < np.abs(jfk).max() <= 1


class TestKinds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_sounds_like_what_was_encoded(self, kind: str, speech: Waveform) -> None:
        heard = decode_bytes(encoded(kind))
        delay, match = delay_and_match(heard, speech)
        assert match > (0.85 if kind in ("amr", "3gp") else 0.97)
        assert abs(delay) <= (2 if kind in IN_TIME else 0.05 * SAMPLE_RATE)
        assert abs(len(heard) - len(speech)) <= 0.13 * SAMPLE_RATE

    @pytest.mark.parametrize("kind", EXACT)
    def test_lossless_kinds_lose_nothing(self, kind: str, speech: Waveform) -> None:
        heard = decode_bytes(encoded(kind))
        assert len(heard) == len(speech)
        np.testing.assert_allclose(heard, speech, atol=1 / 32768)

    def test_16_bit_samples_come_out_exactly(self) -> None:
        samples = np.random.default_rng(0).integers(-(2**15), 2**15, 5_000).astype("<i2")
        heard = decode_bytes(riff(pcm_format(), samples.tobytes()))
        np.testing.assert_array_equal(heard, samples / np.float32(32768))

    @pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
    @pytest.mark.parametrize("kind", ["wav", "wav-8bit", "wav-24bit", "wav-32bit", "wav-float", "wav-float64"])
    def test_wav_reads_the_same_without_ffmpeg(self, kind: str, rate: int, speech: Waveform) -> None:
        data = encode(speech[:SAMPLE_RATE], kind, rate=rate, channels=2)
        by_ffmpeg = np.concatenate(list(media.decode_track(io.BytesIO(data), LIMIT_S, Allowance(60, 60))))
        np.testing.assert_allclose(decode_bytes(data), by_ffmpeg, atol=1e-6)

    @pytest.mark.parametrize("kind", ["wav", "flac", "ogg-flac"])
    @pytest.mark.parametrize("channels", range(1, 9))
    def test_channels_are_averaged(self, kind: str, channels: int) -> None:
        each = np.stack([tone(0.5, 200 + 100 * channel) for channel in range(channels)])
        heard = decode_bytes(encode(each, kind, rate=SAMPLE_RATE))
        np.testing.assert_allclose(heard, each.mean(axis=0), atol=1e-4)

    @pytest.mark.parametrize("kind", ["wav", "wav-float", "flac", "aiff", "mka"])
    @pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])
    def test_rates(self, kind: str, rate: int) -> None:
        heard = decode_bytes(encode(tone(0.5, rate=rate)[None], kind, rate=rate))
        assert len(heard) == pytest.approx(0.5 * SAMPLE_RATE, abs=1)
        inner = slice(400, 7_600)
        np.testing.assert_allclose(heard[inner], tone(0.5)[inner], atol=2e-3)

    @pytest.mark.parametrize("kind", ["mp3", "opus", "aac"])
    @pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
    def test_rates_of_lossy_kinds(self, kind: str, rate: int, speech: Waveform) -> None:
        assert delay_and_match(decode_bytes(encode(speech, kind, rate=rate)), speech)[1] > 0.95

    @pytest.mark.parametrize("kind", ["m4a", "opus"])
    @pytest.mark.parametrize("channels", [1, 2, 6, 8])
    def test_channels_of_lossy_kinds(self, kind: str, channels: int, speech: Waveform) -> None:
        sent = speech[: 2 * SAMPLE_RATE]
        heard = decode_bytes(encode(sent, kind, rate=48_000, channels=channels))
        assert len(heard) == pytest.approx(len(sent), abs=1_000)
        assert delay_and_match(heard, sent)[1] > 0.85  # the channel for the bass keeps the bass alone

    def test_extensible_wav(self, speech: Waveform) -> None:
        guid = bytes.fromhex("0100000000001000800000aa00389b71")
        fmt = pcm_format(tag=0xFFFE) + struct.pack("<HHI", 22, 16, 4) + guid
        np.testing.assert_allclose(decode_bytes(riff(fmt, int16(speech))), speech, atol=1e-4)

    def test_chunks_around_the_sound(self, speech: Waveform) -> None:
        junk = struct.pack("<4sI", b"LIST", 7) + b"INFOabc\0"
        data = riff(pcm_format(), int16(speech), before=junk) + junk
        np.testing.assert_allclose(decode_bytes(data), speech, atol=1e-4)

    def test_an_upload_spooled_to_disk(self, speech: Waveform) -> None:
        with tempfile.SpooledTemporaryFile(max_size=1_000) as source:
            source.write(encoded("mp3"))
            assert len(decode(cast(BinaryIO, source), max_duration_s=LIMIT_S)) == pytest.approx(len(speech), abs=100)

    def test_name_says_nothing(self, speech: Waveform, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("uploads") / "recording.wav"
        path.write_bytes(encoded("mp3"))
        with path.open("rb") as source:
            source.seek(100)
            assert len(decode(source, max_duration_s=LIMIT_S)) == pytest.approx(len(speech), abs=100)
            assert not source.closed


class TestOddButGood:
    """Files that are whole although something about them is unusual must not be refused."""

    @pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_F000, 0x8000_0000, 0x7FFF_FFFE, 0xFFFF_FFDB])
    @pytest.mark.parametrize("rate", [SAMPLE_RATE, 44_100])
    def test_wav_written_into_a_pipe(self, size: int, rate: int) -> None:
        heard = decode_bytes(riff(pcm_format(rate), int16(tone(2, rate=rate)), size))
        assert len(heard) == 2 * SAMPLE_RATE

    @pytest.mark.parametrize("kind", ["wav", "wav-mulaw", "flac", "mp3", "opus", "webm", "webm-video", "au"])
    def test_any_kind_written_into_a_pipe(self, kind: str, speech: Waveform) -> None:
        heard = decode_bytes(encode(speech, kind, piped=True))
        assert len(heard) == pytest.approx(len(speech), abs=2_000)

    def test_cover_art_and_tags(self, speech: Waveform) -> None:
        picture = bytes.fromhex("fffbe0c4") * 30_000  # looks like MP3 frames
        body = b"APIC" + struct.pack(">IH", len(picture) + 14, 0) + b"\0image/jpeg\0\3\0" + picture
        body += b"TIT2" + struct.pack(">IH", 5, 0) + b"\0M\xfcll"
        size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
        song = encoded("mp3")
        data = b"ID3\3\0\0" + size + body + song + b"TAG" + b"\xe9".ljust(125)
        assert len(decode_bytes(data)) == pytest.approx(len(speech), abs=100)

    def test_tags_in_another_encoding(self, speech: Waveform) -> None:
        tag = b"INFOINAM" + struct.pack("<I", 4) + b"M\xfcll"
        data = riff(pcm_format(44_100, 2, 16), int16(tone(1, rate=44_100).repeat(2)), 0xFFFF_FFFF)
        listed = data.replace(b"data", struct.pack("<4sI", b"LIST", len(tag)) + tag + b"data", 1)
        assert len(decode_bytes(listed)) == SAMPLE_RATE

    @pytest.mark.parametrize(("video_s", "sound_s"), [(6.0, 2.0), (1.0, 4.0)])
    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("-video")])
    def test_picture_and_sound_of_different_length(self, kind: str, video_s: float, sound_s: float) -> None:
        heard = decode_bytes(encode(tone(sound_s), kind, video_s=video_s))
        assert len(heard) / SAMPLE_RATE == pytest.approx(sound_s, abs=0.13)

    def test_a_long_picture_does_not_count(self) -> None:
        heard = decode_bytes(encode(tone(1), "mkv-video", video_s=5), max_duration_s=2)
        assert len(heard) / SAMPLE_RATE == pytest.approx(1, abs=0.13)

    def test_estimated_length_is_no_promise(self) -> None:
        """FFmpeg guesses by the first frames' bit rate: here silence, which takes far less than the noise behind it."""
        noise = np.random.default_rng(0).normal(0, 0.2, 4 * SAMPLE_RATE).astype(np.float32)
        for parts in ([np.zeros_like(noise), noise], [noise, np.zeros_like(noise)]):
            sound = np.concatenate(parts)
            for kind in ("mp3-vbr-no-header", "aac"):
                assert len(decode_bytes(encode(sound, kind))) == pytest.approx(len(sound), abs=2_000)

    @pytest.mark.parametrize("kind", ["mp3", "mp3-no-header", "aac", "opus", "ogg-flac", "ac3"])
    def test_joined_files(self, kind: str, speech: Waveform) -> None:
        heard = decode_bytes(encoded(kind) * 2)
        assert len(heard) == pytest.approx(2 * len(speech), abs=4_000)

    def test_rate_and_channels_change_on_the_way(self, speech: Waveform) -> None:
        data = encode(speech, "aac", rate=44_100, channels=1) + encode(speech, "aac", rate=24_000, channels=2)
        heard = decode_bytes(data)
        assert len(heard) == pytest.approx(2 * len(speech), abs=4_000)
        assert delay_and_match(heard[: len(speech)], speech)[1] > 0.95
        assert delay_and_match(heard[len(speech) :], speech)[1] > 0.95

    @pytest.mark.parametrize("kind", ["wav", "wav-mulaw", "mp3", "flac", "aiff", "opus", "m4a", "webm"])
    def test_a_few_missing_bytes(self, kind: str, speech: Waveform) -> None:
        data = encoded(kind)
        heard = decode_bytes(data[:-20] if kind != "m4a" else data + b"\0" * 20)
        assert len(heard) == pytest.approx(len(speech), abs=0.5 * SAMPLE_RATE)

    @pytest.mark.parametrize("junk", [b"\0" * 3_000, b"APETAGEX" + b"\0" * 200, b"\xff" * 500, b"LIST\4\0\0\0INFO"])
    @pytest.mark.parametrize("kind", ["wav", "mp3", "flac", "opus", "aac"])
    def test_junk_at_the_end(self, kind: str, junk: bytes, speech: Waveform) -> None:
        heard = decode_bytes(encoded(kind) + junk)
        assert len(heard) == pytest.approx(len(speech), abs=0.5 * SAMPLE_RATE)

    def test_the_default_track_is_taken(self) -> None:
        for default in (None, 0, 1):
            target = io.BytesIO()
            with av.open(target, "w", format="matroska") as container:
                tracks = [container.add_stream("flac", rate=SAMPLE_RATE, layout="mono") for _ in range(2)]
                for number, track in enumerate(tracks):
                    track.disposition = Disposition.default if number == default else Disposition(0)
                for number, track in enumerate(tracks):
                    samples = (tone(1, 400 * (number + 1)) * 32767).astype(np.int16)[None]
                    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=LAYOUTS[1])
                    frame.sample_rate, frame.pts = SAMPLE_RATE, 0
                    container.mux([*track.encode(frame), *track.encode(None)])
            spectrum = np.abs(np.fft.rfft(decode_bytes(target.getvalue())))
            assert spectrum.argmax() == 400 * ((default or 0) + 1)


class TestGaps:
    """Time stamps that leave something out: what follows is heard when the file says so."""

    @pytest.mark.parametrize("kind", ["webm", "mka", "m4a", "m4a-fragmented"])
    def test_a_pause_of_the_recorder_is_silence(self, kind: str) -> None:
        heard = decode_bytes(encode(tone(4), kind, pause=(1.5, 3.0)))
        assert len(heard) == pytest.approx(7 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
        loud = np.abs(heard) > 0.01
        assert not loud[round(1.7 * SAMPLE_RATE) : round(4.3 * SAMPLE_RATE)].any()
        assert loud[: round(1.4 * SAMPLE_RATE)].mean() > 0.9
        assert loud[round(4.7 * SAMPLE_RATE) : round(6.8 * SAMPLE_RATE)].mean() > 0.9

    @pytest.mark.parametrize("kind", ["webm-video", "mkv-video", "mp4-video", "mov-video", "flv-video"])
    def test_sound_that_begins_later_than_its_picture(self, kind: str) -> None:
        heard = decode_bytes(encode(tone(2), kind, delay_s=1.5, video_s=4))
        assert len(heard) == pytest.approx(3.5 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)
        assert not (np.abs(heard[: round(1.4 * SAMPLE_RATE)]) > 0.01).any()

    @pytest.mark.parametrize("kind", ["webm", "mka"])
    @pytest.mark.parametrize("piped", [False, True])
    def test_bytes_that_are_lost_are_damage(self, kind: str, piped: bool, jfk: Waveform) -> None:
        data = bytearray(encode(np.tile(jfk, 3), kind, piped=piped))
        third = len(data) // 3
        data[third : 2 * third] = b"\x55" * third
        assert refusal(bytes(data)).code == "invalid_value"

    @pytest.mark.parametrize("kind", ["webm-video", "mkv-video", "mp4-video", "mov-video", "flv-video"])
    def test_sound_that_begins_later_than_it_is_long(self, kind: str) -> None:
        heard = decode_bytes(encode(tone(2), kind, delay_s=10, video_s=13))
        assert len(heard) == pytest.approx(12 * SAMPLE_RATE, abs=0.15 * SAMPLE_RATE)

    @pytest.mark.parametrize("kind", ["webm", "mka"])
    def test_stamps_that_stall_and_catch_up_leave_nothing_out(self, kind: str) -> None:
        """As of packets that are stamped when they arrive."""

        def stalled(stamp_s: float) -> float:
            return max(stamp_s, stamp_s // 2 * 2 + 0.15)

        heard = decode_bytes(encode(tone(12), kind, restamp=stalled))
        assert len(heard) == pytest.approx(12 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)

    @pytest.mark.parametrize("kind", ["webm", "mka"])
    def test_many_short_gaps_add_up(self, kind: str) -> None:
        """As of packets that were lost on their way to the recorder."""
        heard = decode_bytes(encode(tone(12), kind, restamp=lambda stamp_s: stamp_s * 1.1))
        assert len(heard) == pytest.approx(13.2 * SAMPLE_RATE, abs=0.3 * SAMPLE_RATE)

    @pytest.mark.parametrize("kind", ["webm", "mka"])
    def test_a_stamp_that_leads_out_of_the_file_is_wrong(self, kind: str) -> None:
        data = encode(tone(4), kind, pause=(1.5, 3_000.0), piped=True)
        assert len(decode_bytes(data, max_duration_s=600)) == pytest.approx(4 * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)

    def test_a_clock_that_begins_anew(self) -> None:
        """Which no muxer here writes."""
        container: Any = SimpleNamespace(format=SimpleNamespace(name="matroska,webm"), start_time=2_000_000)
        gaps = Gaps(container, cast(Any, None))

        def before(stamp_s: float, heard_s: float) -> float:
            return gaps.before(cast(Any, SimpleNamespace(pts=round(1000 * stamp_s), time_base=0.001)), heard_s)

        assert before(2.0, 0.0) == before(22.0, 20.0) == before(22.1, 20.1) == 0
        assert before(0.0, 20.2) == before(1.0, 21.2) == 0, "it began anew"
        assert before(3.0, 21.2) == pytest.approx(2.0), "and counts on"
        gaps.go_on(2.0)
        assert before(4.0, 22.2) == 0

    @pytest.mark.parametrize("kind", ["flv-video", "webm-video", "mkv-video"])
    def test_headers_of_pictures_are_no_damage(self, kind: str) -> None:
        """While the recorder hears next to nothing, and pauses, hundreds of pictures pass by."""
        quiet = np.concatenate([tone(1), np.zeros(20 * SAMPLE_RATE, np.float32), tone(1)])
        heard = decode_bytes(encode(quiet, kind, pause=(21, 3.0)))
        assert len(heard) == pytest.approx(25 * SAMPLE_RATE, abs=0.2 * SAMPLE_RATE)

    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_there_are_none_where_nothing_is_missing(self, kind: str, jfk: Waveform) -> None:
        assert len(decode_bytes(encode(jfk, kind))) == pytest.approx(len(jfk), abs=0.12 * SAMPLE_RATE)


class TestCutOff:
    @pytest.mark.parametrize("kind", PROMISING)
    @pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
    def test_half_an_upload_is_refused(self, kind: str, share: float, speech: Waveform) -> None:
        data = encoded(kind)
        error = refusal(data[: int(len(data) * share)])
        assert error.code == "invalid_value"
        assert error.message.startswith("The file is truncated: its header promises ")
        assert error.message.endswith(" could be decoded. Upload it again.")

    @pytest.mark.parametrize("kind", ["webm", "mka"])
    def test_a_track_that_begins_late_is_whole(self, kind: str) -> None:
        data = encode(tone(5), kind, delay_s=10.0)
        assert len(decode_bytes(data)) == pytest.approx(5 * SAMPLE_RATE, abs=0.05 * SAMPLE_RATE)
        assert refusal(data[: len(data) // 2]).message.startswith("The file is truncated")

    def test_says_how_much_is_there(self) -> None:
        data = riff(pcm_format(), int16(tone(5)), size=10 * 2 * SAMPLE_RATE)
        assert refusal(data).message == (
            "The file is truncated: its header promises 10.0 seconds but only 5.0 could be decoded. Upload it again."
        )

    @pytest.mark.parametrize("kind", ["m4a", "mp4-video", "alac", "mov-video"])
    def test_without_the_index_nothing_is_known(self, kind: str, speech: Waveform) -> None:
        data = encoded(kind)
        index = data.index(b"moov") - 4
        for end in (len(data) // 2, index, index + 100):
            message = refusal(data[:end]).message
            assert message.startswith("The file is truncated: it ends before the index (moov)")

    @pytest.mark.parametrize(
        "data",
        [
            b"\0\0\0\x08moov" * 20,
            b"\0\0\0\x10ftypM4A \0\0\0\0" + b"\0\0\0\x08free" * 1_000_000,
            b"\0\0\0\x10ftypM4A \0\0\0\0" + b"\0\0\0\x07mdat",
            b"\0\0\0\x10ftypM4A \0\0\0\0" + b"\0\0\0\x08moov",
        ],
        ids=["another beginning", "boxes without end", "no box", "an index of nothing"],
    )
    def test_what_is_not_cut_off_is_not_told_so(self, data: bytes) -> None:
        assert refusal(data).message.startswith(("Audio file might be corrupted", "The file has no audio track"))

    @pytest.mark.parametrize("kind", ["opus", "ogg-vorbis", "ogg-flac"])
    @pytest.mark.parametrize("pages", [slice(-3, None), slice(10, None), slice(9, 11)], ids=["last", "half", "middle"])
    def test_ogg_pages_that_are_not_as_they_were_written_are_missed(self, kind: str, pages: slice) -> None:
        """FFmpeg leaves them out, and says nothing."""
        data = bytearray(encode(tone(20), kind))
        begins = [found.start() for found in re.finditer(b"OggS", data)]
        assert _pages(bytes(data)) == Pages(len(data), 0, 0)
        for begin in begins[pages]:
            data[begin + 60] ^= 0xFF
        message = refusal(bytes(data)).message
        told = re.fullmatch(r"The file is damaged: (\d+\.\d) seconds of its audio could not be decoded.*", message)
        assert told is not None
        assert float(told[1]) == pytest.approx(len(begins[pages]), rel=0.5), "a page is a second"

    @pytest.mark.parametrize("cut", [4, 20, 27, 40, 300])
    def test_ogg_that_breaks_off_in_a_page_is_told_so(self, cut: int) -> None:
        data = encode(tone(20), "opus")
        *_, begin, _ = (found.start() for found in re.finditer(b"OggS", data))
        assert refusal(data[: begin + cut]).message.startswith("The file is truncated: it breaks off after 1")

    @given(st.lists(st.just(b"OggS") | st.binary() | st.just(encode(tone(1), "opus"))))
    def test_every_byte_of_ogg_is_counted_once(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        pages = _pages(data)
        assert 0 <= pages.whole + pages.damaged <= len(data)

    @pytest.mark.parametrize("kind", ["webm", "mka", "webm-video", "mkv-video"])
    @pytest.mark.parametrize("filler", [b"\0", b"\xa5"])
    def test_sound_whose_beginning_cannot_be_read_is_refused(self, kind: str, filler: bytes) -> None:
        """FFmpeg goes on with what it can read next, and tells nobody; all time stamps are right."""
        data = bytearray(encode(tone(20), kind))
        begins = data.index(bytes.fromhex("1f43b675"))
        assert first_cluster(_metered(bytes(data))) == begins
        data[begins : begins + 200] = 200 * filler
        assert refusal(bytes(data)).message.startswith("The file is damaged: the beginning of its audio")

    @given(st.lists(st.sampled_from([b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec", b"\x80"]) | st.binary()))
    def test_where_matroska_begins_is_told_of_anything(self, parts: list[bytes]) -> None:
        data = b"".join(parts)
        begins = first_cluster(_metered(data))
        assert begins is None or begins > 0

    def test_ogg_shows_that_its_last_page_is_cut(self, speech: Waveform) -> None:
        data = encoded("opus")
        message = refusal(data[: data.rindex(b"OggS") - 200]).message
        told = re.fullmatch(
            r"The file is truncated: it breaks off after (\d+\.\d) seconds\. Upload it again\.", message
        )
        assert told is not None, "nothing in it says how long it was"
        assert 0 < float(told[1]) < len(speech) / SAMPLE_RATE

    @pytest.mark.parametrize("kind", ["mp3-no-header", "aac"])
    def test_where_nothing_was_promised_the_rest_is_taken(self, kind: str, speech: Waveform) -> None:
        data = encoded(kind)
        assert len(decode_bytes(data[: len(data) // 2])) == pytest.approx(len(speech) / 2, abs=4_000)

    @pytest.mark.parametrize("kind", ["flac", "mp3", "opus", "amr"])
    def test_a_hole_in_the_middle_is_refused(self, kind: str, jfk: Waveform) -> None:
        data = bytearray(encode(jfk, kind))
        third = len(data) // 3
        data[third : 2 * third] = b"\x55" * third
        assert refusal(bytes(data)).code == "invalid_value"


class TestLength:
    @pytest.mark.parametrize("kind", ["wav", "wav-mulaw", "flac", "mp3", "m4a", "aiff", "webm", "au", "caf", "wma"])
    def test_too_long_by_the_header(self, kind: str) -> None:
        error = refusal(encode(tone(4), kind), max_duration_s=2.5)
        assert error.code == "invalid_value"
        stated = float(error.message.split()[2])
        assert stated == pytest.approx(4, abs=0.15)
        assert error.message == (
            f"audio duration {stated:.1f} seconds is longer than 2.5 seconds which is the maximum for this model"
        )

    @pytest.mark.parametrize("kind", ["mp3-no-header", "aac", "opus", "ogg-vorbis", "ts-video", "mkv-video", "mp2"])
    def test_too_long_by_what_was_decoded(self, kind: str) -> None:
        message = refusal(encode(tone(4), kind), max_duration_s=2.5).message
        assert message == "audio duration is longer than 2.5 seconds which is the maximum for this model"

    @pytest.mark.parametrize("kind", ["wav", "webm", "flac", "webm-video"])
    def test_too_long_without_a_header(self, kind: str) -> None:
        assert "is longer than 2.5 seconds" in refusal(encode(tone(4), kind, piped=True), max_duration_s=2.5).message

    def test_decoding_ends_at_the_limit(self) -> None:
        class Counting(io.BytesIO):
            taken = 0

            def read(self, size: int | None = -1) -> bytes:
                data = super().read(size)
                self.taken += len(data)
                return data

        silence = encode(np.zeros(400 * SAMPLE_RATE, np.float32), "flac", piped=True)
        source = Counting(silence)
        with pytest.raises(InvalidAudio, match="longer than 10 seconds"):
            decode(source, max_duration_s=10)
        assert source.taken < len(silence) / 2

    @pytest.mark.parametrize("kind", ["wav", "flac", "opus", "m4a", "mp3"])
    def test_exactly_as_long_as_allowed(self, kind: str) -> None:
        assert len(decode_bytes(encode(tone(2), kind), max_duration_s=2.05)) >= 2 * SAMPLE_RATE

    @pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
    def test_the_limit_itself_is_allowed(self, rate: int) -> None:
        data = riff(pcm_format(rate), int16(tone(2, rate=rate)))
        assert len(decode_bytes(data, max_duration_s=2.0)) == 2 * SAMPLE_RATE
        assert "longer than 1.9 seconds" in refusal(data, max_duration_s=1.9).message

    @pytest.mark.parametrize("kind", ["wav", "wav-mulaw", "flac", "opus"])
    def test_too_short(self, kind: str) -> None:
        error = refusal(encode(tone(0.05), kind))
        assert error.code == "audio_too_short"
        assert error.message == "Audio file is too short. Minimum audio length is 0.1 seconds."
        assert len(decode_bytes(encode(tone(0.1), kind))) >= 1_600

    def test_a_header_without_sound(self) -> None:
        assert refusal(riff(pcm_format(), b"")).code == "audio_too_short"


class TestRange:
    @pytest.mark.parametrize("kind", ["wav-float", "wav-float64"])
    @pytest.mark.parametrize("rate", [16_000, 48_000])
    @pytest.mark.parametrize("gain", [1.5, 32768.0])
    def test_loud_floats_are_divided_by_their_peak(self, kind: str, rate: int, gain: float, speech: Waveform) -> None:
        plain, loud = (
            decode_bytes(encode(speech, kind, rate=rate)),
            decode_bytes(encode(speech * gain, kind, rate=rate)),
        )
        peak = max(1.0, gain * float(np.abs(plain).max()))
        np.testing.assert_allclose(loud, plain * gain / peak, atol=1e-5)
        assert np.abs(loud).max() <= 1

    def test_quiet_floats_stay_quiet(self, speech: Waveform) -> None:
        np.testing.assert_array_equal(decode_bytes(encode(speech * 0.01, "wav-float")), speech * np.float32(0.01))

    def test_a_resampled_square_wave_stays_in_range(self) -> None:
        square = np.sign(tone(1, 100, 44_100) + 1e-9)
        heard = decode_bytes(riff(pcm_format(44_100), int16(square)))
        assert 0.9 < np.abs(heard).max() <= 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("rate", [16_000, 48_000])
    @pytest.mark.parametrize("index", [0, 5_000, -1])
    def test_no_numbers(self, value: float, rate: int, index: int) -> None:
        samples = tone(1, rate=rate)
        samples[index] = value
        error = refusal(riff(pcm_format(rate, bits=32, tag=3), samples.astype("<f4").tobytes()))
        assert error.code == "invalid_value"
        assert error.message.startswith("The audio contains samples that are NaN or infinite")

    def test_numbers_too_large_for_float32(self) -> None:
        samples = np.full(SAMPLE_RATE, 1e300)
        assert "infinite" in refusal(riff(pcm_format(bits=64, tag=3), samples.astype("<f8").tobytes())).message


def test_threads_do_not_disturb_each_other(speech: Waveform) -> None:
    files = [encoded(kind) for kind in ("wav", "mp3", "m4a", "opus", "flac", "webm-video")]
    expected = [decode_bytes(data) for data in files]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for heard, alone in zip(pool.map(decode_bytes, files), expected, strict=True):
                np.testing.assert_array_equal(heard, alone)


def test_the_message_names_what_is_supported() -> None:
    assert refusal(b"no recording at all").message == (
        f"Audio file might be corrupted or unsupported. Send one of: {SUPPORTED}."
    )
