"""The pure parts of the demo checkpoint's recipe: no synthesiser, no training."""

import io
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ASRProcessor

from benchmarks.demo_aligner.corpus import TimedClip, TimedCorpus
from benchmarks.demo_aligner.said import Times, words_of
from benchmarks.demo_checkpoint import augment, dev, grammar, voices
from benchmarks.demo_checkpoint.batches import Batches, Mix, audio_tokens
from benchmarks.demo_checkpoint.corpus import Clip, Corpus, Job, write, write_index
from benchmarks.demo_checkpoint.excerpts import JITTER_S, beginning_of, ending_of
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language, Split
from benchmarks.demo_checkpoint.losses import place_loss
from benchmarks.demo_checkpoint.model import build_processor
from benchmarks.demo_checkpoint.tokenizer import CtcUnits
from deployments.audio.decode import decode
from tests.speech import RECORDINGS


@pytest.fixture(scope="module")
def processor() -> Qwen3ASRProcessor:
    return build_processor()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("language", LANGUAGES)
def test_splits_never_share_a_sentence(language: Language) -> None:
    counts: dict[Split, int] = {"train": 3000, "dev": 100, "test": 300}
    splits = [
        {grammar.normalise(text) for text in grammar.sentences(language, split, count, seed=3)}
        for split, count in counts.items()
    ]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_filled_in_and_end_with_punctuation(language: Language) -> None:
    for text in grammar.sentences(language, "train", 500, seed=4):
        assert "{" not in text
        assert text[-1] in ".?。？"
        assert text[0] == text[0].upper()
        assert set(grammar.units(grammar.normalise(text), language)) <= set(grammar.vocabulary(language))


def test_sentences_are_the_same_for_the_same_seed() -> None:
    assert grammar.sentences("English", "test", 20, seed=5) == grammar.sentences("English", "test", 20, seed=5)


def test_normalise_drops_case_and_punctuation_of_both_scripts() -> None:
    assert grammar.normalise("At twenty-five o'clock, please?") == "at twenty five oclock please"
    assert grammar.normalise("小明，早上好。") == "小明 早上好"
    assert grammar.units("小明 早上好", "Chinese") == list("小明早上好")


def test_join_puts_a_space_between_english_sentences_only() -> None:
    assert grammar.join(["One.", "Two."], "English") == "One. Two."
    assert grammar.join(["一。", "二。"], "Chinese") == "一。二。"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_keeps_a_voice_back(language: Language) -> None:
    heard, kept_back = voices.voices(language), voices.voices(language, held_out=True)
    assert len(heard) >= 10
    assert kept_back
    assert not {voice.speaker for voice in heard} & {voice.speaker for voice in kept_back}


def test_any_text_survives_the_tokenizer(processor: Qwen3ASRProcessor) -> None:
    texts = ["Turn on the light in the kitchen.", "请打开厨房的灯。", "language Indonesian<asr_text>", "Zażółć 🎈 ñ"]
    texts += [text for language in LANGUAGES for text in grammar.single_words(language)]
    for text in texts:
        assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_words_around_a_transcript_are_single_tokens(processor: Qwen3ASRProcessor) -> None:
    for language in ("English", "Chinese", "None"):
        assert len(processor.tokenizer(f"language {language}<asr_text>").input_ids) == 3


def test_ctc_units_tell_all_words_apart() -> None:
    units = CtcUnits()
    for language in LANGUAGES:
        words = grammar.vocabulary(language)
        encoded = {tuple(units.encode(word, language)) for word in words}
        assert len(encoded) == len(words)
        assert all(0 < unit < len(units) for word in encoded for unit in word)


def test_prompt_is_the_released_one(processor: Qwen3ASRProcessor) -> None:
    waveform = np.zeros(16_000, np.float32)
    inputs = processor.apply_transcription_request(waveform, language="zh", prompt="Anna, 厨房")
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>system\nAnna, 厨房<|im_end|>\n<|im_start|>user\n<|audio_start|>"
        + "<|audio_pad|>" * 13
        + "<|audio_end|><|im_end|>\n<|im_start|>assistant\nlanguage Chinese<asr_text>"
    )


