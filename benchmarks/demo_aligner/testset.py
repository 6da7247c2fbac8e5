"""The test set of the demo aligner: sentences no training ever saw, spoken anew, in groups that are scored apart."""

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.demo_aligner.batches import shifted
from benchmarks.demo_aligner.corpus import speak_job
from benchmarks.demo_aligner.said import Times
from benchmarks.demo_checkpoint import augment, grammar, voices
from benchmarks.demo_checkpoint.corpus import Job
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.testset import LONG_S, NOISE_SNR_DB
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

_MARGIN_S = 0.1  # silence around every recording


@dataclass(frozen=True)
class TimedItem:
    """One test recording: float32 at 16 kHz, what is said in it, and start and end of every word in seconds."""

    waveform: np.ndarray
    text: str
    language: Language
    voice: str
    times: Times


@dataclass(frozen=True)
class TimedGroup:
    """Recordings that share one line of the report."""

    name: str
    language: Language
    items: list[TimedItem]


def build(sentences: int) -> Iterator[TimedGroup]:
    """All groups, with `sentences` test sentences per language in the main one and a third of it in the others.

    None is empty: with fewer sentences than twice the voices there may be none of two by one voice.
    """
    return (group for group in _groups(sentences) if group.items)


def _groups(sentences: int) -> Iterator[TimedGroup]:
    for language in LANGUAGES:
        texts = grammar.sentences(language, "test", sentences, seed=2026)
        some = texts[: max(1, sentences // 3)]
        heard, kept_back = voices.voices(language), voices.voices(language, held_out=True)
        spoken = _speak([(heard[number % len(heard)], text) for number, text in enumerate(texts)], "trained")
        yield TimedGroup("trained voices", language, spoken)
        for voice in kept_back:
            yield TimedGroup(
                f"held-out voice {voice.name}", language, _speak([(voice, text) for text in some], "held out")
            )
        line = [replace(item, waveform=augment.telephone(item.waveform, mu_law=True)) for item in spoken[: len(some)]]
        yield TimedGroup("telephone, 8 kHz mu-law", language, line)
        noisy = [_noisy(item) for item in spoken[: len(some)]]
        yield TimedGroup(f"pink noise at {NOISE_SNR_DB:.0f} dB", language, noisy)
        yield TimedGroup("a pause of 1 to 2.9 s between two", language, list(_paused(spoken, language, len(some))))
        yield TimedGroup("20 to 30 s of sentences", language, list(_long(spoken, language, max(1, len(some) // 5))))


def _speak(lines: list[tuple[voices.Voice, str]], seed: str) -> list[TimedItem]:
    jobs = [Job(voice, text, f"aligner test/{seed}/{number}") for number, (voice, text) in enumerate(lines)]
    with ProcessPoolExecutor() as pool:
        answers = list(pool.map(speak_job, jobs, chunksize=8))
    margin = int(_MARGIN_S * SAMPLE_RATE)
    return [
        TimedItem(
            np.pad(spoken.samples / np.float32(32768), margin),
            job.text,
            job.voice.language,
            job.voice.name,
            shifted(spoken.times, 1.0, _MARGIN_S),
        )
        for job, spoken in zip(jobs, answers, strict=True)
        if spoken is not None
    ]


def _noisy(item: TimedItem) -> TimedItem:
    pink = augment.noise("pink", item.waveform.size, np.random.default_rng(item.waveform.size))
    return replace(item, waveform=augment.mix(item.waveform, pink, NOISE_SNR_DB))


def _paused(spoken: list[TimedItem], language: Language, count: int) -> Iterator[TimedItem]:
    """Two sentences of one voice, with a longer pause between them than any in the training, if one has two."""
    rng = random.Random(f"aligner paused/{language}")
    by_voice = {item.voice: [other for other in spoken if other.voice == item.voice] for item in spoken}
    choice = sorted(voice for voice, own in by_voice.items() if len(own) > 1)
    for _ in range(count if choice else 0):
        first, second = rng.sample(by_voice[rng.choice(choice)], k=2)
        pause = np.zeros(int(rng.uniform(1.0, 2.9) * SAMPLE_RATE), np.float32)
        begins_s = (first.waveform.size + pause.size) / SAMPLE_RATE
        yield TimedItem(
            np.concatenate([first.waveform, pause, second.waveform]),
            grammar.join([first.text, second.text], language),
            language,
            first.voice,
            [*first.times, *shifted(second.times, 1.0, begins_s)],
        )


def _long(spoken: list[TimedItem], language: Language, count: int) -> Iterator[TimedItem]:
    """Different sentences of one voice with pauses of 0.3 to 0.9 s."""
    rng = random.Random(f"aligner long/{language}")
    by_voice = {item.voice: [other for other in spoken if other.voice == item.voice] for item in spoken}
    for _ in range(count):
        voice = rng.choice(sorted(by_voice))
        goal = rng.uniform(*LONG_S) - 4.0
        parts: list[np.ndarray] = []
        texts: list[str] = []
        times: Times = []
        seconds = 0.0
        for item in rng.sample(by_voice[voice], k=len(by_voice[voice])):
            if seconds > goal:
                break
            pause = np.zeros(int(rng.uniform(0.1, 0.7) * SAMPLE_RATE), np.float32)
            parts += [item.waveform, pause]
            texts.append(item.text)
            times += shifted(item.times, 1.0, seconds)
            seconds += (item.waveform.size + pause.size) / SAMPLE_RATE
        yield TimedItem(np.concatenate(parts), grammar.join(texts, language), language, voice, times)
