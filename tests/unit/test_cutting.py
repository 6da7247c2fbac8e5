"""Recordings are cut where nobody speaks, and nothing that is said is lost or said twice."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.cutting import LONG_PAUSE_S, Cutter, Piece, halve, quietest
from deployments.audio.speech import FRAME_S, Span, SpeechFinder, SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE
from tests.listening import Loudness, cut, recorded, said, silence


def times(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(round(piece.start, 1), round(piece.end, 1)) for piece in pieces]


def test_a_short_recording_is_one_piece_as_it_is() -> None:
    waveform = recorded(2.9, 1, 2.9, 1, 2.9)
    (piece,) = cut(waveform)
    assert np.array_equal(piece.waveform, waveform)
    assert [(round(span.start, 1), round(span.end, 1)) for span in piece.speech] == [(2.9, 3.9), (6.8, 7.8)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ((20, 2), [(19.7, 22.0)]),
        ((0, 2, 20), [(0.0, 2.3)]),
        ((2, 1, 5, 1, 2), [(1.7, 3.3), (7.7, 9.3)]),
    ],
)
def test_long_silence_is_left_out_of_a_short_one(
    lengths: tuple[float, ...], expected: list[tuple[float, float]]
) -> None:
    assert times(cut(recorded(*lengths))) == expected


@pytest.mark.parametrize("seconds", [0.1, 3, 30, 31, 100])
def test_silence_is_no_piece(seconds: float) -> None:
    assert cut(silence(seconds)) == []


def test_a_click_is_no_speech() -> None:
    waveform = silence(5)
    waveform[20_000:20_100] = 1.0
    assert cut(waveform) == []


def test_a_long_recording_is_cut_in_the_longest_pause_within_reach() -> None:
    #                    0..8    8.5..18   18.3..22   23..27      27.4..40
    waveform = recorded(0, 8, 0.5, 9.5, 0.3, 3.7, 1.0, 4.0, 0.4, 12.6)
    first, second = cut(waveform)
    assert times([first, second]) == [(0.0, 22.3), (22.7, 40.0)]


def test_a_pause_further_back_is_better_than_none() -> None:
    assert times(cut(recorded(0, 12, 0.5, 25))) == [(0.0, 12.2), (12.2, 37.5)]


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    waveform = said(40)
    waveform[25 * SAMPLE_RATE : 25 * SAMPLE_RATE + 1600] *= 0.6
    assert times(cut(waveform)) == [(0.0, 25.1), (25.1, 40.0)]


def test_a_long_pause_is_left_out() -> None:
    assert times(cut(recorded(5, 2, 10, 2, 3600, 2, 5), limit_s=30)) == [(4.7, 7.3), (16.7, 19.3), (3618.7, 3621.3)]


@pytest.mark.parametrize("silence_s", [0.2, 3, 10, 60])
def test_however_long_a_pause_may_be_within_speech_a_long_one_is_left_out(silence_s: float) -> None:
    pieces = cut(recorded(0, 40, 50, 10), options=SpeechOptions(silence_s=silence_s))
    assert times(pieces)[-1] == (89.7, 100.0)
    assert all(np.abs(piece.waveform).max() > 0 for piece in pieces)
    assert times(pieces)[-2][1] == pytest.approx(40, abs=0.4)


def test_pieces_come_as_soon_as_they_are_certain() -> None:
    cutter = Cutter(Loudness(), limit_s=30, options=SpeechOptions())
    assert cutter.push(recorded(0, 20)) == []
    assert times(cutter.push(recorded(1, 10))) == [(0.0, 20.3)]
    assert times(cutter.push(silence(10))) == [(20.7, 31.3)]
    assert cutter.finish() == []
    assert cutter.duration == 41.0


def test_what_is_kept_does_not_grow_with_the_recording() -> None:
    cutter = Cutter(Loudness(), limit_s=30, options=SpeechOptions())
    for block in (said(10), silence(10), recorded(0.1, 9.9)) * 40:
        cutter.push(block)
        assert len(cutter._kept) <= 51 * SAMPLE_RATE


def test_the_options_say_what_a_pause_is() -> None:
    waveform = recorded(0, 20, 0.5, 12)
    assert times(cut(waveform, options=SpeechOptions(silence_s=0.6)))[0] != (0.0, 20.2)
    assert times(cut(waveform, options=SpeechOptions(padding_s=0.0))) == [(0.0, 20.2), (20.5, 32.5)]
    assert cut(waveform, options=SpeechOptions(threshold=1.0)) != []
    assert len(cut(silence(45), options=SpeechOptions(threshold=0.0))) == 2


BLOCKS = st.lists(st.floats(0.001, 12), min_size=1, max_size=5)
LENGTHS = st.lists(st.floats(0, 9) | st.sampled_from([0.05, 0.19, 0.25, 1.0, 40.0]), min_size=1, max_size=12)
OPTIONS = st.builds(
    SpeechOptions,
    threshold=st.sampled_from([0.0, 0.5]),
    padding_s=st.floats(0, 60),
    silence_s=st.sampled_from([0.0, 0.1, 0.2, 1.0, 60.0]),
)


@settings(max_examples=150, deadline=None)
@given(LENGTHS, st.floats(1, 30), OPTIONS, BLOCKS)
def test_any_recording(lengths: list[float], limit_s: float, options: SpeechOptions, blocks: list[float]) -> None:
    waveform = recorded(*lengths)
    pieces = cut(waveform, limit_s=limit_s, options=options, blocks=blocks)
    finder = SpeechFinder(Loudness(), replace(options, silence_s=min(options.silence_s, LONG_PAUSE_S)))
    spans = [*finder.push(waveform), *finder.finish()]
    duration = len(waveform) / SAMPLE_RATE

    for piece in pieces:
        assert 0 < piece.end - piece.start <= limit_s + 1 / SAMPLE_RATE
        start = round(piece.start * SAMPLE_RATE)
        assert np.array_equal(piece.waveform, waveform[start : start + len(piece.waveform)])
        assert piece.speech
        assert piece.start <= piece.speech[0].start
        assert piece.speech[-1].end <= piece.end + 1e-6
    for one, following in pairwise(pieces):
        assert one.end <= following.start + 1e-6

    # All speech is in the pieces, once and in order: joined where a cut went through it, it is what was found.
    cut_up = [span for piece in pieces for span in piece.speech]
    joined: list[Span] = []
    for span in cut_up:
        assert span.start < span.end
        if joined and span.start - joined[-1].end < 1e-6:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    expected = [Span(span.start, min(span.end, duration)) for span in spans if span.start < duration]
    covered = np.zeros(len(waveform), bool)
    for span in joined:
        covered[round(span.start * SAMPLE_RATE) : round(span.end * SAMPLE_RATE)] = True
    for span in expected:
        heard = waveform[round(span.start * SAMPLE_RATE) : round(span.end * SAMPLE_RATE)] != 0
        assert covered[round(span.start * SAMPLE_RATE) : round(span.end * SAMPLE_RATE)][heard].all()


def test_the_last_of_equally_quiet_places() -> None:
    assert quietest(said(2)) == 2 * SAMPLE_RATE - 2400
    assert quietest(np.zeros(2, np.float32)) in (0, 1)


def test_a_cut_is_in_the_middle_of_a_pause_and_not_at_its_end() -> None:
    at = quietest(np.concatenate([said(3), silence(0.18), said(3)]))
    assert at / SAMPLE_RATE == pytest.approx(3.09, abs=0.02)


def test_a_short_pause_between_words_is_better_than_lips_that_close() -> None:
    pause = 0.01 * said(0.18)  # not as silent as the closed lips, but longer
    at = quietest(np.concatenate([said(1), silence(0.04), said(1), pause, said(1), silence(0.04), said(1)]))
    assert at / SAMPLE_RATE == pytest.approx(2.13, abs=0.03)


def test_a_soft_vowel_is_no_pause() -> None:
    at = quietest(np.concatenate([said(1), 0.2 * said(0.4), said(1), silence(0.1), said(1)]))
    assert at / SAMPLE_RATE == pytest.approx(2.45, abs=0.03)


def test_halves_meet_in_the_longest_pause_of_the_middle() -> None:
    (piece,) = cut(recorded(1, 3, 0.6, 2, 0.3, 4, 1))
    first, second = halve(piece)
    assert times([first, second]) == [(0.0, 4.3), (4.3, 11.9)]
    assert len(first.waveform) + len(second.waveform) == len(piece.waveform)
    assert (len(first.speech), len(second.speech)) == (1, 2)


def test_halves_of_speech_without_a_pause() -> None:
    (piece,) = cut(said(8))
    first, second = halve(piece)
    assert 2 < first.end == second.start < 6
    assert first.speech[-1].end == second.speech[0].start == first.end


def test_frames_are_32_ms() -> None:
    assert FRAME_S == 0.032