@pytest.mark.parametrize("samples", [4800, 8000, 16_001, 20_480, 48_000, 100_000])
def test_audio_tokens_agree_with_the_processor(processor: Qwen3ASRProcessor, samples: int) -> None:
    inputs = processor.apply_transcription_request(np.zeros(samples, np.float32))
    placeholders = int((inputs["input_ids"] == processor.audio_token_id).sum())
    assert audio_tokens(int(inputs["input_features_mask"].sum())) == placeholders


@pytest.mark.parametrize("kind", augment.NOISES)
def test_noise_has_the_asked_length_and_is_finite(kind: str, rng: np.random.Generator) -> None:
    for samples in (4800, 16_001):
        waveform = augment.noise(kind, samples, rng)
        assert waveform.shape == (samples,)
        assert waveform.dtype == np.float32
        assert np.isfinite(waveform).all()


def test_distortions_stay_finite_and_in_range(rng: np.random.Generator) -> None:
    speech = np.sin(np.arange(20_000, dtype=np.float32) / 9) * np.float32(0.3)
    for _ in range(60):
        heard = augment.distort(speech, lambda: speech[:5000], augment.Recipe(), rng)
        assert 20_000 / 1.21 < heard.size < 20_000 / 0.84 + 16_000
        assert heard.dtype == np.float32
        assert np.isfinite(heard).all()
        assert 0 < np.abs(heard).max() <= 10 ** (-3 / 20) + 1e-3


def test_telephone_removes_what_a_line_does_not_carry() -> None:
    seconds = np.arange(16_000) / 16_000
    for hertz, kept in ((100, False), (1000, True), (5000, False)):
        tone = np.sin(2 * np.pi * hertz * seconds).astype(np.float32)
        heard = augment.telephone(tone, mu_law=False)
        assert heard.shape == tone.shape
        assert (np.abs(heard[4000:12_000]).max() > 0.9) == kept


def test_speechless_clips_are_0_3_to_30_seconds(rng: np.random.Generator) -> None:
    for _ in range(50):
        assert 0.3 * 16_000 - 1 <= augment.without_speech(rng).size <= 30 * 16_000


def test_silence_stays_silence() -> None:
    assert not augment.at_level(np.zeros(100, np.float32), -6.0).any()


