"""Quiet speech is raised to the loudest; nothing else changes, least of all when it is said."""

import numpy as np
import pytest

from deployments.audio.levels import MAX_GAIN, evened
from deployments.audio.speech import Span
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from tests.listening import said


def _level(waveform: Waveform) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def _three(middle: float) -> tuple[Waveform, list[Span]]:
    """A second each with a second between, the one in the middle so much louder than the others."""
    pause = np.full(SAMPLE_RATE, 1e-5, np.float32)
    waveform = np.concatenate([said(1), pause, said(1) * np.float32(middle), pause, said(1)])
    return waveform, [Span(0, 1), Span(2, 3), Span(4, 5)]


@pytest.mark.parametrize("decibels", [-12, -30, -39])
def test_somebody_quiet_is_as_loud_as_the_others(decibels: float) -> None:
    waveform, speech = _three(10 ** (decibels / 20))
    even = evened(waveform, speech)
    assert _level(even[2 * SAMPLE_RATE : 3 * SAMPLE_RATE]) == pytest.approx(_level(waveform[:SAMPLE_RATE]), rel=1e-3)
    for start, end in ((0, 1.5), (3.5, 5)):
        unchanged = slice(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE))
        assert np.array_equal(even[unchanged], waveform[unchanged])
    gain = even[2 * SAMPLE_RATE] / waveform[2 * SAMPLE_RATE]
    assert even[round(1.6 * SAMPLE_RATE)] == pytest.approx(gain * waveform[round(1.6 * SAMPLE_RATE)]), "the pause, too"


def test_what_is_hardly_there_is_not_made_of_noise() -> None:
    waveform, speech = _three(1e-4)
    even = evened(waveform, speech)
    middle = slice(2 * SAMPLE_RATE, 3 * SAMPLE_RATE)
    assert np.allclose(even[middle], MAX_GAIN * waveform[middle])


@pytest.mark.parametrize("middle", [0.5, 1.0, 2.0])
def test_sentences_that_differ_little_stay_as_they_are(middle: float) -> None:
    waveform, speech = _three(middle)
    assert evened(waveform, speech) is waveform


@pytest.mark.parametrize("speech", [[], [Span(0, 1)], [Span(0, 1), Span(1, 1)]])
def test_nor_is_there_anything_to_even(speech: list[Span]) -> None:
    waveform = said(1)
    assert np.array_equal(evened(waveform, speech), waveform)


def test_silence_has_no_level_to_be_raised() -> None:
    waveform = np.concatenate([said(1), np.zeros(SAMPLE_RATE, np.float32)])
    assert np.array_equal(evened(waveform, [Span(0, 1), Span(1.2, 2)]), waveform)
