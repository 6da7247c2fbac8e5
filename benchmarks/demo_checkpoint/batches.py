"""Training batches: which sentences are heard in which step, how they are joined, prompted and packed.

A batch is a function of (step, worker) alone, so an interrupted training goes on with exactly the data it would
have seen.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import Qwen3ASRProcessor

from benchmarks.demo_checkpoint import augment, grammar, tokenizer
from benchmarks.demo_checkpoint.corpus import Clip, Corpus
from benchmarks.demo_checkpoint.excerpts import Excerpt, beginning_of, ending_of
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.tokenizer import CtcUnits
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

LONGEST_S = 30.0
TOKENS_PER_WINDOW = 104  # the encoder attends within 8 s

# Long utterances are what the service's cutter makes of long recordings.
LONG_S = (6.0, LONGEST_S)
PAUSE_S = (0.1, 3.0)  # it cuts in longer ones; equally many in each octave
NO_PAUSE_S = (0.0, 0.06)
PADDING_S = 0.5  # longest silence before and after the speech
TWICE = 0.05  # share of sentences that were said before
UNEVEN_DBFS = (-40.0, -3.0)
LEVEL_DBFS = (-9.0, -3.0)

# Where a word is said is known about: no further from where it is expected, and from its sentence.
REACH = SAMPLE_RATE * 3 // 5
MARGIN = SAMPLE_RATE // 10
NOWHERE = 0, 0


@dataclass(frozen=True)
class Mix:
    """What training utterances are made of, as shares of their number."""

    long: float = 0.0  # sentences with pauses that fill an utterance as the service sends it of a long recording
    butted: float = 0.0  # of the long ones: sentences that follow on each other without a pause
    uneven: float = 0.0  # of the long ones: each sentence is as loud or quiet as it likes
    cut: float = 0.0  # of the long ones' beginnings and ends: within a sentence, which the corpus knows the words of
    joined: float = 0.35  # 2 to 10 sentences with pauses, up to 30 s
    joined_from: int = 800  # the first steps learn words from short utterances, which align sooner
    joined_counts: tuple[int, ...] = (2, 2, 3, 3, 4, 4, 5, 6, 8, 10)
    single: float = 0.3  # one word, and as large a share of the joined are lists of words
    speechless: float = 0.04
    chinese: float = 0.38  # English has more and more varied voices, so it learns slower
    forced: float = 0.5  # language given in the prompt; otherwise the model has to say it
    context: float = 0.15  # a system turn with some words of the domain


@dataclass(frozen=True)
class Sentence:
    """A sentence in a waveform: its text and where it is, in samples."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Utterance:
    """One training example.

    mel is `(128, frames)` without padding; labels follow prompt in the answer; places are for each label the audio
    tokens (first, end) in which it is said, NOWHERE where it is not said or that is not known.
    """

    mel: np.ndarray
    prompt: list[int]
    labels: list[int]
    units: list[int]
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Rows:
    """Utterances of about the same length as right-padded rows of the language model.

    input_ids (rows, length); audio (audio tokens,) are the positions of this group's audio in the packed encoder
    output; labels (rows, length) is -100 wherever nothing is to be predicted, already shifted by one; places
    (rows, length, 2) are from where to where in the row each label is said, 0 to 0 where that is not known.
    """

    input_ids: torch.Tensor
    audio: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """mel (1, 128, 100 * chunks) and mask (1, 100 * chunks) hold all utterances, each padded to whole seconds;
    windows are the encoder's attention borders, lengths the audio tokens of each utterance."""

    mel: torch.Tensor
    mask: torch.Tensor
    windows: torch.Tensor
    lengths: list[int]
    units: list[list[int]]
    rows: list[Rows]
    seconds: float


