"""Speech is found in all kinds of recordings, quiet ones too, and in nothing else."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.hostile_sounds import SOUNDS
from deployments.audio.decode import decode
from deployments.audio.silero import SileroVad
from deployments.audio.speech import FRAME, Span, SpeechFinder, SpeechOptions
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from tests.listening import recorded
from tests.media import DATA
from tests.speech import RECORDINGS, Recording


def find(waveform: Waveform, *, block_s: float = 10.0, options: SpeechOptions | None = None) -> list[Span]:
    finder = SpeechFinder(SileroVad(), options or SpeechOptions())
    size = round(block_s * SAMPLE_RATE)
    spans = [span for start in range(0, len(waveform), size) for span in finder.push(waveform[start : start + size])]
    return [*spans, *finder.finish()]


def at_level(waveform: Waveform, dbfs: float) -> Waveform:
    """The waveform with the root mean square of its loudest second at this level."""
    seconds = waveform[: len(waveform) // SAMPLE_RATE * SAMPLE_RATE].reshape(-1, SAMPLE_RATE)
    level = np.sqrt((seconds.astype(np.float64) ** 2).mean(axis=1)).max()
    return (waveform * (10 ** (dbfs / 20) / level)).astype(np.float32)


def noise(seconds: float, dbfs: float) -> Waveform:
    samples = np.random.default_rng(7).normal(0, 10 ** (dbfs / 20), round(seconds * SAMPLE_RATE))
    return samples.astype(np.float32)


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.path.stem)
def test_every_recording_holds_speech_from_end_to_end(recording: Recording) -> None:
    """All have 0.3 s of silence before and after the sentence."""
    waveform = recording.waveform
    spans = find(waveform)
    assert spans[0].start < 0.3 + 0.35
    assert spans[-1].end > len(waveform) / SAMPLE_RATE - 0.3 - 0.35


@pytest.mark.parametrize("dbfs", [-60, -50, -40, -6])
def test_the_level_does_not_matter(dbfs: float) -> None:
    for recording in RECORDINGS[::4]:
        assert find(at_level(recording.waveform, dbfs)), recording.path.name


@pytest.mark.parametrize("dbfs", [-44.0, -50.0])
def test_somebody_quiet_between_two_who_are_loud(dbfs: float) -> None:
    loud, *quiet = [recording.waveform for recording in RECORDINGS[:6]]
    for sentence in quiet:
        before = np.concatenate([at_level(loud, -14), np.zeros(SAMPLE_RATE, np.float32)])
        spans = find(np.concatenate([before, at_level(sentence, dbfs), before[::-1]]))
        start, end = len(before) / SAMPLE_RATE, (len(before) + len(sentence)) / SAMPLE_RATE
        heard = sum(max(0.0, min(span.end, end) - max(span.start, start)) for span in spans)
        assert heard > 0.5 * (end - start - 0.6), "without the silence at its ends"


def test_quiet_speech_with_a_click() -> None:
    waveform = at_level(RECORDINGS[0].waveform, -50)
    waveform[2000:2010] = 1.0
    assert find(waveform)


def test_an_offset_does_not_matter() -> None:
    waveform = at_level(RECORDINGS[0].waveform, -30)
    plain, offset = find(waveform), find(waveform + np.float32(0.4))
    assert abs(plain[0].start - offset[0].start) < 0.2
    assert abs(plain[-1].end - offset[-1].end) < 0.2


def test_float_samples_far_beyond_full_scale() -> None:
    assert find(RECORDINGS[0].waveform * np.float32(32768))


def _clicks(seconds: float) -> Waveform:
    waveform = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    waveform[:: SAMPLE_RATE // 3] = 1.0
    return waveform


def _tone(seconds: float) -> Waveform:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def _chords(seconds: float) -> Waveform:
    """What passes for music: a chord a half second, plucked."""
    time = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    rng = np.random.default_rng(1)
    chords = []
    for _ in range(round(2 * seconds)):
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        tones = [np.sin(2 * np.pi * root * ratio * time) for ratio in (1, 1.26, 1.498, 2, 3, 4)]
        chords.append(0.15 * np.exp(-4 * time) * sum(tones))
    return np.concatenate(chords).astype(np.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(20 * SAMPLE_RATE, np.float32),
        lambda: np.full(20 * SAMPLE_RATE, 0.3, np.float32),
        lambda: noise(20, -80),
        lambda: noise(20, -50),
        lambda: noise(20, -30),
        lambda: noise(20, -10),
        lambda: _clicks(20),
        lambda: _tone(20),
        lambda: _chords(20),
        lambda: recorded(10, 10),
    ],
    ids=["silence", "offset", "noise-80", "noise-50", "noise-30", "noise-10", "clicks", "tone", "music", "nyquist"],
)
def test_nobody_speaks(make: Callable[[], Waveform]) -> None:
    assert find(make()) == []


@pytest.mark.parametrize("sound", SOUNDS)
def test_nobody_speaks_in_what_machines_and_instruments_sound_like(sound: str) -> None:
    assert [find(SOUNDS[sound](np.random.default_rng(seed), 10)) for seed in range(4)] == [[]] * 4


@pytest.mark.parametrize(("sound", "seed"), [("chords", 8), ("chords", 9), ("chords", 12), ("music", 7), ("music", 12)])
def test_a_short_bit_of_music_that_is_a_little_like_speech_is_none(sound: str, seed: int) -> None:
    waveform = SOUNDS[sound](np.random.default_rng(seed), 30)
    assert SileroVad().push(waveform).max() > 0.85
    assert find(waveform) == []


@pytest.mark.parametrize(("seconds", "at_least"), [(0.15, 14), (0.25, 17), (0.4, 21)])
def test_a_single_short_word_is_speech(seconds: float, at_least: int) -> None:
    """Pieces of that length out of all recordings, which hold 22 sentences; some are the end of a word or a pause."""
    rng, pause = np.random.default_rng(0), np.zeros(SAMPLE_RATE, np.float32)
    found = 0
    for recording in RECORDINGS:
        waveform = recording.waveform
        start = rng.integers(8000, len(waveform) - 8000 - round(seconds * SAMPLE_RATE))
        word = waveform[start : start + round(seconds * SAMPLE_RATE)]
        fade = np.minimum(1, np.minimum(np.arange(len(word)), np.arange(len(word))[::-1]) / 160).astype(np.float32)
        found += bool(find(np.concatenate([pause, word * fade, pause])))
    assert found >= at_least


def test_with_a_threshold_of_zero_all_is_speech_however_short() -> None:
    assert len(find(noise(0.3, -30), options=SpeechOptions(threshold=0))) == 1


def test_blocks_of_any_length_give_the_same_spans() -> None:
    with (DATA / "jfk.flac").open("rb") as file:
        waveform = decode(file, max_duration_s=30)
    whole = find(waveform)
    assert len(whole) >= 3
    for block_s in (0.01, 0.7, 5.0):
        found = find(waveform, block_s=block_s)
        # The level is judged by block, so spans may differ by a few frames.
        assert abs(sum(s.end - s.start for s in found) - sum(s.end - s.start for s in whole)) < 1.0


def test_one_probability_for_each_frame() -> None:
    vad = SileroVad()
    assert len(vad.push(np.zeros(3 * FRAME + 1, np.float32))) == 3
    assert len(vad.push(np.zeros(0, np.float32))) == 0
    assert len(vad.push(np.zeros(FRAME - 2, np.float32))) == 0
    assert len(vad.finish()) == 1


def test_neither_torch_nor_ray_is_loaded() -> None:
    code = (
        "import sys, deployments.ingress.api, deployments.transcription.transcriber as t; t.SileroVad();"
        "assert 'onnxruntime' in sys.modules; assert not {'torch', 'silero_vad', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
