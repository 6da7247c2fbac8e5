"""What happens to a clean waveform between the synthesiser and the model, and waveforms without speech.

All functions take and give mono float32 `(samples,)` at 16 kHz and keep the length unless they say otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

Waveform = np.ndarray
NOISES = ("white", "pink", "hum", "clicks")


@dataclass(frozen=True)
class Recipe:
    """How often each distortion is heard, and how strong it is."""

    speed: float = 0.75  # by resampling, which moves pitch and formants too: what makes an unheard voice work
    speed_range: tuple[float, float] = (0.85, 1.2)
    noise: float = 0.3
    snr_db: tuple[float, float] = (5.0, 40.0)
    telephone: float = 0.2
    reverb: float = 0.05
    masks: float = 0.5  # SpecAugment
    level_dbfs: tuple[float, float] = (-45.0, -3.0)  # of the loudest sample
    padding_s: float = 0.5  # longest silence before and after the speech


def distort(waveform: Waveform, babble: Callable[[], Waveform], recipe: Recipe, rng: np.random.Generator) -> Waveform:
    """One random chain of distortions; the length changes with the speed and the silence put around the speech.

    `babble` gives other people's speech, heard as one of the noises.
    """
    if rng.random() < recipe.speed:
        waveform = change_speed(waveform, rng.uniform(*recipe.speed_range))
    before, after = (recipe.padding_s * rng.random(2) ** 2 * SAMPLE_RATE).astype(int)  # mostly little
    waveform = np.pad(waveform, (before, after))
    if rng.random() < recipe.reverb:
        waveform = reverberate(waveform, rng)
    if rng.random() < recipe.noise:
        kind = rng.choice([*NOISES[:3], "babble"])
        background = np.resize(babble(), waveform.size) if kind == "babble" else noise(str(kind), waveform.size, rng)
        waveform = mix(waveform, background, rng.uniform(*recipe.snr_db))
    if rng.random() < recipe.telephone:
        waveform = telephone(waveform, mu_law=rng.random() < 0.5)
    waveform = at_level(waveform, rng.uniform(*recipe.level_dbfs))
    # Real recordings are 16-bit: a quiet one has only a few steps left.
    return np.round(waveform * 32768).astype(np.float32) / 32768


def without_speech(rng: np.random.Generator) -> Waveform:
    """0.3 to 30 s of digital silence or of one noise at a random level; mostly short, since length adds little."""
    samples = int(0.3 * 100 ** rng.beta(1, 1.7) * SAMPLE_RATE)
    kind = rng.choice(["silence", *NOISES])
    if kind == "silence":
        return np.zeros(samples, np.float32)
    waveform = noise(str(kind), samples, rng)
    if rng.random() < 0.2:
        waveform = telephone(waveform, mu_law=False)
    return np.round(at_level(waveform, rng.uniform(-75, -3)) * 32768).astype(np.float32) / 32768


def noise(kind: str, samples: int, rng: np.random.Generator) -> Waveform:
    """Noise of one of `NOISES` at an arbitrary level."""
    if kind == "white":
        return rng.standard_normal(samples, dtype=np.float32)
    if kind == "pink":
        spectrum = np.fft.rfft(rng.standard_normal(_quick_size(samples)))
        spectrum /= np.sqrt(np.maximum(np.arange(spectrum.size), 1.0))
        return np.fft.irfft(spectrum)[:samples].astype(np.float32)
    seconds = np.arange(samples, dtype=np.float64) / SAMPLE_RATE
    if kind == "hum":
        mains = rng.choice([50.0, 60.0]) * rng.uniform(0.99, 1.01)
        tones = (np.sin(2 * np.pi * mains * k * seconds + rng.uniform(0, 6)) * rng.random() / k for k in range(1, 8))
        return (sum(tones, np.zeros(samples)) + 0.01 * rng.standard_normal(samples)).astype(np.float32)
    if kind == "clicks":
        waveform = 0.003 * rng.standard_normal(samples)
        for start in rng.integers(0, samples, size=1 + samples // SAMPLE_RATE):
            tail = waveform[start : start + int(rng.integers(20, 400))]
            tail += rng.standard_normal(tail.size) * np.exp(-np.arange(tail.size) / 60)
        return waveform.astype(np.float32)
    raise ValueError(f"no such noise: {kind}")


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play `factor` times faster: the length becomes `samples / factor`."""
    positions = np.arange(0, waveform.size - 1, factor)
    return np.interp(positions, np.arange(waveform.size), waveform).astype(np.float32)


def mix(speech: Waveform, background: Waveform, snr_db: float) -> Waveform:
    """Add `background` so that speech is `snr_db` above it in power."""
    wanted = _rms(speech) * 10 ** (-snr_db / 20)
    return speech + background * (wanted / max(_rms(background), 1e-9))


def telephone(waveform: Waveform, mu_law: bool) -> Waveform:
    """Keep 300 to 3400 Hz, what a telephone line sampled at 8 kHz carries; optionally its 8-bit companding."""
    size = _quick_size(waveform.size)
    spectrum = np.fft.rfft(waveform, size)
    hertz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    # Edges fade over 100 Hz, as a line's filters do, so that nothing rings.
    spectrum *= np.clip((hertz - 250) / 100, 0, 1) * np.clip((3450 - hertz) / 100, 0, 1)
    waveform = np.fft.irfft(spectrum, size)[: waveform.size].astype(np.float32)
    if not mu_law:
        return waveform
    peak = max(float(np.abs(waveform).max()), 1e-9)
    companded = np.sign(waveform) * np.log1p(255 * np.abs(waveform) / peak) / np.log(256)
    companded = np.round(companded * 127) / 127
    return (np.sign(companded) * np.expm1(np.abs(companded) * np.log(256)) / 255 * peak).astype(np.float32)


def reverberate(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """A light room: the direct sound and a noise tail that decays within 0.1 to 0.3 s."""
    decay = rng.uniform(0.1, 0.3)
    seconds = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(seconds.size) * np.exp(-6.9 * seconds / decay) * rng.uniform(0.02, 0.06)
    response[0] = 1.0
    size = _quick_size(waveform.size + response.size)
    echoed = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(response, size), size)
    return echoed[: waveform.size].astype(np.float32)


def at_level(waveform: Waveform, dbfs: float) -> Waveform:
    """Scale so that the loudest sample is at `dbfs`; silence stays silence."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return waveform * np.float32(10 ** (dbfs / 20) / peak) if peak > 0 else waveform


def mask_spectrogram(mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """SpecAugment on `(mel bins, frames)`: up to two bands and two moments replaced by the mean."""
    mel = mel.copy()
    bins, frames = mel.shape
    mean = mel.mean()
    for _ in range(rng.integers(0, 3)):
        width = rng.integers(1, 18)
        low = rng.integers(0, bins - width)
        mel[low : low + width] = mean
    for _ in range(rng.integers(0, 2 + frames // 400)):
        width = rng.integers(1, 11)
        start = rng.integers(0, max(1, frames - width))
        mel[:, start : start + width] = mean
    return mel


def _quick_size(samples: int) -> int:
    """The next multiple of 4096: Fourier transforms of arbitrary lengths are up to ten times slower."""
    return -(-samples // 4096) * 4096


def _rms(waveform: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))
