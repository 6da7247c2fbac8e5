"""Languages with word times, and the words of a text."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from transformers import AutoProcessor, Qwen3ASRProcessor
from transformers.models.qwen3_asr import processing_qwen3_asr
from transformers.models.qwen3_asr.processing_qwen3_asr import FORCED_ALIGNER_LANGUAGES

from deployments.aligner.words import split
from deployments.exceptions import EngineFailure, InvalidRequest, UnalignableLanguage
from deployments.transcription.words import ALIGNED_LANGUAGES, Word, check_alignable, spans_of, times_of, words_in


@pytest.fixture(scope="module")
def processor(native_folder: Path) -> Qwen3ASRProcessor:
    return AutoProcessor.from_pretrained(native_folder)


def test_the_languages_are_the_released_ones() -> None:
    assert ALIGNED_LANGUAGES == FORCED_ALIGNER_LANGUAGES
    assert len(ALIGNED_LANGUAGES) == 11


@pytest.mark.parametrize("language", sorted(ALIGNED_LANGUAGES - {"Japanese", "Korean"}))
def test_most_languages_need_nothing_more(processor: Qwen3ASRProcessor, language: str) -> None:
    check_alignable(language)
    assert split(processor, "Uno, dos: tres!", language) == ["Uno", "dos", "tres"]


def test_chinese_is_split_into_characters(processor: Qwen3ASRProcessor) -> None:
    assert split(processor, "我有iPhone 15。", "Chinese") == ["我", "有", "iPhone", "15"]


def test_another_language_is_refused_with_those_there_are(processor: Qwen3ASRProcessor) -> None:
    with pytest.raises(UnalignableLanguage, match=r"no word times in Finnish.* Cantonese, .*Spanish") as raised:
        split(processor, "Hyvää päivää", "Finnish")
    assert isinstance(raised.value, InvalidRequest)
    assert (raised.value.param, raised.value.code) == ("timestamp_granularities", "unsupported_language")


@pytest.mark.parametrize(("language", "package"), [("Japanese", "nagisa"), ("Korean", "soynlp")])
def test_a_missing_package_is_named(
    processor: Qwen3ASRProcessor, language: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(UnalignableLanguage, match=f"in {language}: .* {package!r}"):
        split(processor, "text", language)
    with pytest.raises(UnalignableLanguage) as raised:
        split(processor, "text", "Finnish")
    assert language not in raised.value.message
    assert "Spanish" in raised.value.message


def _install(monkeypatch: pytest.MonkeyPatch, package: str, **modules: object) -> None:
    """Put stand-ins in the place of an optional package: the real ones are as heavy as all the rest."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("_", "."), module)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == package else find_spec(name))
    monkeypatch.setattr(processing_qwen3_asr, f"is_{package}_available", lambda: True)


def test_japanese_is_split_by_nagisa(processor: Qwen3ASRProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which writes full-width letters as narrow ones, among others."""
    text = "これはＡＢＣ日本語です。"
    as_nagisa = SimpleNamespace(words=["これ", "は", "ABC", "日本", "語", "です", "。"])
    _install(monkeypatch, "nagisa", nagisa=SimpleNamespace(tagging=lambda _: as_nagisa))
    words = split(processor, text, "Japanese")
    assert words == ["これ", "は", "ABC", "日本", "語", "です"]
    spans = spans_of([Word(word, 0.0, 0.0) for word in words], text)
    assert [text[begin:end] for begin, end in spans] == ["これ", "は", "ＡＢＣ", "日本", "語", "です"]


def test_korean_is_split_by_soynlp(processor: Qwen3ASRProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SimpleNamespace(tokenize=lambda _: ["안녕", "하세요,", "세계", "!"])
    _install(
        monkeypatch,
        "soynlp",
        soynlp_tokenizer=SimpleNamespace(LTokenizer=lambda: tokenizer),
        soynlp=ModuleType("soynlp"),
    )
    assert split(processor, "안녕하세요, 세계!", "Korean") == ["안녕", "하세요", "세계"]


def test_a_broken_package_is_our_fault(processor: Qwen3ASRProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "nagisa", nagisa=None)
    with pytest.raises(EngineFailure, match="no word times in Japanese"):
        split(processor, "text", "Japanese")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("It's five to, no: twenty-five past!", "English", ["It's", "five", "to", "no", "twenty-five", "past"]),
        ("我有iPhone 15。“好！”", "Chinese", ["我", "有", "iPhone", "15", "好"]),
        ("", "English", []),
    ],
)
def test_words_are_found_in_their_text(
    processor: Qwen3ASRProcessor, text: str, language: str, expected: list[str]
) -> None:
    words = [Word(word, 0.0, 0.0) for word in split(processor, text, language)]
    assert [text[begin:end] for begin, end in spans_of(words, text)] == expected


def test_a_word_that_is_not_in_the_text_takes_none_of_it() -> None:
    words = [Word(text, 0.0, 0.0) for text in ("one", "2", "three")]
    assert spans_of(words, "one two three") == [(0, 3), (3, 3), (8, 13)]


def test_a_word_is_not_looked_for_at_the_other_end_of_the_text() -> None:
    text = "two " + "and so on " * 20 + "one"
    words = [Word(text, 0.0, 0.0) for text in ("one", "and", "so")]
    assert spans_of(words, text) == [(0, 0), (4, 7), (8, 10)]


def test_words_are_shared_out_among_the_texts_that_they_are_in() -> None:
    words = [Word("twenty-five", 0.0, 1.0), Word("o'clock", 1.0, 1.5), Word("2", 1.5, 2.0), Word("No", 2.0, 3.0)]
    texts = ["twenty-five", "o'clock (two)!", "...", "No."]
    assert words_in(texts, words) == [(words[0],), (words[1], words[2]), (), (words[3],)]
    assert words_in([], []) == []
    assert words_in(["So."], []) == [()]


def test_a_text_without_words_takes_no_time() -> None:
    assert times_of(["-", "So", "-", "it is"], [Word("So", 1.0, 2.0), Word("it", 3.0, 3.5), Word("is", 3.5, 4.0)]) == [
        (1.0, 1.0),
        (1.0, 2.0),
        (2.0, 2.0),
        (3.0, 4.0),
    ]