class Batches:
    """Draws utterances from the training corpus until a batch holds `seconds` of audio."""

    def __init__(
        self, corpus: Corpus, processor: Qwen3ASRProcessor, units: CtcUnits, seconds: float, mixture: Mix
    ) -> None:
        self._corpus = corpus
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._units = units
        self._seconds = seconds
        self._mix = mixture
        self._recipe = augment.Recipe()
        self._in_place = replace(self._recipe, speed=0.0, padding_s=0.0)
        self._by_voice: dict[Language, dict[str, list[Clip]]] = {name: defaultdict(list) for name in LANGUAGES}
        self._clips: dict[Language, list[Clip]] = {name: [] for name in LANGUAGES}
        self._single: dict[Language, list[Clip]] = {name: [] for name in LANGUAGES}
        words = {text for name in LANGUAGES for text in grammar.single_words(name)}
        for clip in corpus.clips:
            if clip.text in words:
                self._single[clip.language].append(clip)
            self._clips[clip.language].append(clip)
            self._by_voice[clip.language][clip.voice].append(clip)
        self._words = {name: grammar.vocabulary(name) for name in LANGUAGES}
        self._audio_id = processor.audio_token_id

    def batch(self, step: int, worker: int) -> Batch:
        rng = np.random.default_rng([step, worker])
        utterances: list[Utterance] = []
        seconds = 0.0
        while seconds < self._seconds:
            joined = step >= self._mix.joined_from and rng.random() < self._mix.joined
            utterance = self._utterance(joined, rng)
            utterances.append(utterance)
            seconds += utterance.mel.shape[1] / 100
        return self._pack(utterances, seconds)

    def _utterance(self, joined: bool, rng: np.random.Generator) -> Utterance:
        if rng.random() < self._mix.speechless:
            return self._prompted(augment.without_speech(rng), "", None, rng)
        language: Language = "Chinese" if rng.random() < self._mix.chinese else "English"
        if rng.random() < self._mix.long:
            waveform, sentences = self._long(language, rng)
            text = grammar.join([sentence.text for sentence in sentences], language)
            waveform = augment.distort(waveform, lambda: self._babble(rng), self._in_place, rng)
            return self._prompted(waveform, text, language, rng, sentences)
        if joined:
            waveform, text = self._joined(language, rng)
        else:
            single = rng.random() < self._mix.single / (1 - self._mix.joined)
            clip = _choose(self._single[language] if single else self._clips[language], rng)
            waveform, text = self._corpus.waveform(clip), clip.text
        waveform = augment.distort(waveform, lambda: self._babble(rng), self._recipe, rng)[
            : int(LONGEST_S * SAMPLE_RATE)
        ]
        return self._prompted(waveform, text, language, rng)

    def _joined(self, language: Language, rng: np.random.Generator) -> tuple[np.ndarray, str]:
        """Several sentences with pauses, mostly of one voice, that still fit when slowed down.

        Some are lists of single words: they teach to listen, since no grammar says what comes next.
        """
        clips = self._clips[language]
        if rng.random() < self._mix.single:
            clips = self._single[language]
        elif rng.random() < 0.8:
            clips = self._by_voice[language][_choose(clips, rng).voice]
        longest = LONGEST_S * self._recipe.speed_range[0] - 2 * self._recipe.padding_s
        parts: list[np.ndarray] = []
        texts: list[str] = []
        seconds = 0.0
        for _ in range(int(rng.choice(self._mix.joined_counts))):
            clip, pause = _choose(clips, rng), rng.uniform(0.15, 1.0)
            seconds += clip.duration + pause
            if parts and seconds > longest:
                break
            waveform = self._corpus.waveform(clip)
            parts += [augment.at_level(waveform, rng.uniform(*LEVEL_DBFS)), _silence(pause)]
            texts.append(clip.text)
        return np.concatenate(parts[:-1]), grammar.join(texts, language)

    def _long(self, language: Language, rng: np.random.Generator) -> tuple[np.ndarray, list[Sentence]]:
        """Sentences that fill an utterance as the service cuts them out of a long recording.

        They are of one voice or of many, with pauses up to those that the service cuts in, and little silence at the
        ends. Some are lists of single words. Some are said twice, or the model would tell its place by the words alone.
        """
        clips = self._clips[language]
        kind = rng.random()
        if kind < self._mix.single / 2:
            clips = self._single[language]
        elif kind < 0.6:
            clips = self._by_voice[language][_choose(clips, rng).voice]
        factor = rng.uniform(*self._recipe.speed_range) if rng.random() < self._recipe.speed else 1.0
        said, pauses = self._filling(clips, rng.uniform(*LONG_S) * factor, rng)
        excerpts = [Excerpt(clip.text, self._corpus.waveform(clip)) for clip in said]
        before, after = rng.uniform(0.0, PADDING_S, 2)
        if rng.random() < self._mix.cut:
            excerpts[0], before = ending_of(said[0], excerpts[0].waveform, rng), 0.0
        if len(said) > 1 and rng.random() < self._mix.cut:
            excerpts[-1], after = beginning_of(said[-1], excerpts[-1].waveform, rng), 0.0
        levels = UNEVEN_DBFS if rng.random() < self._mix.uneven else LEVEL_DBFS
        parts = [_silence(before)]
        sentences: list[Sentence] = []
        for excerpt, pause in zip(excerpts, pauses, strict=True):
            waveform = augment.change_speed(excerpt.waveform, factor)
            start = sum(part.size for part in parts)
            sentences.append(Sentence(excerpt.text, start, start + waveform.size))
            parts += [augment.at_level(waveform, rng.uniform(*levels)), _silence(pause)]
        parts[-1] = _silence(after)
        return np.concatenate(parts)[: int(LONGEST_S * SAMPLE_RATE)], sentences

    def _filling(
        self, clips: Sequence[Clip], seconds: float, rng: np.random.Generator
    ) -> tuple[list[Clip], list[float]]:
        """Sentences that together last at most so long, but for a single one, and the pause after each (seconds)."""
        butted = rng.random() < self._mix.butted
        said: list[Clip] = []
        pauses: list[float] = []
        while True:
            clip = _choose(said if said and rng.random() < TWICE else clips, rng)
            seconds -= clip.duration
            if said and seconds < 0:
                return said, pauses
            said.append(clip)
            pauses.append(rng.uniform(*NO_PAUSE_S) if butted else float(np.exp(rng.uniform(*np.log(PAUSE_S)))))
            seconds -= pauses[-1]

    def _babble(self, rng: np.random.Generator) -> np.ndarray:
        """Three people at once."""
        talkers = [self._corpus.waveform(_choose(self._corpus.clips, rng)) for _ in range(3)]
        length = max(talker.size for talker in talkers)
        return sum((np.resize(talker, length) for talker in talkers), np.zeros(length, np.float32))

    def _prompted(
        self,
        waveform: np.ndarray,
        text: str,
        language: Language | None,
        rng: np.random.Generator,
        sentences: Sequence[Sentence] = (),
    ) -> Utterance:
        """The released prompt around one waveform. Without speech the language is `None` and never forced."""
        features = self._processor.feature_extractor(
            waveform, sampling_rate=SAMPLE_RATE, padding=True, return_attention_mask=True, return_tensors="np"
        )
        frames = int(features["attention_mask"].sum())
        mel = features["input_features"][0, :, :frames]
        if rng.random() < self._recipe.masks:
            mel = augment.mask_spectrogram(mel, rng)
        context = self._context(text, rng) if rng.random() < self._mix.context else ""
        prompt = (
            f"<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|>"
            f"{tokenizer.AUDIO_PAD * audio_tokens(frames)}<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
        )
        named, answer = f"language {language}<asr_text>", f"{text}<|im_end|>"
        forced = rng.random() < self._mix.forced
        if language is None and forced:
            # A client may force a language on a silent recording: the answer is then empty.
            named = f"language {LANGUAGES[rng.integers(len(LANGUAGES))]}<asr_text>"
        if forced:
            prompt += named
        else:
            answer = named + answer
        units = self._units.encode(text, language) if language else []
        labels = self._tokenizer(answer, return_offsets_mapping=True)
        places = _places(answer, [end for _, end in labels.offset_mapping], sentences, audio_tokens(frames))
        return Utterance(mel, self._tokenizer(prompt).input_ids, labels.input_ids, units, places)

    def _context(self, text: str, rng: np.random.Generator) -> str:
        """A few words of either language, half the time with some that are really spoken."""
        words = list(rng.choice(self._words[LANGUAGES[rng.integers(2)]], size=rng.integers(1, 8)))
        spoken = text.split()
        if spoken and rng.random() < 0.5:
            words += list(rng.choice(spoken, size=min(2, len(spoken))))
        return str(rng.choice([" ", ", ", "，", "\n"])).join(words)

    def _pack(self, utterances: list[Utterance], seconds: float) -> Batch:
        chunks = [-(-utterance.mel.shape[1] // 100) for utterance in utterances]
        mel = np.zeros((1, 128, 100 * sum(chunks)), np.float32)
        mask = np.zeros((1, 100 * sum(chunks)), np.int64)
        windows = [0]
        lengths = []
        start = 0
        for utterance, count in zip(utterances, chunks, strict=True):
            frames = utterance.mel.shape[1]
            mel[0, :, start : start + frames] = utterance.mel
            mask[0, start : start + frames] = 1
            start += 100 * count
            lengths.append(audio_tokens(frames))
            first = windows[-1]
            windows += [first + end for end in range(TOKENS_PER_WINDOW, lengths[-1], TOKENS_PER_WINDOW)]
            windows.append(first + lengths[-1])
        return Batch(
            mel=torch.from_numpy(mel),
            mask=torch.from_numpy(mask),
            windows=torch.tensor(windows, dtype=torch.int32),
            lengths=lengths,
            units=[utterance.units for utterance in utterances],
            rows=self._rows(utterances, lengths),
            seconds=seconds,
        )

    def _rows(self, utterances: list[Utterance], lengths: list[int]) -> list[Rows]:
        """Sort by length and cut into groups whose padding stays below about a sixth."""
        starts = np.cumsum([0, *lengths])
        order = sorted(range(len(utterances)), key=lambda i: _tokens(utterances[i]))
        groups: list[list[int]] = [[]]
        for index in order:
            group = groups[-1]
            if group and _tokens(utterances[index]) > 1.35 * _tokens(utterances[group[0]]) + 8:
                groups.append(group := [])
            group.append(index)
        rows = []
        for group in groups:
            length = max(_tokens(utterances[i]) for i in group)
            input_ids = torch.zeros(len(group), length, dtype=torch.long)
            labels = torch.full((len(group), length), -100)
            places = torch.zeros(len(group), length, 2, dtype=torch.long)
            for row, i in enumerate(group):
                prompt, answer = utterances[i].prompt, utterances[i].labels
                # The last answer token is only ever predicted, never read.
                input_ids[row, : len(prompt) + len(answer) - 1] = torch.tensor([*prompt, *answer[:-1]])
                labels[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
                spans = torch.tensor(utterances[i].places)
                first = prompt.index(self._audio_id)
                places[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = spans + first * (spans > 0).any(1, True)
            audio = torch.cat([torch.arange(int(starts[i]), int(starts[i + 1])) for i in group])
            rows.append(Rows(input_ids, audio, labels, places))
        return rows


def audio_tokens(frames: int) -> int:
    """Encoder outputs for a number of mel frames: 13 a second, one for every 8 frames of the rest."""
    return 13 * (frames // 100) + -(-(frames % 100) // 8)


def _places(answer: str, ends: list[int], sentences: Sequence[Sentence], audio: int) -> list[tuple[int, int]]:
    """About where each token of an answer is said: as if a voice took equally long for every letter of a sentence.

    Args:
        answer: with all sentences in their order.
        ends: where in it each token ends.
        sentences: where they are said.
        audio: how many audio tokens there are.
    """
    places = [NOWHERE] * len(ends)
    at = 0
    for sentence in sentences:
        start = answer.index(sentence.text, at)
        begin, at = at or start, start + len(sentence.text)  # the blank before a sentence is its own
        first, last = sentence.start - MARGIN, sentence.end + MARGIN
        for token, end in enumerate(ends):
            if begin < end <= at:
                said = sentence.start + (sentence.end - sentence.start) * (end - start) // len(sentence.text)
                place = _token_at(max(first, said - REACH)), _token_at(min(last, said + REACH)) + 1
                places[token] = place[0], min(place[1], audio)
    return places


def _token_at(sample: int) -> int:
    """The audio token that a sample is in; 0 before the start."""
    return audio_tokens(max(sample, 0) * 100 // SAMPLE_RATE + 1) - 1


def _tokens(utterance: Utterance) -> int:
    return len(utterance.prompt) + len(utterance.labels) - 1


def _choose(clips: Sequence[Clip], rng: np.random.Generator) -> Clip:
    return clips[int(rng.integers(len(clips)))]


def _silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)
