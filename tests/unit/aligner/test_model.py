"""What the service aligns is what transformers' own processor, model and decoding find, one utterance at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen3ASRForTokenClassification

from deployments.aligner.model import AlignerModel
from deployments.aligner.words import split
from deployments.exceptions import EngineFailure, UnalignableLanguage
from deployments.transcription.words import Reading, Word
from tests.unit.aligner.conftest import READINGS, load
from tests.unit.tiny_models import noise


@torch.inference_mode()
def _by_transformers(folder: Path, reading: Reading) -> tuple[Word, ...]:
    processor = AutoProcessor.from_pretrained(folder)
    model = Qwen3ASRForTokenClassification.from_pretrained(folder).eval()
    inputs, words = processor.prepare_forced_aligner_inputs(reading.waveform, reading.text, reading.language)
    logits = model(**inputs).logits
    (items,) = processor.decode_forced_alignment(
        logits, inputs["input_ids"], words, timestamp_token_id=model.config.timestamp_token_id
    )
    end = reading.duration  # the one thing the service adds: nothing is said after the end
    return tuple(Word(item["text"], min(item["start_time"], end), min(item["end_time"], end)) for item in items)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.language)
def test_alone_is_what_transformers_finds(native_folder: Path, model: AlignerModel, reading: Reading) -> None:
    (words,) = model.align([reading])
    assert words == _by_transformers(native_folder, reading)


@torch.inference_mode()
def test_scores_are_those_of_transformers(native_folder: Path, model: AlignerModel) -> None:
    """The random model points past the end nearly always, where all times are cut to the same one: so look below."""
    processor = AutoProcessor.from_pretrained(native_folder)
    plain = Qwen3ASRForTokenClassification.from_pretrained(native_folder).eval()
    words = [split(processor, reading.text, reading.language) for reading in READINGS]
    found = model._classify(READINGS, words)
    for reading, scores in zip(READINGS, found, strict=True):
        inputs, _ = processor.prepare_forced_aligner_inputs(reading.waveform, reading.text, reading.language)
        expected = plain(**inputs).logits[inputs["input_ids"] == plain.config.timestamp_token_id]
        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)
        assert expected.std() > 1, "or nothing would be compared"
    assert len({int(time) for scores in found for time in scores.argmax(dim=1)}) > 5


def test_together_is_what_each_is_alone(model: AlignerModel) -> None:
    assert model.align(READINGS) == [model.align([reading])[0] for reading in READINGS]


def test_both_layouts_give_the_same_times(original_folder: Path, model: AlignerModel) -> None:
    original = load(original_folder)
    assert original.align(READINGS) == model.align(READINGS)
    assert original.longest_s == model.longest_s


def test_times_never_go_back_and_end_within_the_waveform(model: AlignerModel) -> None:
    for reading, words in zip(READINGS, model.align(READINGS), strict=True):
        assert isinstance(words, tuple)
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= reading.duration


def test_words_are_without_punctuation(model: AlignerModel) -> None:
    first, _, chinese, _ = model.align(READINGS)
    assert isinstance(first, tuple)
    assert isinstance(chinese, tuple)
    assert [word.text for word in first] == ["Turn", "on", "the", "light", "please", "it's", "twentyfive", "past"]
    assert [word.text for word in chinese] == [*"请打开厨房的灯", "Hello", *"世界"]


def test_control_tokens_in_a_text_are_only_letters(native_folder: Path, model: AlignerModel) -> None:
    reading = Reading(noise(1.0), "a <timestamp> b<|audio_pad|>c", "English")
    (words,) = model.align([reading])
    assert isinstance(words, tuple)
    assert [word.text for word in words] == ["a", "timestamp", "baudiopadc"]
    assert words == _by_transformers(native_folder, reading)


@pytest.mark.parametrize("text", ["", "  ", "... !?", "。"])
def test_where_nothing_is_said_there_are_no_words(model: AlignerModel, text: str) -> None:
    assert model.align([Reading(noise(1.0), text, "English")]) == [()]


def test_one_that_cannot_be_aligned_does_not_touch_the_others(model: AlignerModel) -> None:
    finnish = Reading(noise(1.0), "Hyvää päivää", "Finnish")
    endless = Reading(np.zeros(50 * 16_000, np.float32), "word", "English")
    first, refused, too_long, last = model.align([READINGS[0], finnish, endless, READINGS[1]])
    assert [first, last] == model.align(READINGS[:2])
    assert isinstance(refused, UnalignableLanguage)
    assert isinstance(too_long, EngineFailure)
    assert "39.92" in too_long.message


def test_it_warms_up(model: AlignerModel) -> None:
    model.warm_up()
