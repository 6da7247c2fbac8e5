"""What is sent: recordings with what is said in them, files that are none, and clients that hang up."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks import clips, datasets
from deployments.audio.decode import decode
from deployments.audio.waveform import SAMPLE_RATE, Waveform

Form = Literal["json", "text", "verbose_json", "segments", "srt", "vtt", "stream"]
"""The answer that is asked for. `segments` is verbose_json with times of segments alone, none of words."""

FORMS: dict[Form, int] = {"json": 30, "text": 5, "verbose_json": 15, "segments": 10, "srt": 10, "vtt": 10, "stream": 20}
"""In so many of a hundred requests."""
BAD = 0.05
"""Share of requests with a file that cannot be transcribed."""
HANGS_UP = 0.07
"""Share of requests whose client does not wait for the answer."""
LONGEST_WAIT_S = 2.0
"""Of one that hangs up."""
PAUSE_S = 0.5
SENTENCES = (1, 1, 1, 2, 3, 5)
"""In a recording, one as likely as the other."""
LONG = 12
"""Sentences in the few long ones."""


@dataclass(frozen=True)
class Recording:
    """A file and what is said in it."""

    name: str
    upload: bytes
    seconds: float
    text: str
    language: str
    """English name."""


@dataclass(frozen=True)
class Case:
    """One request."""

    number: int
    recording: Recording | None
    """None: the file is a bad one."""
    upload: bytes
    form: Form
    hangs_up_after_s: float | None


def recordings(many: int = 40) -> list[Recording]:
    """The sentences that come with the project, singly and joined; the same ones every time."""
    rng = random.Random(0)
    spoken: dict[str, list[tuple[str, Waveform]]] = {}
    for sentence in datasets.read(datasets.DEMO):
        with sentence.path.open("rb") as file:
            waveform = decode(file, max_duration_s=60)
        spoken.setdefault(str(sentence.language), []).append((sentence.text, waveform))
    made = []
    for number in range(many):
        language = rng.choice(sorted(spoken))
        count = LONG if number % 20 == 19 else rng.choice(SENTENCES)
        made.append(_joined(f"{language}-{number}", rng.choices(spoken[language], k=count), language))
    return made


def _joined(name: str, sentences: Iterable[tuple[str, Waveform]], language: str) -> Recording:
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    texts, waveforms = zip(*sentences, strict=True)
    waveform = np.concatenate([part for one in waveforms for part in (one, pause)])
    between = "" if language == "Chinese" else " "
    return Recording(name, clips.wav(waveform), len(waveform) / SAMPLE_RATE, between.join(texts), language)


def make_case(number: int, known: Sequence[Recording], *, smooth: bool = False) -> Case:
    """The case of that number; with `smooth` one in which nothing goes wrong."""
    rng = random.Random(number)
    recording = rng.choice(known)
    (form,) = rng.choices(list(FORMS), weights=list(FORMS.values()))
    fate = rng.random()
    if smooth or fate >= BAD + HANGS_UP:
        return Case(number, recording, recording.upload, form, None)
    if fate < BAD:
        return Case(number, None, _bad_file(rng, recording), form, None)
    return Case(number, recording, recording.upload, form, rng.uniform(0, LONGEST_WAIT_S))


def _bad_file(rng: random.Random, recording: Recording) -> bytes:
    match rng.randrange(4):
        case 0:
            return rng.randbytes(20_000)
        case 1:
            return b"<html><body>not found</body></html>" * 10
        case 2:
            return recording.upload[:40]
        case _:  # an upload that broke off
            return recording.upload[: len(recording.upload) // 2]
