"""Resampling against tones whose answer is known, and against torchaudio's windowed sinc."""

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.audio.resample import Resampler, mix_down
from deployments.audio.waveform import SAMPLE_RATE

RATES = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000]
ABOVE_16K = [rate for rate in RATES if rate > SAMPLE_RATE]


def resample(signal: NDArray[np.float32], rate: int, chunk: int = 1152) -> NDArray[np.float32]:
    resampler = Resampler(rate)
    chunks = [resampler.push(signal[start : start + chunk]) for start in range(0, len(signal), chunk)]
    return np.concatenate([*chunks, resampler.finish()])


def tone(hertz: float, rate: int, seconds: float = 1.0) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def decibel(signal: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Power of one signal over another, away from the edges where a tone begins out of nothing."""
    inner = slice(len(signal) // 10, -len(signal) // 10)
    return float(10 * np.log10(np.mean(signal[inner] ** 2.0) / np.mean(reference[inner] ** 2.0)))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [0, 1, 2, 160, 1_151, 9_999, 30_011])
def test_as_long_as_the_input(rate: int, samples: int) -> None:
    signal = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert len(resample(signal, rate)) == round(samples * SAMPLE_RATE / rate)


@pytest.mark.parametrize("rate", ABOVE_16K)
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.8, 0.97])
def test_tones_above_8_khz_vanish(rate: int, share: float) -> None:
    """Everything between the Nyquist frequencies of the output and of the input would fold back into speech."""
    hertz = 8_000 + share * (rate / 2 - 8_000)
    heard = resample(tone(hertz, rate), rate)
    assert decibel(heard, tone(1_000, SAMPLE_RATE)) < -90


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate < SAMPLE_RATE])
def test_lower_rates_leave_no_images(rate: int) -> None:
    heard = resample(tone(rate * 0.4, rate), rate)
    assert decibel(heard - tone(rate * 0.4, SAMPLE_RATE), tone(1_000, SAMPLE_RATE)) < -60


@pytest.mark.parametrize("rate", ABOVE_16K)
@pytest.mark.parametrize("hertz", [50, 440, 1_000, 3_400, 6_000, 7_000])
def test_speech_passes_unchanged_and_in_time(rate: int, hertz: float) -> None:
    heard = resample(tone(hertz, rate), rate)
    expected = tone(hertz, SAMPLE_RATE)
    assert abs(decibel(heard, expected)) < 0.05
    assert decibel(heard - expected, expected) < -60  # a delay of a hundredth of a sample would show


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.003, 0.25, 0.497])
def test_a_click_stays_where_it_is(rate: int, seconds: float) -> None:
    signal = np.zeros(rate // 2, np.float32)
    signal[round(seconds * rate)] = 1
    loudest = int(np.abs(resample(signal, rate)).argmax())
    assert abs(loudest / SAMPLE_RATE - seconds) <= 1.01 / SAMPLE_RATE


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_agrees_with_torchaudio(rate: int) -> None:
    noise = np.random.default_rng(1).standard_normal(rate).astype(np.float32)
    speech_band = torchaudio.functional.lowpass_biquad(torch.from_numpy(noise), rate, min(2_000, rate / 8))
    reference = torchaudio.functional.resample(
        speech_band, rate, SAMPLE_RATE, lowpass_filter_width=64, rolloff=0.95, resampling_method="sinc_interp_kaiser"
    ).numpy()
    heard = resample(speech_band.numpy(), rate)
    assert abs(len(heard) - len(reference)) <= 1
    shorter = min(len(heard), len(reference))
    assert decibel(heard[:shorter] - reference[:shorter], reference[:shorter]) < -45


@given(rate=st.sampled_from(RATES), chunk=st.integers(1, 5_000), samples=st.integers(0, 5_000))
def test_chunks_leave_no_seams(rate: int, chunk: int, samples: int) -> None:
    signal = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    np.testing.assert_allclose(resample(signal, rate, chunk), resample(signal, rate, samples + 1), atol=1e-5)


def test_16_khz_is_left_alone() -> None:
    signal = np.random.default_rng(2).standard_normal(5_000).astype(np.float32)
    np.testing.assert_array_equal(resample(signal, SAMPLE_RATE), signal)


@pytest.mark.parametrize(
    ("dtype", "samples", "expected"),
    [
        ("u1", [0, 128, 255], [-1, 0, 127 / 128]),
        ("i2", [-(2**15), 0, 2**14], [-1, 0, 0.5]),
        ("i4", [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        ("f4", [-1.5, 0, 0.25], [-1.5, 0, 0.25]),
        ("f8", [-1.5, 0, 0.25], [-1.5, 0, 0.25]),
    ],
)
def test_every_sample_format_means_the_same(dtype: str, samples: list[float], expected: list[float]) -> None:
    mono = mix_down(np.array([samples], dtype))
    assert mono.dtype == np.float32
    np.testing.assert_array_equal(mono, np.array(expected, np.float32))


@pytest.mark.parametrize("channels", range(1, 9))
def test_channels_are_averaged(channels: int) -> None:
    samples = np.random.default_rng(3).integers(-(2**15), 2**15, (channels, 100)).astype(np.int16)
    np.testing.assert_allclose(mix_down(samples), samples.mean(axis=0) / 2**15, atol=1e-6)
