"""Where the service cuts a recording: by its own code, for it does not tell."""

from benchmarks.long_recording.speech import Recording
from deployments.audio.cutting import Cutter
from deployments.audio.decode import BLOCK_S
from deployments.audio.silero import SileroVad
from deployments.audio.speech import SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform

_EDGE_S = 0.05
"""The synthesisers' sentences begin and end in so much of nearly nothing."""


def cut_sentences(recording: Recording, limit_s: float) -> set[int]:
    """Numbers of the sentences that are not in one piece.

    Args:
        recording: as it is sent.
        limit_s: longest piece, in seconds.
    """
    borders = borders_of(recording.waveform, limit_s)
    return {
        number
        for number, (start, sentence) in enumerate(zip(recording.starts, recording.sentences, strict=True))
        if any(start + _EDGE_S < border < start + sentence.seconds - _EDGE_S for border in borders)
    }


def borders_of(waveform: Waveform, limit_s: float) -> list[float]:
    """Where pieces begin and end, in seconds: each place once, without both ends of the recording."""
    cutter = Cutter(SileroVad(), limit_s=limit_s, options=SpeechOptions())
    pieces = []
    for start in range(0, len(waveform), BLOCK_S * SAMPLE_RATE):
        pieces += cutter.push(waveform[start : start + BLOCK_S * SAMPLE_RATE])
    pieces += cutter.finish()
    ends = {0.0, len(waveform) / SAMPLE_RATE}
    return sorted({border for piece in pieces for border in (piece.start, piece.end)} - ends)
