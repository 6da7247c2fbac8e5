"""What to send: noise of any length, or a folder of recordings."""

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.client import Clip
from deployments.audio.decode import decode
from deployments.audio.waveform import SAMPLE_RATE, Waveform

MEDIA = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}
LONGEST_S = 3600
SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
"""Short sentences whose words are known."""


ALL_IS_SPEECH = {"chunking_strategy": '{"type":"server_vad","threshold":0}'}
"""Fields that make this project's service decode noise, in which nobody speaks. The field is OpenAI's."""


def noise(seconds: float, *, seed: int, fields: dict[str, str] | None = None) -> Clip:
    """White noise as a WAV file; every seed another."""
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE)).astype("<i2")
    return Clip(_wav(samples), seconds, fields=fields or {})


def wav(waveform: Waveform) -> bytes:
    """A waveform as a WAV file."""
    return _wav((32767 * waveform).astype("<i2"))


def spoken(seconds: float) -> Clip:
    """Sentences one after the other, cut off after so many seconds, as a WAV file."""
    sentences = []
    for path in sorted(SPEECH.glob("*.flac")):
        with path.open("rb") as file:
            sentences.append(decode(file, max_duration_s=LONGEST_S))
    return Clip(wav(np.resize(np.concatenate(sentences), round(seconds * SAMPLE_RATE))), seconds)


def _wav(samples: NDArray[np.int16]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def recorded(path: Path, fields: dict[str, str] | None = None) -> Clip:
    """A media file as it is.

    Raises:
        InvalidAudio: it cannot be decoded.
    """
    with path.open("rb") as file:
        seconds = len(decode(file, max_duration_s=LONGEST_S)) / SAMPLE_RATE
    return Clip(path.read_bytes(), seconds, path.name, fields or {})


def recordings(path: Path) -> list[tuple[str, Waveform]]:
    """All recordings in a folder, by name, with their sound.

    Raises:
        InvalidAudio: one cannot be decoded.
    """
    found = []
    for media in sorted(path.iterdir()):
        if media.suffix.lower() in MEDIA:
            with media.open("rb") as file:
                found.append((media.stem, decode(file, max_duration_s=LONGEST_S)))
    return found


def varied(name: str, waveform: Waveform, *, seed: tuple[int, int]) -> Clip:
    """A recording a little quieter, as a WAV file of 16 kHz; every seed another.

    To some servers a recording that they have had before costs less: vLLM keeps what its encoder made of it.
    """
    gain = np.random.default_rng(list(seed)).uniform(0.8, 1.0)
    return Clip(wav(gain * waveform), len(waveform) / SAMPLE_RATE, f"{name}.wav")
