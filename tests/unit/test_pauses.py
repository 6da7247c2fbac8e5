"""Pauses that are left out, and times told of the waveform as it was."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.pauses import KEPT_S, without_long_pauses
from deployments.audio.speech import Span
from deployments.audio.waveform import SAMPLE_RATE, Waveform

LENGTHS = st.integers(0, 3 * SAMPLE_RATE)


def numbered(seconds: float) -> Waveform:
    """Each sample is its own number, so that it is known where it came from."""
    return np.arange(round(seconds * SAMPLE_RATE), dtype=np.float32)


def test_a_long_pause_keeps_its_ends() -> None:
    waveform = numbered(6.0)
    shortened = without_long_pauses(waveform, [Span(0.1, 2.0), Span(4.0, 5.9)])
    assert len(shortened.waveform) == round((6.0 - 2.0 + 2 * KEPT_S) * SAMPLE_RATE)
    assert shortened.cuts == ((pytest.approx(2.0 + KEPT_S), pytest.approx(2.0 - 2 * KEPT_S)),)
    assert shortened.original(1.0, 1.5) == (1.0, 1.5)
    assert shortened.original(2.8, 3.6) == pytest.approx((4.2, 5.0))


def test_silence_before_and_after_is_a_pause_too() -> None:
    shortened = without_long_pauses(numbered(9.0), [Span(3.0, 4.0)])
    assert len(shortened.waveform) == round((1.0 + 2 * KEPT_S) * SAMPLE_RATE)
    assert shortened.original(KEPT_S, 1.0 + KEPT_S) == pytest.approx((3.0, 4.0))
    assert shortened.original(0.0, 0.0) == pytest.approx((3.0 - KEPT_S, 3.0 - KEPT_S)), "a word that takes no time"
    assert shortened.original(1.6, 1.7) == pytest.approx((4.0 + KEPT_S, 4.0 + KEPT_S)), "one behind the end"


def test_nothing_is_said_across_a_cut() -> None:
    shortened = without_long_pauses(numbered(10.0), [Span(0.0, 2.0), Span(6.0, 10.0)])
    assert shortened.original(1.5, 2.5) == pytest.approx((1.5, 2.0 + KEPT_S))
    assert shortened.original(2.1, 4.0) == pytest.approx((6.0 - KEPT_S, 7.4))


@pytest.mark.parametrize("speech", [[], [Span(0.0, 2.0)], [Span(0.0, 0.6), Span(1.5, 2.0)]])
def test_what_has_no_long_pause_stays_as_it_is(speech: list[Span]) -> None:
    waveform = numbered(2.0)
    shortened = without_long_pauses(waveform, speech)
    assert shortened.waveform is waveform
    assert shortened.original(0.3, 1.7) == (0.3, 1.7)


@given(lengths=st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=6), rest=LENGTHS, data=st.data())
def test_every_moment_is_found_again(lengths: list[tuple[int, int]], rest: int, data: st.DataObject) -> None:
    edges = np.cumsum([length for pair in lengths for length in pair])
    waveform = np.arange(int(edges[-1]) + rest, dtype=np.float64)  # float32 cannot count so far
    speech = [Span(start / SAMPLE_RATE, end / SAMPLE_RATE) for start, end in edges.reshape(-1, 2).tolist()]
    shortened = without_long_pauses(waveform, speech)  # type: ignore[arg-type]
    kept = shortened.waveform.astype(int)
    assert sum(seconds for _, seconds in shortened.cuts) * SAMPLE_RATE == pytest.approx(len(waveform) - len(kept))
    for span in speech:
        assert np.isin(np.arange(round(span.start * SAMPLE_RATE), round(span.end * SAMPLE_RATE)), kept).all()
    if not len(kept):
        return
    sample = data.draw(st.integers(0, len(kept) - 1))
    middle = (sample + 0.5) / SAMPLE_RATE
    assert shortened.original(middle, middle)[0] * SAMPLE_RATE == pytest.approx(kept[sample] + 0.5, abs=0.01)
    drawn = data.draw(st.lists(st.floats(0, len(kept) / SAMPLE_RATE), max_size=8))
    times = [0.0, 0.0, *sorted(drawn), len(kept) / SAMPLE_RATE]
    found = [shortened.original(start, end) for start, end in pairwise(times)]
    for start, end in found:
        assert 0 <= start <= end + 1e-9
        assert end <= len(waveform) / SAMPLE_RATE + 1e-9
    times_kept = np.sort(kept)
    for time in (time for pair in found for time in pair):
        # Within half a sample of one that was kept.
        assert np.abs(times_kept + 0.5 - time * SAMPLE_RATE).min() <= 0.51 + 0.01
    for before, after in pairwise(found):
        assert before[0] <= after[0] + 1e-9
        assert before[1] <= after[1] + 1e-9
