"""Training batches: sentences with the times of their words, distorted, joined, prompted and packed.

A batch is a function of (step, worker) alone, so an interrupted training goes on with exactly the data it would
have seen.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen3ASRProcessor

from benchmarks.demo_aligner.corpus import TimedClip, TimedCorpus
from benchmarks.demo_aligner.model import CLASS_S, CLASSES
from benchmarks.demo_aligner.said import Times, words_of
from benchmarks.demo_checkpoint import augment
from benchmarks.demo_checkpoint.batches import LONGEST_S, TOKENS_PER_WINDOW, audio_tokens
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

IGNORED = -100


@dataclass(frozen=True)
class Mix:
    """What training utterances are made of, as shares of their number."""

    joined: float = 0.5  # 2 to 10 sentences with pauses, up to 30 s
    joined_from: int = 300  # the first steps tell the place within a few seconds
    joined_counts: tuple[int, ...] = (2, 2, 3, 3, 4, 5, 6, 8, 10)
    single: float = 0.06  # one word; and as large a share of the joined are lists of words
    chinese: float = 0.4


@dataclass(frozen=True)
class Speech:
    """A waveform, its words in order, and two times for each of them."""

    waveform: np.ndarray
    words: list[str]
    times: Times
    language: Language


@dataclass(frozen=True)
class Example:
    """One training example.

    mel (128, frames) without padding; prompt are token ids; classes are those of the timestamps in the prompt in their
    order, IGNORED where not known; units (audio tokens,) what is said at each, 0 for nothing, IGNORED if not known.
    """

    mel: np.ndarray
    prompt: list[int]
    classes: list[int]
    units: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Examples of about the same length as right-padded rows of the text model.

    input_ids (rows, length); audio (audio tokens,) are the positions of this group's audio in the packed encoder
    output, row by row; classes (rows, length) are IGNORED but at timestamps, places (rows, length) IGNORED but at
    audio: the class of the time at which each begins.
    """

    input_ids: torch.Tensor
    audio: torch.Tensor
    classes: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """mel (1, 128, 100 * chunks) and mask (1, 100 * chunks) hold all examples, each padded to whole seconds;
    windows are the encoder's attention borders; units (audio tokens,) of all examples one after the other."""

    mel: torch.Tensor
    mask: torch.Tensor
    windows: torch.Tensor
    units: torch.Tensor
    rows: list[Rows]
    seconds: float


