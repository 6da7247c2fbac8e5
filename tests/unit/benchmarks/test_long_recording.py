"""What the benchmarks of long recordings count, and what they send."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.client import Clip, Exchange, Run
from benchmarks.long_recording import borders, fairness, memory, replicas
from benchmarks.long_recording.cuts import cut_sentences
from benchmarks.long_recording.speech import Sentence, join, write_mp3
from benchmarks.long_recording.words import by_joining, compare, habits
from deployments.audio.decode import decode
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from tests.speech import RECORDINGS, Recording

SAID = ["The plane leaves at ten.", "I like tea.", "Call me."]


def waveform_of(recording: Recording) -> Waveform:
    """It without the silence at its ends."""
    with recording.path.open("rb") as file:
        waveform = decode(file, max_duration_s=60)
    sounding = np.flatnonzero(np.abs(waveform) > 0.01)
    return waveform[sounding[0] : sounding[-1]]


def sentence(seconds: float, seed: int) -> Sentence:
    rng = np.random.default_rng(seed)
    return Sentence(rng.normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32), f"Number {seed}.")


class TestWords:
    @pytest.mark.parametrize(
        ("heard", "slips", "errors"),
        [
            ("The plane leaves at ten. I like tea. Call me.", [], 0),
            ("the plane leaves at 10 i like tee call me", [], 2),
            ("The plane leaves at. I like tea. Call me.", [("lost", "ten", (0,))], 1),
            ("The plane leaves at ten. Ten. I like tea. Call me.", [("added", "ten", (0, 1))], 1),
            ("The plane leaves at ten. I like like tea. Call me.", [("added", "like", (1,))], 1),
            ("The plane leaves at ten. I like tea. Call me. Me.", [("added", "me", (2,))], 1),
            ("The plane leaves at ten. Call me.", [("lost", word, (1,)) for word in ("i", "like", "tea")], 3),
        ],
    )
    def test_what_is_missing_and_what_is_too_much(self, heard: str, slips: list[object], errors: int) -> None:
        found = compare(SAID, heard)
        assert [(slip.kind, slip.word, slip.sentences) for slip in found.slips] == slips
        assert (found.words, found.errors) == (10, errors)

    def test_nothing_heard_is_everything_lost(self) -> None:
        assert [slip.word for slip in compare(["Call me."], "").slips] == ["call", "me"]

    def test_what_a_sentence_does_alone_does_not_come_of_joining(self) -> None:
        alone = habits([(SAID[1], compare([SAID[1]], "like tea"))])
        joined = compare(SAID, "The plane leaves at ten. Like tea. Me.")
        assert [slip.word for slip in joined.slips] == ["i", "call"]
        assert [slip.word for slip in by_joining(joined, SAID, alone)] == ["call"]

    def test_a_slip_is_told_with_the_words_around_it(self) -> None:
        (slip,) = compare(SAID, "The plane leaves at ten. I tea. Call me.").slips
        assert (
            str(slip)
            == "lost 'like': said ... leaves at ten i like tea call me ..., heard ... leaves at ten i tea call me ..."
        )


class TestSpeech:
    def test_a_recording_is_its_sentences_with_pauses(self) -> None:
        sentences = [sentence(1.0, seed) for seed in range(4)]
        recording = join(sentences, 20, seed=1)
        assert 20 <= recording.seconds < 23
        sounding = np.abs(recording.waveform) > 0
        assert np.count_nonzero(sounding) == pytest.approx(len(recording.sentences) * SAMPLE_RATE, rel=0.01)
        assert not sounding[: round(0.3 * SAMPLE_RATE)].any()
        for start, each in zip(recording.starts, recording.sentences, strict=True):
            begin = round(start * SAMPLE_RATE)
            assert np.array_equal(recording.waveform[begin : begin + len(each.waveform)], each.waveform)
        assert {each.text for each in recording.sentences} == {each.text for each in sentences}

    def test_sentences_are_cut_where_they_are_longer_than_a_piece(self) -> None:
        spoken = [Sentence(waveform_of(recording), recording.text) for recording in RECORDINGS[:4]]
        recording = join(spoken, 30, seed=1)
        assert cut_sentences(recording, 10.0) == set(), "there are pauses between them"
        long = {number for number, each in enumerate(recording.sentences) if each.seconds > 1.5}
        assert long
        assert cut_sentences(recording, 1.5) >= long

    def test_an_mp3_is_as_long_as_it_says_and_holds_the_recording_over_and_over(self, tmp_path: Path) -> None:
        tone = 0.5 * np.sin(np.arange(4 * SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)
        recording = join([Sentence(tone.astype(np.float32), "Beep.")], 4, seed=0)
        seconds = write_mp3(tmp_path / "x.mp3", recording, 20)
        assert seconds == pytest.approx(20, abs=recording.seconds)
        with (tmp_path / "x.mp3").open("rb") as file:
            waveform = decode(file, max_duration_s=60)
        assert len(waveform) / SAMPLE_RATE == pytest.approx(seconds, abs=0.1)
        sounding = np.convolve(np.abs(waveform) > 0.05, np.ones(800), "same") > 0
        assert np.count_nonzero(np.diff(sounding.astype(int)) == 1) == round(seconds / recording.seconds)


GROWING = "print(flush=True); input(); held = b'x' * 80_000_000; print(flush=True); input()"


def test_the_most_that_a_process_holds_is_seen() -> None:
    process = subprocess.Popen([sys.executable, "-c", GROWING], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    with memory.watching({"it": psutil.Process(process.pid)}) as held:
        assert held["it"].growth == 0
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        patience = 200
        while held["it"].growth < 70 and (patience := patience - 1):
            time.sleep(0.1)
    process.kill()
    process.communicate()
    assert 70 < held["it"].growth < 120


def test_growth_and_failures_are_problems() -> None:
    clip = Clip(b"x" * 2_000_000, 3600.0)
    measured = memory.Measured("json", Exchange(clip, 9.0, None, "503"), {"ingress": memory.Held(200, 501)})
    assert measured.rows() == [["json", 1.0, 2.0, 9.0, 0, "ingress", 200, 501, 301]]
    assert measured.problems() == ["json: 503", "json: the ingress grew by 301 MB"]
    assert memory.Measured("json", Exchange(clip, 9.0, "Hi"), {"ingress": memory.Held(200, 499)}).problems() == []


def test_how_much_later_in_seconds_and_in_steps() -> None:
    def load(name: str, first_s: float, latency_s: float) -> fairness.Load:
        failed = Exchange(Clip(b"", 2.0), 60.0, None, "503")
        return fairness.Load(name, Run([Exchange(Clip(b"", 2.0), latency_s, "Hi", None, first_s), failed], 1.0), 0.25)

    rows = fairness.rows_of(load("alone", 0.5, 1.0), load("beside", 1.0, 3.0))
    assert rows == [
        ["alone", 2, 1, 0.5, 0.5, 1.0, 1.0, 250.0],
        ["beside", 2, 1, 1.0, 1.0, 3.0, 3.0, 250.0],
        ["later by, s", None, None, 0.5, 0.5, 2.0, 2.0, None],
        ["later by, decode steps", None, None, 2.0, 2.0, 8.0, 8.0, None],
    ]


def test_replicas_are_beside_the_first() -> None:
    one = replicas.Measured(600.0, 20.0, (15.0,), 3.0, ())
    two = replicas.Measured(600.0, 12.5, (8.0, 7.0), 3.0, ())
    assert one.row(one) == [1, 10.0, 20.0, 30.0, 1.0, "15.0", 3.0]
    assert two.row(one) == [2, 10.0, 12.5, 48.0, 1.6, "8.0 + 7.0", 3.0]


class TestBorders:
    def test_words_that_are_said_as_one_are_one(self) -> None:
        assert borders.together([0.1, 0.3, 0.3, None, None, 0.9, 1.0, 1.2]) == [(0.1, 0.3), (0.3, 0.9), (1.0, 1.2)]

    def test_a_border_is_inside_a_word_or_not(self) -> None:
        speech = borders.Speech(np.zeros(4 * SAMPLE_RATE, np.float32), [(0.0, 1.0), (2.0, 3.0)])
        assert borders.share_inside(speech, [0.5, 0.99, 1.5, 2.1], 0.02) == 0.5
        assert borders.share_inside(speech, [0.5, 0.99, 1.5, 2.1], 0.2) == 0.25
        assert borders.share_by_chance(speech, 0.25) == 0.25

    def test_sentences_follow_each_other_with_their_words(self) -> None:
        sentence = borders.Speech(np.ones(SAMPLE_RATE, np.float32), [(0.25, 0.75)])
        speech = borders.joined([sentence], 10, None)
        assert 10 <= len(speech.waveform) / SAMPLE_RATE < 11.2
        assert len(speech.words) in (9, 10)
        for start, end in speech.words:
            assert end - start == 0.5
            assert speech.waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)].all()
