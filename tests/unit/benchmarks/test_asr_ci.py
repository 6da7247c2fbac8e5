"""Error rates and the limits they are held against."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks import asr_ci
from benchmarks.asr_ci import GATES, Evaluation, missed, transcribe
from benchmarks.client import Client, Clip, Exchange, Run, Statistics
from benchmarks.datasets import DatasetError, Recording
from benchmarks.scoring import ErrorRates, Pair, units
from tests.speech import CHINESE, ENGLISH


def _limits(**given: float) -> dict[str, float | None]:
    return {gate.option: given.get(gate.option) for gate in GATES}


@pytest.fixture
def evaluation() -> Evaluation:
    run = Run([Exchange(Clip(b"", 10.0), 2.0, "text"), Exchange(Clip(b"", 10.0), 4.0, None, "503")], took_s=5.0)
    return Evaluation(Statistics.of(run), ErrorRates(wer_percent=5.0, cer_percent=None, worst_clip_percent=50.0))


def test_words_and_characters_are_counted_apart() -> None:
    rates = ErrorRates.of(
        [
            Pair("One two, three four.", "one two three for", "English"),
            Pair("Five", "five", None),
            Pair("你好，小明。", "你好小名", "Chinese"),
            Pair("早上好", "早上好", None),
        ]
    )
    assert rates.wer_percent == pytest.approx(100 * 1 / 5)
    assert rates.cer_percent == pytest.approx(100 * 1 / 7)
    assert rates.worst_clip_percent == pytest.approx(25.0)


def test_nothing_heard_is_an_error_for_each_word() -> None:
    assert ErrorRates.of([Pair("one two", "", "English")]).wer_percent == 100.0
    assert ErrorRates.of([]) == ErrorRates(None, None, None)


def test_spelling_variants_of_one_character_are_the_same() -> None:
    assert units("Don’t ＡＢ", by_character=False) == units("don't ab", by_character=False)


def test_every_kept_limit_is_silent(evaluation: Evaluation) -> None:
    kept = _limits(
        max_wer=0.05,
        max_clip_error=0.5,
        max_failed=1,
        max_mean_s=2.0,
        max_p95_s=2.0,
        max_rtf_mean=0.2,
        max_rtf_p95=0.2,
        min_requests_per_s=0.2,
        min_audio_s_per_s=2.0,
    )
    assert missed(evaluation, kept) == []


@pytest.mark.parametrize(
    ("option", "limit", "sentence"),
    [
        ("max_wer", 0.04, "wer is 0.05, above the limit of 0.04"),
        ("max_cer", 0.04, "cer was not measured, the limit is 0.04"),
        ("max_clip_error", 0.4, "clip_error is 0.5, above the limit of 0.4"),
        ("max_failed", 0, "failed is 1, above the limit of 0"),
        ("max_p95_s", 1.9, "p95_s is 2, above the limit of 1.9"),
        ("min_audio_s_per_s", 2.5, "audio_s_per_s is 2, below the limit of 2.5"),
    ],
)
def test_every_missed_limit_is_named(evaluation: Evaluation, option: str, limit: float, sentence: str) -> None:
    assert missed(evaluation, _limits(**{option: limit})) == [sentence]


def test_every_gate_has_a_figure(evaluation: Evaluation) -> None:
    for gate in GATES:
        kind, name = gate.option.split("_", 1)
        assert kind in ("max", "min")
        assert gate.figure(evaluation) is not None or name == "cer"


class Parrot(Client):
    """Answers with the fields it was sent; offline."""

    async def model(self) -> str:
        return "parrot"

    async def transcribe(self, clip: Clip) -> Exchange:
        fields: Mapping[str, str] = clip.fields
        return Exchange(clip, 0.1, f"{clip.name} {fields.get('language')}")


async def test_the_language_is_sent_unless_it_shall_be_detected() -> None:
    recordings = [Recording(r.path, r.text, r.language) for r in (ENGLISH[0], CHINESE[0])]
    names = [recording.path.name for recording in recordings]
    async with Parrot("http://nowhere") as client:
        told = await transcribe(client, recordings, 2)
        detected = await transcribe(client, recordings, 2, detect_language=True)
    assert [exchange.text for exchange in told.exchanges] == [f"{names[0]} en", f"{names[1]} zh"]
    assert [exchange.text for exchange in detected.exchanges] == [f"{name} None" for name in names]
    assert all(exchange.clip.seconds > 1 for exchange in told.exchanges)
    assert [pair.said for pair in asr_ci.pairs(recordings, told)] == [ENGLISH[0].text, CHINESE[0].text]


async def test_a_recording_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    async with Parrot("http://nowhere") as client:
        with pytest.raises(DatasetError, match=r"bad\.wav: "):
            await transcribe(client, [Recording(tmp_path / "bad.wav", "x", None)], 1)