class Batches:
    """Draws utterances from the training corpus until a batch holds `seconds` of audio."""

    def __init__(self, corpus: TimedCorpus, processor: Qwen3ASRProcessor, seconds: float, mixture: Mix) -> None:
        self._corpus = corpus
        self._processor = processor
        heard = {word.lower() for clip in corpus.clips for word in words_of(clip.text, clip.language)}
        self._units = {word: unit for unit, word in enumerate(sorted(heard), start=1)}
        self._seconds = seconds
        self._mix = mixture
        self._recipe = augment.Recipe(masks=0.3)
        tokens = processor.tokenizer.get_added_vocab()
        self._audio, self._timestamp = tokens["<|audio_pad|>"], tokens["<timestamp>"]
        self._clips: dict[Language, list[TimedClip]] = {language: [] for language in LANGUAGES}
        self._single: dict[Language, list[TimedClip]] = {language: [] for language in LANGUAGES}
        self._by_voice: dict[str, list[TimedClip]] = defaultdict(list)
        for clip in corpus.clips:
            self._clips[clip.language].append(clip)
            self._by_voice[clip.voice].append(clip)
            if len(clip.times) <= 4:
                self._single[clip.language].append(clip)

    @property
    def units(self) -> int:
        """How many different words there are to hear, silence included."""
        return len(self._units) + 1

    def batch(self, step: int, worker: int) -> Batch:
        """The batch that `worker` learns from in `step`."""
        rng = np.random.default_rng((step, worker))
        examples: list[Example] = []
        seconds = 0.0
        while seconds < self._seconds:
            speech = self._distorted(self._speech(step, rng), rng)
            examples.append(self._example(speech, rng))
            seconds += examples[-1].mel.shape[1] / 100
        return self._pack(examples, seconds)

    def _speech(self, step: int, rng: np.random.Generator) -> Speech:
        language: Language = "Chinese" if rng.random() < self._mix.chinese else "English"
        clips = self._single[language] if rng.random() < self._mix.single else self._clips[language]
        if step >= self._mix.joined_from and rng.random() < self._mix.joined:
            return self._joined(clips, language, rng)
        clip = _choose(clips, rng)
        return Speech(self._corpus.waveform(clip), words_of(clip.text, language), clip.times, language)

    def _joined(self, clips: list[TimedClip], language: Language, rng: np.random.Generator) -> Speech:
        """Several sentences with pauses, mostly of one voice, that still fit when slowed down."""
        if clips is self._clips[language] and rng.random() < 0.8:
            clips = self._by_voice[_choose(clips, rng).voice]
        longest = LONGEST_S * self._recipe.speed_range[0] - 2 * self._recipe.padding_s
        parts: list[np.ndarray] = []
        words: list[str] = []
        times: Times = []
        seconds = 0.0
        for _ in range(int(rng.choice(self._mix.joined_counts))):
            clip, pause = _choose(clips, rng), int(rng.uniform(0.0, 1.0) * SAMPLE_RATE)
            if parts and seconds + clip.duration + pause / SAMPLE_RATE > longest:
                break
            parts += [augment.at_level(self._corpus.waveform(clip), rng.uniform(-9, -3)), np.zeros(pause, np.float32)]
            words += words_of(clip.text, language)
            times += shifted(clip.times, 1.0, seconds)
            seconds += clip.duration + pause / SAMPLE_RATE
        return Speech(np.concatenate(parts[:-1]), words, times, language)

    def _distorted(self, speech: Speech, rng: np.random.Generator) -> Speech:
        """Speed and silence move the times, so they are done here; the rest of the chain keeps them."""
        waveform, times = speech.waveform, speech.times
        if rng.random() < self._recipe.speed:
            factor = rng.uniform(*self._recipe.speed_range)
            waveform, times = augment.change_speed(waveform, factor), shifted(times, 1 / factor, 0.0)
        before, after = (self._recipe.padding_s * rng.random(2) ** 2 * SAMPLE_RATE).astype(int)  # mostly little
        waveform, times = np.pad(waveform, (before, after)), shifted(times, 1.0, before / SAMPLE_RATE)
        still = replace(self._recipe, speed=0.0, padding_s=0.0)
        waveform = augment.distort(waveform, lambda: self._babble(rng), still, rng)
        return replace(speech, waveform=waveform, times=times)

    def _babble(self, rng: np.random.Generator) -> np.ndarray:
        """Three people at once."""
        talkers = [self._corpus.waveform(_choose(self._corpus.clips, rng)) for _ in range(3)]
        length = max(talker.size for talker in talkers)
        return sum((np.resize(talker, length) for talker in talkers), np.zeros(length, np.float32))

    def _example(self, speech: Speech, rng: np.random.Generator) -> Example:
        """The released prompt around one waveform, with what is to be learnt from it."""
        features = self._processor.feature_extractor(
            speech.waveform, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True, return_tensors="np"
        )
        frames = int(features["attention_mask"].sum())
        mel = features["input_features"][0, :, :frames]
        if rng.random() < self._recipe.masks:
            mel = augment.mask_spectrogram(mel, rng)
        count = audio_tokens(frames)
        text = "".join(f"{word}<timestamp><timestamp>" for word in speech.words)
        prompt = self._processor.tokenizer(f"<|audio_start|>{'<|audio_pad|>' * count}<|audio_end|>{text}").input_ids
        return Example(mel, prompt, classes_of(speech.times), self._units_of(speech, count))

    def _units_of(self, speech: Speech, count: int) -> np.ndarray:
        """What is said in the middle of every audio token."""
        units = np.zeros(count, np.int64)
        middles = np.array([time + CLASS_S / 2 for time in map(token_start, range(count))])
        together: list[str] = []
        begin = 0.0
        for word, start, end in zip(speech.words, speech.times[::2], speech.times[1::2], strict=True):
            together.append(word)
            begin = begin if start is None else start
            if end is not None:  # else it is said as one with the next word
                unit = self._units[word.lower()] if len(together) == 1 else IGNORED
                units[(middles >= begin) & (middles < end)] = unit
                together = []
        return units

    def _pack(self, examples: list[Example], seconds: float) -> Batch:
        chunks = [-(-example.mel.shape[1] // 100) for example in examples]
        mel = np.zeros((1, 128, 100 * sum(chunks)), np.float32)
        mask = np.zeros((1, 100 * sum(chunks)), np.int64)
        windows = [0]
        start = 0
        for example, count in zip(examples, chunks, strict=True):
            frames = example.mel.shape[1]
            mel[0, :, start : start + frames] = example.mel
            mask[0, start : start + frames] = 1
            start += 100 * count
            first, length = windows[-1], len(example.units)
            windows += [first + end for end in range(TOKENS_PER_WINDOW, length, TOKENS_PER_WINDOW)]
            windows.append(first + length)
        return Batch(
            mel=torch.from_numpy(mel),
            mask=torch.from_numpy(mask),
            windows=torch.tensor(windows, dtype=torch.int32),
            units=torch.from_numpy(np.concatenate([example.units for example in examples])),
            rows=self._rows(examples),
            seconds=seconds,
        )

    def _rows(self, examples: list[Example]) -> list[Rows]:
        """Sort by length and cut into groups whose padding stays below about a sixth."""
        starts = np.cumsum([0, *(len(example.units) for example in examples)])
        groups: list[list[int]] = [[]]
        for index in sorted(range(len(examples)), key=lambda index: len(examples[index].prompt)):
            group = groups[-1]
            if group and len(examples[index].prompt) > 1.35 * len(examples[group[0]].prompt) + 8:
                groups.append(group := [])
            group.append(index)
        return [self._group([examples[index] for index in group], starts[group]) for group in groups]

    def _group(self, examples: list[Example], starts: np.ndarray) -> Rows:
        shape = len(examples), max(len(example.prompt) for example in examples)
        input_ids = torch.zeros(shape, dtype=torch.long)
        classes, places = torch.full(shape, IGNORED), torch.full(shape, IGNORED)
        for row, example in enumerate(examples):
            ids = torch.tensor(example.prompt)
            input_ids[row, : len(ids)] = ids
            classes[row, : len(ids)][ids == self._timestamp] = torch.tensor(example.classes)
            places[row, : len(ids)][ids == self._audio] = torch.tensor(
                [round(token_start(number) / CLASS_S) for number in range(len(example.units))]
            )
        audio = [torch.arange(start, start + len(each.units)) for start, each in zip(starts, examples, strict=True)]
        return Rows(input_ids, torch.cat(audio), classes, places)


def shifted(times: Times, factor: float, offset: float) -> Times:
    """Every known time times `factor` and then `offset` seconds later."""
    return [None if time is None else time * factor + offset for time in times]


def classes_of(times: Times) -> list[int]:
    """The class nearest to each time."""
    return [IGNORED if time is None else min(round(time / CLASS_S), CLASSES - 1) for time in times]


def token_start(number: int) -> float:
    """Seconds at which an audio token begins: 13 of every second, of 80 ms each but for the last, which is half."""
    return number // 13 + number % 13 * CLASS_S


def _choose(clips: Sequence[TimedClip], rng: np.random.Generator) -> TimedClip:
    return clips[int(rng.integers(len(clips)))]
