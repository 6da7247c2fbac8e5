"""The demo aligner's recipe: words, their times, and what is made of them. Nothing is spoken or trained."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen3ASRProcessor

from benchmarks.demo_aligner import testset
from benchmarks.demo_aligner.batches import IGNORED, Batches, Mix, classes_of, shifted, token_start
from benchmarks.demo_aligner.corpus import TimedCorpus
from benchmarks.demo_aligner.espeak import Event, words
from benchmarks.demo_aligner.model import build_processor
from benchmarks.demo_aligner.said import Said, tighten, times_of, trim, words_of
from benchmarks.demo_aligner.scoring import Score, errors_of
from benchmarks.demo_aligner.testset import TimedItem
from benchmarks.demo_checkpoint import grammar
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.voices import Voice


@pytest.fixture(scope="module")
def processor() -> Qwen3ASRProcessor:
    return build_processor()


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_those_of_the_released_processor(processor: Qwen3ASRProcessor, language: Language) -> None:
    for text in grammar.sentences(language, "train", 200, seed=1) + grammar.single_words(language):
        assert words_of(text, language) == processor.split_words_for_alignment(text, language)


def test_times_are_known_where_words_of_both_meet() -> None:
    said = [Said("at", 0.1, 0.2), Said("forty", 0.2, 0.5), Said("five", 0.5, 0.8), Said("in the", 0.9, 1.1)]
    assert times_of(["At", "fortyfive", "in", "the"], said) == [0.1, 0.2, 0.2, 0.8, 0.9, None, None, 1.1]


def test_other_words_than_those_written_are_refused() -> None:
    with pytest.raises(ValueError, match="is not what was said"):
        times_of(["two"], [Said("too", 0.0, 1.0)])


def test_events_of_espeak_become_words() -> None:
    events = [
        Event(0, 0),
        Event(10, None, "p"),
        Event(20, None, "U"),
        Event(30, 4),  # "in the", said as one
        Event(30, None, "I"),
        Event(40, None, "@2"),
        Event(50, 11),
        Event(50, None, "h"),
        Event(60, None, "_:"),
        Event(90, None, "_"),
    ]
    assert words("Put in the hat.", events, 100, 100) == [
        Said("Put ", 0.0, 0.3),
        Said("in the ", 0.3, 0.5),
        Said("hat.", 0.5, 0.6),
    ]


def test_ends_beside_a_pause_move_to_the_sound() -> None:
    samples = np.zeros(16_000, np.int16)
    samples[4000:8000] = samples[12_000:14_000] = 9000
    said = [Said("a", 0.2, 0.4), Said("b", 0.4, 0.55), Said("c", 0.7, 1.0)]
    tightened = tighten(samples, said)
    assert [(word.start, word.end) for word in tightened] == [(0.25, 0.4), (0.4, 0.5), (0.75, 0.875)]
    trimmed, moved = trim(samples, tightened)
    assert moved[0].start == pytest.approx(0.03)
    assert trimmed.size == pytest.approx((0.875 - 0.25 + 0.06) * 16_000, abs=2)


def test_classes_are_the_nearest() -> None:
    assert classes_of([0.0, 0.039, 0.041, None, 1.0, 99.0]) == [0, 0, 1, IGNORED, 12, 499]
    assert shifted([1.0, None], 0.5, 2.0) == [2.5, None]
    assert [token_start(number) for number in (0, 12, 13)] == [0, 0.96, 1.0]


@pytest.fixture
def batches(tmp_path: Path, processor: Qwen3ASRProcessor) -> Batches:
    """Batches over a corpus whose speech is noise, every word 0.2 s long; "the" is said with the word before."""
    rng = np.random.default_rng(0)
    start = 0
    with (tmp_path / "train.i16").open("wb") as audio, (tmp_path / "train.jsonl").open("w") as index:
        for language in LANGUAGES:
            words_alone = grammar.single_words(language)
            for number, text in enumerate([*grammar.sentences(language, "train", 40, seed=6), *words_alone[:5]]):
                said = words_of(text, language)
                samples = rng.integers(-3000, 3000, size=3200 * len(said), dtype=np.int16)
                times = [round(0.2 * at, 3) for word in range(len(said)) for at in (word, word + 1)]
                known: list[float | None] = list(times)
                for word in range(1, len(said)):
                    if said[word] == "the":
                        known[2 * word - 1] = known[2 * word] = None
                line = {"start": start, "samples": samples.size, "text": text, "language": language}
                index.write(json.dumps({**line, "voice": f"{language} {number % 2}", "times": known}) + "\n")
                audio.write(samples.tobytes())
                start += samples.size
    return Batches(TimedCorpus(tmp_path, "train"), processor, 40.0, Mix(joined_from=0))


def test_every_timestamp_has_a_class_of_its_word(batches: Batches, processor: Qwen3ASRProcessor) -> None:
    timestamp = processor.tokenizer.convert_tokens_to_ids("<timestamp>")
    batch = batches.batch(step=5, worker=0)
    for rows in batch.rows:
        assert int((rows.places != IGNORED).sum()) == rows.audio.numel()
        assert ((rows.input_ids == processor.audio_token_id) == (rows.places != IGNORED)).all()
        assert (rows.classes[rows.input_ids != timestamp] == IGNORED).all()
        for ids, classes in zip(rows.input_ids, rows.classes, strict=True):
            own = classes[ids == timestamp]
            assert own.numel() % 2 == 0
            known = own[own != IGNORED]
            assert (known.diff() >= 0).all()
            assert 0 <= known[0] <= 12, "half a second of silence at most"
            assert known[-1] * 0.08 <= (ids == processor.audio_token_id).sum() / 13 + 0.2


def test_a_batch_packs_every_audio_token_once(batches: Batches) -> None:
    batch = batches.batch(step=7, worker=0)
    total = batch.units.numel()
    assert batch.windows[-1] == total
    assert (batch.windows.diff() <= 104).all()
    assert sorted(index for rows in batch.rows for index in rows.audio.tolist()) == list(range(total))
    assert 0 <= batch.units.max() < batches.units


def test_a_batch_is_a_function_of_step_and_worker(batches: Batches) -> None:
    first, again, other = batches.batch(3, 0), batches.batch(3, 0), batches.batch(3, 1)
    assert first.mel.equal(again.mel)
    assert first.units.equal(again.units)
    assert not first.units.equal(other.units)


def test_scores_count_known_times_only() -> None:
    errors = errors_of([0.0, None, None, 1.0], [0.08, 0.3, 0.3, 1.6])
    assert errors == pytest.approx([0.08, 0.6])
    score = Score.of("some", "English", 1, errors)
    assert (score.times, score.mean_ms, score.within_100_ms_percent, score.beyond_500_ms_percent) == (2, 340, 50, 50)


@pytest.mark.parametrize(("sentences", "voices"), [(1, 1), (3, 2)])
def test_few_sentences_make_no_empty_groups(monkeypatch: pytest.MonkeyPatch, sentences: int, voices: int) -> None:
    def speak(lines: list[tuple[Voice, str]], _: str) -> list[TimedItem]:
        return [
            TimedItem(np.ones(16_000, np.float32), text, voice.language, f"{number % voices}", [0.0, 1.0])
            for number, (voice, text) in enumerate(lines)
        ]

    monkeypatch.setattr(testset, "_speak", speak)
    groups = list(testset.build(sentences))
    assert all(group.items for group in groups)
    assert ("a pause of 1 to 2.9 s between two" in {group.name for group in groups}) == (sentences > voices)
