"""The synthetic voices of flite and espeak-ng, and how one of them says a sentence."""

import io
import random
import shutil
import subprocess
import wave
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soxr

from benchmarks.demo_checkpoint.grammar import Language

SAMPLE_RATE = 16_000
_FRAME = 160  # 10 ms, the step at which leading and trailing silence is measured


@dataclass(frozen=True)
class Voice:
    """One speaker. `share` is how often it is heard in training; held-out voices have none."""

    name: str
    language: Language
    engine: Literal["flite", "espeak-ng"]
    speaker: str
    share: float = 1.0

    @property
    def held_out(self) -> bool:
        return self.share == 0.0


VOICES: tuple[Voice, ...] = (
    Voice("flite-slt", "English", "flite", "slt", 2.2),
    Voice("flite-awb", "English", "flite", "awb", 2.2),
    Voice("flite-kal16", "English", "flite", "kal16", 1.8),
    Voice("flite-rms", "English", "flite", "rms", 0.0),
    Voice("us", "English", "espeak-ng", "en-us"),
    Voice("us-f2", "English", "espeak-ng", "en-us+f2"),
    Voice("us-linda", "English", "espeak-ng", "en-us+linda"),
    Voice("us-max", "English", "espeak-ng", "en-us+max"),
    Voice("gb-f4", "English", "espeak-ng", "en-gb+f4"),
    Voice("gb-m1", "English", "espeak-ng", "en-gb+m1"),
    Voice("rp-m3", "English", "espeak-ng", "en-gb-x-rp+m3"),
    Voice("scotland-m5", "English", "espeak-ng", "en-gb-scotland+m5"),
    Voice("caribbean-steph", "English", "espeak-ng", "en-029+steph"),
    Voice("nyc-m7", "English", "espeak-ng", "en-us-nyc+m7"),
    Voice("us-belinda", "English", "espeak-ng", "en-us+belinda", 0.0),
    Voice("cmn", "Chinese", "espeak-ng", "cmn-latn-pinyin"),
    Voice("cmn-f1", "Chinese", "espeak-ng", "cmn-latn-pinyin+f1"),
    Voice("cmn-f2", "Chinese", "espeak-ng", "cmn-latn-pinyin+f2"),
    Voice("cmn-f4", "Chinese", "espeak-ng", "cmn-latn-pinyin+f4"),
    Voice("cmn-m1", "Chinese", "espeak-ng", "cmn-latn-pinyin+m1"),
    Voice("cmn-m3", "Chinese", "espeak-ng", "cmn-latn-pinyin+m3"),
    Voice("cmn-m7", "Chinese", "espeak-ng", "cmn-latn-pinyin+m7"),
    Voice("cmn-linda", "Chinese", "espeak-ng", "cmn-latn-pinyin+linda"),
    Voice("cmn-max", "Chinese", "espeak-ng", "cmn-latn-pinyin+max"),
    Voice("cmn-steph", "Chinese", "espeak-ng", "cmn-latn-pinyin+steph"),
    Voice("cmn-annie", "Chinese", "espeak-ng", "cmn-latn-pinyin+Annie", 0.0),
)


def voices(language: Language, held_out: bool = False) -> list[Voice]:
    """The voices of one language: those heard in training, or those kept back."""
    return [voice for voice in VOICES if voice.language == language and voice.held_out == held_out]


def require_engines() -> None:
    """Raise RuntimeError with what to install when a speech synthesiser is missing."""
    missing = [engine for engine in ("flite", "espeak-ng") if shutil.which(engine) is None]
    if missing:
        raise RuntimeError(f"{' and '.join(missing)} not found: install with `apt-get install flite espeak-ng`")


def speak(voice: Voice, text: str, rng: random.Random) -> np.ndarray:
    """Say `text` at a random pace and pitch: int16 `(samples,)` at 16 kHz without silence at either end."""
    spoken = text.replace("-", " ")
    if voice.engine == "flite":
        stretch = f"duration_stretch={rng.uniform(0.85, 1.2):.3f}"
        command = ["flite", "-voice", voice.speaker, "--setf", stretch, "-t", spoken, "-o", "/dev/stdout"]
    else:
        # The same number of "words a minute" sounds slower in Mandarin, whose words are single syllables.
        slowest, fastest = (130, 190) if voice.language == "English" else (150, 220)
        pace, pitch = rng.randint(slowest, fastest), rng.randint(30, 70)
        command = ["espeak-ng", "-v", voice.speaker, "-s", str(pace), "-p", str(pitch), "--stdout", spoken]
    # Both engines write a stream whose header does not know its length yet, so only its sample rate is read.
    stream = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(stream)) as header:
        rate = header.getframerate()
    samples = np.frombuffer(stream[44 : 44 + (len(stream) - 44) // 2 * 2], dtype="<i2")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return _trim(samples)


def _trim(samples: np.ndarray) -> np.ndarray:
    """Cut the ends that are 40 dB below the loudest 10 ms, keeping 30 ms on either side."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float32)
    energy = (frames**2).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 1e-4)
    start = max(0, loud[0] - 3) * _FRAME
    return samples[start : (loud[-1] + 4) * _FRAME]
