"""The spoken corpus: one memory-mapped int16 file and one JSON line per utterance for each split.

Running out of disk or being interrupted leaves no half corpus: the index is written last.
"""

import json
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.demo_checkpoint import grammar, voices
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language, Split
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE, Voice

TRAIN_SENTENCES = 16_000  # per language: about 9 hours
DEV_SENTENCES = 150  # per language
WORD_TAKES = 8  # times that each word of a language is spoken on its own, by different voices


@dataclass(frozen=True)
class Clip:
    """One spoken sentence: `samples` int16 values from `start` on in the split's audio file."""

    start: int
    samples: int
    text: str
    language: Language
    voice: str

    @property
    def duration(self) -> float:
        return self.samples / SAMPLE_RATE


@dataclass(frozen=True)
class Job:
    """A sentence to be spoken; `seed` fixes pace and pitch."""

    voice: Voice
    text: str
    seed: str


class Corpus:
    """One split, read lazily from disk."""

    kind: type[Clip] = Clip

    def __init__(self, folder: Path, split: Split) -> None:
        self.clips: Sequence[Clip] = [
            self.kind(**json.loads(line)) for line in (folder / f"{split}.jsonl").open(encoding="utf-8")
        ]
        self._audio = np.memmap(folder / f"{split}.i16", dtype=np.int16, mode="r")

    def waveform(self, clip: Clip) -> np.ndarray:
        """float32 `(samples,)` in [-1, 1) at 16 kHz."""
        return self._audio[clip.start : clip.start + clip.samples].astype(np.float32) / 32768


def speak_job(job: Job) -> np.ndarray:
    return voices.speak(job.voice, job.text, random.Random(job.seed))


def sentence_jobs(language: Language, split: Split, count: int) -> list[Job]:
    """`count` sentences of a split, spoken by the trained voices according to their shares."""
    speakers = voices.voices(language)
    rng = random.Random(f"{language}/{split}/voices")
    shares = [voice.share for voice in speakers]
    return [
        Job(rng.choices(speakers, shares)[0], text, f"{split}/{language}/{number}")
        for number, text in enumerate(grammar.sentences(language, split, count, seed=0))
    ]


def word_jobs(language: Language) -> list[Job]:
    """Every word on its own, each take by another voice. Training only: the words themselves are no secret."""
    speakers = voices.voices(language)
    rng = random.Random(f"{language}/words")
    return [
        Job(voice, text, f"word/{language}/{text}/{take}")
        for text in grammar.single_words(language)
        for take, voice in enumerate(rng.sample(speakers, k=min(WORD_TAKES, len(speakers))))
    ]


def build(folder: Path) -> None:
    """Speak whichever of the train and dev splits is missing in `folder`."""
    for split, jobs in missing_splits(folder, {"dev": DEV_SENTENCES, "train": TRAIN_SENTENCES}):
        write(folder, split, jobs)


def write(folder: Path, split: Split, jobs: list[Job]) -> None:
    """Speak `jobs` on all cores into `folder`."""
    voices.require_engines()
    folder.mkdir(parents=True, exist_ok=True)
    random.Random(split).shuffle(jobs)
    clips: list[Clip] = []
    start = 0
    with (folder / f"{split}.i16").open("wb") as audio, ProcessPoolExecutor() as pool:
        spoken = pool.map(speak_job, jobs, chunksize=16)
        for job, samples in zip(jobs, tqdm(spoken, total=len(jobs), desc=f"speak {split}"), strict=True):
            audio.write(samples.tobytes())
            clips.append(Clip(start, len(samples), job.text, job.voice.language, job.voice.name))
            start += len(samples)
    write_index(folder, split, clips)


def write_index(folder: Path, split: Split, clips: Sequence[Clip]) -> None:
    """The last thing written, so that an interruption leaves no half corpus."""
    index = folder / f"{split}.jsonl"
    unfinished = index.with_suffix(".part")
    with unfinished.open("w", encoding="utf-8") as lines:
        for clip in clips:
            lines.write(json.dumps(asdict(clip), ensure_ascii=False) + "\n")
    os.replace(unfinished, index)


def missing_splits(folder: Path, sentences: dict[Split, int]) -> Iterator[tuple[Split, list[Job]]]:
    """Whichever split of so many sentences a language is not in `folder` yet, with all that is to be spoken for it."""
    for split, count in sentences.items():
        if (folder / f"{split}.jsonl").exists():
            continue
        jobs = [job for language in LANGUAGES for job in sentence_jobs(language, split, count)]
        if split == "train":
            jobs += [job for language in LANGUAGES for job in word_jobs(language)]
        yield split, jobs
