"""Sounds in which nobody speaks, as rooms, machines, lines and instruments make them. All mono float32 at 16 kHz."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from deployments.audio.waveform import SAMPLE_RATE, Waveform

Maker = Callable[[Generator, float], Waveform]
"""Makes so many seconds of a sound; the generator decides which one of its kind."""

NOISE_EXPONENTS = {"white noise": 0.0, "pink noise": -0.5, "brown noise": -1.0, "blue noise": 0.5}
"""The amplitude of a frequency grows with this power of it."""
_DIAL_PAD = ((697, 770, 852, 941), (1209, 1336, 1477, 1633))  # Hz; ITU-T Q.23


def silence(rng: Generator, seconds: float) -> Waveform:
    """Zeros, or the last bit of a converter in a quiet room."""
    dither = rng.integers(-1, 2, _samples(seconds)) / 32768
    return (dither * rng.integers(0, 2)).astype(np.float32)


def offset(rng: Generator, seconds: float) -> Waveform:
    """A constant that jumps to another one now and then."""
    steps = rng.uniform(-1, 1, 1 + round(seconds / 3))
    return np.repeat(steps, -(-_samples(seconds) // len(steps)))[: _samples(seconds)].astype(np.float32)


def noise(exponent: float) -> Maker:
    """Noise of one colour, from hardly audible to full scale."""

    def make(rng: Generator, seconds: float) -> Waveform:
        return at_level(coloured_noise(rng, seconds, exponent), rng.uniform(-75, -6))

    return make


def clicks(rng: Generator, seconds: float) -> Waveform:
    """One sample at full scale, regularly or by chance."""
    samples = np.zeros(_samples(seconds), np.float32)
    if rng.random() < 0.5:
        samples[:: rng.integers(400, 12_000)] = 1.0
    else:
        samples[rng.integers(0, len(samples), max(1, round(seconds * rng.uniform(1, 30))))] = rng.choice([-1.0, 1.0])
    return samples


def square(rng: Generator, seconds: float) -> Waveform:
    """A square wave, up to full scale."""
    phase = _time(seconds) * rng.uniform(30, 3000)
    return (rng.uniform(0.01, 1) * np.where(phase % 1 < rng.uniform(0.1, 0.9), 1, -1)).astype(np.float32)


def sweep(rng: Generator, seconds: float) -> Waveform:
    """A tone that rises or falls."""
    low, high = rng.uniform(40, 400), rng.uniform(500, 7000)
    frequency = np.geomspace(*((low, high) if rng.random() < 0.5 else (high, low)), _samples(seconds))
    return _tone(frequency, rng.uniform(0.02, 0.9))


def hum(rng: Generator, seconds: float) -> Waveform:
    """The mains with its harmonics."""
    base = rng.choice([50, 60])
    harmonics = sum(_tone(np.full(_samples(seconds), base * n), rng.uniform(0, 1) / n) for n in range(1, 12))
    return at_level(np.asarray(harmonics), rng.uniform(-50, -6))


def telephone(rng: Generator, seconds: float) -> Waveform:
    """Dial tone, ringing, busy, or a number being dialled."""
    time, kind = _time(seconds), rng.integers(0, 4)
    if kind < 3:
        low, high, period, share = ((350, 440, 1, 1), (440, 480, 6, 1 / 3), (480, 620, 1, 1 / 2))[kind]
        both = np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time)
        return (0.25 * both * (time % period < period * share)).astype(np.float32)
    tones = np.zeros(len(time), np.float32)
    for start in range(0, len(time), SAMPLE_RATE // 5):
        row, column = (rng.choice(tones_of) for tones_of in _DIAL_PAD)
        part = time[start : start + SAMPLE_RATE // 8]
        tones[start : start + len(part)] = 0.3 * (np.sin(2 * np.pi * row * part) + np.sin(2 * np.pi * column * part))
    return tones


def modem(rng: Generator, seconds: float) -> Waveform:
    """Bits as tones: a fax, a modem, or Morse code."""
    baud = rng.choice([15, 300, 1200])
    samples, each = _samples(seconds), SAMPLE_RATE // baud
    bits = np.repeat(rng.integers(0, 2, samples // each + 1), each)[:samples]
    if baud == 15:
        return (_tone(np.full(len(bits), 700.0), 0.4) * bits).astype(np.float32)
    return _tone(np.where(bits, 1270.0, 1070.0), 0.4)


def chords(rng: Generator, seconds: float) -> Waveform:
    """A chord each half second, plucked."""
    time = _time(0.5)
    made = []
    for _ in range(round(2 * seconds) + 1):
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        tones = [np.sin(2 * np.pi * root * ratio * time) for ratio in (1, rng.choice([1.189, 1.26]), 1.498, 2, 3, 4)]
        made.append(np.exp(-4 * time) * sum(tones))
    return at_level(np.concatenate(made)[: _samples(seconds)], rng.uniform(-30, -12))


def drums(rng: Generator, seconds: float) -> Waveform:
    """Bass drum, snare and hi-hat."""
    beat = round(SAMPLE_RATE * 60 / rng.uniform(70, 170) / 2)
    time = np.arange(beat) / SAMPLE_RATE
    bass = np.sin(2 * np.pi * 60 * time * np.exp(-8 * time)) * np.exp(-12 * time)
    snare, hat = (rng.normal(0, level, beat) * np.exp(-decay * time) for level, decay in ((0.5, 25), (0.2, 60)))
    bar = np.concatenate([bass + hat, hat, snare + hat, hat])
    return at_level(np.tile(bar, -(-_samples(seconds) // len(bar)))[: _samples(seconds)], rng.uniform(-30, -12))


def melody(rng: Generator, seconds: float) -> Waveform:
    """One voice of an organ or a flute, with vibrato."""
    notes = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12], round(seconds * 3) + 1) / 12)
    frequency = np.repeat(notes, SAMPLE_RATE // 3)[: _samples(seconds)]
    frequency = np.pad(frequency, (0, _samples(seconds) - len(frequency)), mode="edge")
    frequency = frequency * (1 + 0.01 * np.sin(2 * np.pi * 5.5 * _time(seconds)))
    return at_level(sum(_tone(frequency * n, 1 / n**2) for n in (1, 2, 3, 5)), rng.uniform(-30, -12))  # type: ignore[arg-type]


def engine(rng: Generator, seconds: float) -> Waveform:
    """Noise that swells and falls, faster or slower than syllables do."""
    swell = 1 + np.sin(2 * np.pi * rng.choice([0.3, 1.0, 9.0, 25.0]) * _time(seconds))
    return at_level(coloured_noise(rng, seconds, -0.5) * swell, rng.uniform(-50, -10))


def clipped(rng: Generator, seconds: float) -> Waveform:
    """Noise that left full scale far behind."""
    return np.clip(coloured_noise(rng, seconds, -0.5) * rng.uniform(2, 50), -1, 1).astype(np.float32)


def music(rng: Generator, seconds: float) -> Waveform:
    """Chords, drums and a melody together."""
    return at_level(chords(rng, seconds) + drums(rng, seconds) + 0.5 * melody(rng, seconds), rng.uniform(-30, -12))


SOUNDS: dict[str, Maker] = {
    "silence": silence,
    "offset": offset,
    **{name: noise(exponent) for name, exponent in NOISE_EXPONENTS.items()},
    "clicks": clicks,
    "square wave": square,
    "sweep": sweep,
    "mains hum": hum,
    "telephone": telephone,
    "modem": modem,
    "chords": chords,
    "drums": drums,
    "melody": melody,
    "music": music,
    "engine": engine,
    "clipped noise": clipped,
}


def coloured_noise(rng: Generator, seconds: float, exponent: float) -> Waveform:
    """Noise with a root mean square of 1 whose amplitudes go with a power of the frequency."""
    spectrum = np.fft.rfft(rng.normal(0, 1, _samples(seconds)))
    spectrum[1:] *= np.arange(1, len(spectrum), dtype=np.float64) ** exponent
    spectrum[0] = 0
    samples = np.fft.irfft(spectrum, _samples(seconds))
    return (samples / max(np.sqrt(np.mean(samples**2)), 1e-12)).astype(np.float32)


def at_level(waveform: Waveform, dbfs: float) -> Waveform:
    """The waveform with this root mean square, cut off at full scale."""
    level = max(float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))), 1e-12)
    return np.clip(waveform * (10 ** (dbfs / 20) / level), -1, 1).astype(np.float32)


def _tone(frequency: np.ndarray, amplitude: float) -> Waveform:
    samples: Waveform = (amplitude * np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE)).astype(np.float32)
    return samples


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _time(seconds: float) -> np.ndarray:
    return np.arange(_samples(seconds)) / SAMPLE_RATE
