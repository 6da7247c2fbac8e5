"""Sentences that the demo checkpoint never saw, joined to recordings of any length."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream

from benchmarks.client import Clip
from benchmarks.demo_checkpoint import grammar, voices
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from tests.media import encode

PAUSE_S = (0.3, 1.5)
UNPAUSED_S = (0.0, 0.06)
"""Nobody hears a pause there, and neither does the speech finder."""
MP3_BIT_RATE = 32_000


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence and how it sounds."""

    waveform: Waveform
    text: str

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Recording:
    """Sentences one after the other, with pauses before them."""

    waveform: Waveform
    sentences: tuple[Sentence, ...]
    starts: tuple[float, ...]
    """Where each sentence begins, in seconds."""

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE

    def clip(self, **fields: str) -> Clip:
        """It as an upload, with these form fields."""
        return Clip(encode(self.waveform, "flac"), self.seconds, "recording.flac", {"language": "en", **fields})


def speak(count: int) -> list[Sentence]:
    """Sentences of the test split, by the voices in turn.

    Raises:
        RuntimeError: there is no espeak-ng or flite to speak them.
    """
    voices.require_engines()
    rng = random.Random(5)
    speakers = voices.voices("English")
    texts = grammar.sentences("English", "test", count, seed=5)
    return [
        Sentence(voices.speak(speakers[i % len(speakers)], text, rng).astype(np.float32) / np.float32(32768), text)
        for i, text in enumerate(texts)
    ]


def join(sentences: list[Sentence], seconds: float, seed: int, pause_s: tuple[float, float] = PAUSE_S) -> Recording:
    """A recording of at least so many seconds: the sentences in another order each time, with pauses before them."""
    rng = random.Random(seed)
    waveforms: list[Waveform] = []
    chosen: list[Sentence] = []
    starts: list[float] = []
    length = 0.0
    while length < seconds:
        for sentence in rng.sample(sentences, len(sentences)):
            pause = np.zeros(round(rng.uniform(*pause_s) * SAMPLE_RATE), np.float32)
            waveforms += [pause, sentence.waveform]
            chosen.append(sentence)
            starts.append(length + len(pause) / SAMPLE_RATE)
            length = starts[-1] + sentence.seconds
            if length >= seconds:
                break
    return Recording(np.concatenate(waveforms), tuple(chosen), tuple(starts))


def write_mp3(path: Path, recording: Recording, seconds: float) -> float:
    """Write the recording as an MP3 file, over and over until it is so long; returns its seconds.

    It is encoded once and its packets are copied, so that this takes neither hours nor memory.
    """
    packets = list(_mp3_packets(recording))
    rounds = max(1, round(seconds / recording.seconds))
    with av.open(str(path), "w", format="mp3") as container:
        track = container.add_stream("libmp3lame", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(track, AudioStream)
        track.bit_rate = MP3_BIT_RATE
        samples = 0
        for _ in range(rounds):
            for data, duration in packets:
                packet = av.Packet(data)
                packet.stream = track
                packet.time_base = Fraction(1, SAMPLE_RATE)
                packet.pts = packet.dts = samples
                packet.duration = duration
                container.mux(packet)
                samples += duration
    return samples / SAMPLE_RATE


def _mp3_packets(recording: Recording) -> Iterator[tuple[bytes, int]]:
    """The frames of an MP3 file, each with the samples it holds."""
    encoder = av.CodecContext.create("libmp3lame", "w")
    assert isinstance(encoder, av.AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "s16p"
    encoder.bit_rate = MP3_BIT_RATE
    encoder.open()
    samples = (recording.waveform * 32767).astype(np.int16)
    size = encoder.frame_size
    for start in range(0, len(samples) - size + 1, size):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16p", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        yield from ((bytes(packet), size) for packet in encoder.encode(frame))
    yield from ((bytes(packet), size) for packet in encoder.encode(None))