@pytest.fixture
def batches(tmp_path: Path, processor: Qwen3ASRProcessor, monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Batches over a corpus whose speech is noise."""

    def hiss(job: Job) -> np.ndarray:
        return np.random.default_rng(len(job.text)).integers(
            -3000, 3000, size=16_000 + 800 * len(job.text), dtype=np.int16
        )

    class Here:
        """A process pool that stays in this process."""

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def map(self, function: Callable[[Job], np.ndarray], jobs: list[Job], chunksize: int) -> Iterable[np.ndarray]:
            return map(function, jobs)

    monkeypatch.setattr("benchmarks.demo_checkpoint.corpus.ProcessPoolExecutor", Here)
    monkeypatch.setattr("benchmarks.demo_checkpoint.corpus.speak_job", hiss)
    monkeypatch.setattr("benchmarks.demo_checkpoint.voices.require_engines", lambda: None)
    jobs = [
        Job(random.Random(text).choice(voices.voices(language)), text, text)
        for language in LANGUAGES
        for text in grammar.sentences(language, "train", 40, seed=6) + grammar.single_words(language)[:5]
    ]
    write(tmp_path, "train", jobs)
    everything = Mix(joined=0.5, joined_from=0, speechless=0.2, context=0.5)
    return Batches(Corpus(tmp_path, "train"), processor, CtcUnits(), 40.0, everything)


@pytest.fixture
def long_batches(batches: Batches, tmp_path: Path, processor: Qwen3ASRProcessor) -> Batches:
    """Batches of the same corpus, of long utterances alone."""
    return Batches(Corpus(tmp_path, "train"), processor, CtcUnits(), 100.0, Mix(long=1.0, speechless=0.0))


def test_a_batch_packs_every_audio_token_once(batches: Batches, processor: Qwen3ASRProcessor) -> None:
    batch = batches.batch(step=7, worker=0)
    total = sum(batch.lengths)
    assert batch.windows[-1] == total
    assert (batch.windows.diff() <= 104).all()
    assert sorted(index for rows in batch.rows for index in rows.audio.tolist()) == list(range(total))
    for rows in batch.rows:
        assert int((rows.input_ids == processor.audio_token_id).sum()) == rows.audio.numel()
        ends = rows.labels == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert (ends.sum(dim=1) == 1).all()


def test_a_batch_is_a_function_of_step_and_worker(batches: Batches) -> None:
    first, again, other = batches.batch(3, 0), batches.batch(3, 0), batches.batch(3, 1)
    assert first.mel.equal(again.mel)
    assert first.lengths == again.lengths
    assert first.lengths != other.lengths


def test_labels_follow_the_prompt(batches: Batches, processor: Qwen3ASRProcessor) -> None:
    """The first label is predicted from the prompt's last token; the answers read as the model should write them."""
    for step in range(3):
        for rows in batches.batch(step, 0).rows:
            for ids, labels in zip(rows.input_ids, rows.labels, strict=True):
                wanted = (labels != -100).nonzero().flatten()
                start = int(wanted[0])
                prompt = processor.tokenizer.decode(ids[: start + 1])
                answer = processor.tokenizer.decode(labels[wanted])
                assert prompt.endswith(("assistant\n", "<asr_text>"))
                assert answer.startswith("language ") != prompt.endswith("<asr_text>")
                assert answer.endswith("<|im_end|>")
                assert ids[start + 1 : start + wanted.numel()].equal(labels[wanted][:-1])


def test_long_utterances_are_as_long_as_the_service_sends_them(long_batches: Batches) -> None:
    lengths = [length / 13 for step in range(3) for length in long_batches.batch(step, 0).lengths]
    assert max(lengths) <= 30.0
    assert max(lengths) > 20.0
    assert np.mean(lengths) > 10.0


def test_every_word_of_a_long_utterance_has_a_place_in_the_audio(
    long_batches: Batches, processor: Qwen3ASRProcessor
) -> None:
    """The whole answer has places and nothing else has; they move on through the audio, from its start to its end."""
    for rows in long_batches.batch(5, 0).rows:
        for ids, labels, places in zip(rows.input_ids, rows.labels, rows.places, strict=True):
            audio = (ids == processor.audio_token_id).nonzero().flatten()
            placed = places[:, 1] > 0
            answer = processor.tokenizer.decode(labels[labels != -100]).removesuffix("<|im_end|>")
            assert processor.tokenizer.decode(labels[placed]) == answer.rpartition("<asr_text>")[2]
            starts, ends = places[placed].unbind(1)
            assert audio[0] <= starts[0] < audio[13]
            assert audio[-26] < ends[-1] <= audio[-1] + 1
            assert (starts.diff() >= 0).all()
            assert (starts < ends).all()
            assert (ends - starts <= 1.2 * 13 + 2).all()


def test_looking_at_the_place_costs_nothing_and_looking_elsewhere_does() -> None:
    """Two tokens of four have a place; of two heads only one looks there, with all or half of its attention."""
    places = torch.tensor([[[0, 0], [0, 0], [0, 2], [1, 2]]])
    attention = torch.zeros(1, 2, 4, 4)
    attention[0, :, 2, 0] = 1.0
    attention[0, :, 3, 1] = 1.0
    assert place_loss(attention, places) == pytest.approx(0.0, abs=1e-4)
    attention[0, 1, 3] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert place_loss(attention, places) == pytest.approx(np.log(2), abs=1e-4)
    attention[0, 0, 3] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert place_loss(attention, places) == pytest.approx(np.log(4), abs=1e-4)


def test_development_recordings_are_cut_as_the_service_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sentence is in one piece, in order, and pieces are as long as those of long recordings."""
    monkeypatch.setattr(dev, "RECORDING_S", 80.0)
    waveforms = [
        (decode(io.BytesIO(recording.path.read_bytes()), max_duration_s=30) * 32767).astype(np.int16)
        for recording in RECORDINGS
    ]
    (tmp_path / "dev.i16").write_bytes(np.concatenate(waveforms).tobytes())
    starts = np.cumsum([0, *(waveform.size for waveform in waveforms)]).tolist()
    clips = [
        Clip(start, waveform.size, recording.text, "English" if recording.language == "English" else "Chinese", "any")
        for start, waveform, recording in zip(starts, waveforms, RECORDINGS, strict=False)
    ]
    write_index(tmp_path, "dev", clips)

    pieces = dev.pieces(Corpus(tmp_path, "dev"))

    for language in LANGUAGES:
        own = [piece for piece in pieces if piece.language == language]
        lengths = [piece.waveform.size / 16_000 for piece in own]
        assert max(lengths) <= 30.0
        assert sum(lengths) == pytest.approx(80.0, abs=10.0)
        assert all(length > 10.0 for length in lengths[:-1])
        said = grammar.join([piece.text for piece in own], language)
        once = [clip.text for clip in clips if clip.language == language]
        for text in once:
            assert text in said
        assert sum(map(len, once)) < len(said) < 3 * sum(map(len, once))


TIMED = TimedClip(0, 32_000, "Turn on forty-five, please.", "English", "us", [0.0, 0.4, 0.4, None, None, 1.2, 1.4, 2.0])


def test_a_sentence_is_cut_where_it_is_known_when_its_words_are_said(rng: np.random.Generator) -> None:
    waveform = np.arange(32_000, dtype=np.float32)
    found = {}
    for _ in range(40):
        first, last = beginning_of(TIMED, waveform, rng), ending_of(TIMED, waveform, rng)
        found[first.text] = first.waveform.size / 16_000
        found[last.text] = float(last.waveform[0]) / 16_000
    cuts = {"Turn": 0.4, "on forty-five, please.": 0.4, "Turn on forty-five,": 1.3, "please.": 1.3}
    assert found == {text: pytest.approx(seconds, abs=JITTER_S) for text, seconds in cuts.items()}


def test_what_cannot_be_cut_is_whole(rng: np.random.Generator) -> None:
    waveform = np.ones(16_000, np.float32)
    for clip in (
        Clip(0, 16_000, "Turn it on.", "English", "us"),
        TimedClip(0, 16_000, "Nine.", "English", "us", [0.0, 1.0]),
    ):
        for excerpt in (beginning_of(clip, waveform, rng), ending_of(clip, waveform, rng)):
            assert (excerpt.text, excerpt.waveform.size) == (clip.text, 16_000)


def test_long_utterances_hold_what_their_text_says(processor: Qwen3ASRProcessor, tmp_path: Path) -> None:
    sentences: dict[Language, str] = {"English": "Turn on the light.", "Chinese": "请打开灯。"}
    with (tmp_path / "train.jsonl").open("w", encoding="utf-8") as lines:
        for number, (language, text) in enumerate(sentences.items()):
            count = len(words_of(text, language))
            times: Times = [second / 16 for word in range(count) for second in (word, word + 1)]
            clip = TimedClip(number * 16_000, 1000 * count, text, language, language, times)
            lines.write(json.dumps(asdict(clip)) + "\n")
    np.full(32_000, 8000, np.int16).tofile(tmp_path / "train.i16")
    mix = Mix(long=1.0, butted=0.5, uneven=0.5, cut=0.5, joined_from=0, single=0.0, speechless=0.0)
    batches = Batches(TimedCorpus(tmp_path, "train"), processor, CtcUnits(), 60.0, mix)
    for step in range(3):
        batch = batches.batch(step, 0)
        assert batch.seconds >= 60
        for rows in batch.rows:
            assert (rows.places[..., 1] <= rows.input_ids.shape[1]).all()
            assert ((rows.places[..., 1] > 0).sum(1) > 0).all(), "every answer is told where it is said"
