"""What to send: noise of any length, or a folder of recordings."""

import io
import wave
from pathlib import Path

import numpy as np

from benchmarks.client import Clip
from deployments.audio.decode import decode
from deployments.transcription.utterance import SAMPLE_RATE

MEDIA = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".webm"}
LONGEST_S = 3600


ALL_IS_SPEECH = {"chunking_strategy": '{"type":"server_vad","threshold":0}'}
"""Fields that make this project's service decode noise, in which nobody speaks. The field is OpenAI's."""


def noise(seconds: float, *, seed: int, fields: dict[str, str] | None = None) -> Clip:
    """White noise as a WAV file; every seed another."""
    samples = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes(samples.tobytes())
    return Clip(file.getvalue(), seconds, fields=fields or {})


def recorded(path: Path, fields: dict[str, str] | None = None) -> Clip:
    """A media file as it is.

    Raises:
        InvalidAudio: it cannot be decoded.
    """
    with path.open("rb") as file:
        seconds = len(decode(file, max_duration_s=LONGEST_S)) / SAMPLE_RATE
    return Clip(path.read_bytes(), seconds, path.name, fields or {})


def folder(path: Path) -> list[Clip]:
    """All recordings in a folder, by name."""
    return [recorded(file) for file in sorted(path.iterdir()) if file.suffix.lower() in MEDIA]
