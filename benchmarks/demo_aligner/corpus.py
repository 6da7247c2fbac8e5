"""The spoken corpus with the times of its words: as the demo checkpoint's, one audio file and one index a split."""

import logging
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.demo_aligner.said import Times
from benchmarks.demo_aligner.speech import Spoken, speak
from benchmarks.demo_checkpoint.corpus import Clip, Corpus, Job, missing_splits, write_index
from benchmarks.demo_checkpoint.grammar import Split

TRAIN_SENTENCES = 8_000  # per language: about 4 hours, besides the single words
DEV_SENTENCES = 80  # per language

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimedClip(Clip):
    """One spoken sentence; `times` are start and end of each of its words, in seconds from its own start."""

    times: Times


class TimedCorpus(Corpus):
    """One split, read lazily from disk."""

    kind = TimedClip
    clips: Sequence[TimedClip]


def speak_job(job: Job) -> Spoken | None:
    """None where the synthesiser says something else than is written, which is a handful in ten thousand."""
    try:
        return speak(job.voice, job.text, random.Random(job.seed))
    except ValueError as error:
        logger.warning("%s: %s", job.voice.name, error)
        return None


def build(folder: Path) -> None:
    """Speak whichever of the train and dev splits is missing in `folder`."""
    for split, jobs in missing_splits(folder, {"dev": DEV_SENTENCES, "train": TRAIN_SENTENCES}):
        write(folder, split, jobs)


def write(folder: Path, split: Split, jobs: list[Job]) -> None:
    """Speak `jobs` on all cores into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    random.Random(split).shuffle(jobs)
    clips: list[TimedClip] = []
    start = 0
    with (folder / f"{split}.i16").open("wb") as audio, ProcessPoolExecutor() as pool:
        everything = pool.map(speak_job, jobs, chunksize=16)
        for job, spoken in zip(jobs, tqdm(everything, total=len(jobs), desc=f"speak {split}"), strict=True):
            if spoken is None:
                continue
            length = len(spoken.samples)
            audio.write(spoken.samples.tobytes())
            clips.append(TimedClip(start, length, job.text, job.voice.language, job.voice.name, spoken.times))
            start += length
    write_index(folder, split, clips)
