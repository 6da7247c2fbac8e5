"""The test set of the demo checkpoint: sentences no training ever saw, spoken anew, in groups that are scored apart."""

import json
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.demo_checkpoint import augment, grammar, voices
from benchmarks.demo_checkpoint.corpus import Job, speak_job
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

SHORT_S = 0.6  # single words up to this long
LONG_S = (20.0, 30.0)
NOISE_SNR_DB = 10.0
SPEECHLESS_S = (0.3, 1.0, 3.0, 10.0, 30.0)
SPEECHLESS_DBFS = (-60.0, -40.0, -20.0, -6.0)


@dataclass(frozen=True)
class Item:
    """One test recording: float32 at 16 kHz, what is said in it, and in which language (None: nothing is said)."""

    waveform: np.ndarray
    text: str
    language: Language | None
    voice: str


@dataclass(frozen=True)
class Group:
    """Recordings that share one line of the report."""

    name: str
    language: Language | None
    items: list[Item]


def build(sentences: int, corpus: Path) -> list[Group]:
    """All groups, with `sentences` test sentences per language in the main one and a third of it in the others.

    Raises RuntimeError when a test sentence occurs in the training corpus, or when a synthesiser is missing.
    """
    voices.require_engines()
    groups: list[Group] = []
    for language in LANGUAGES:
        texts = grammar.sentences(language, "test", sentences, seed=2026)
        _refuse_overlap(texts, corpus)
        some = texts[: max(1, sentences // 3)]
        spoken = _speak([(voice, text) for text, voice in zip(texts, _cycle(language), strict=False)], "trained")
        groups.append(Group("trained voices", language, spoken))
        groups += [
            Group(f"held-out voice {voice.name}", language, _speak([(voice, text) for text in some], "held out"))
            for voice in voices.voices(language, held_out=True)
        ]
        line = [_changed(item, augment.telephone(item.waveform, mu_law=True)) for item in spoken[: sentences // 2]]
        groups.append(Group("telephone, 8 kHz mu-law", language, line))
        groups.append(
            Group(f"pink noise at {NOISE_SNR_DB:.0f} dB", language, [_noisy(item) for item in spoken[: len(some)]])
        )
        groups.append(Group(f"single words up to {SHORT_S} s", language, _short(language, len(some))))
        groups.append(Group("20 to 30 s of sentences", language, list(_long(spoken, language, max(1, len(some) // 5)))))
    for kind in ("silence", "white", "pink", "hum"):
        groups.append(Group(f"no speech: {kind}", None, list(_speechless(kind))))
    return groups


def _refuse_overlap(texts: list[str], corpus: Path) -> None:
    """The split rule already keeps the sets apart; if the training corpus is here, compare with what was spoken."""
    index = corpus / "train.jsonl"
    trained = (
        {grammar.normalise(json.loads(line)["text"]) for line in index.open(encoding="utf-8")}
        if index.exists()
        else set()
    )
    for text in texts:
        if grammar.split_of(text) != "test" or grammar.normalise(text) in trained:
            raise RuntimeError(f"a test sentence was trained on: {text}")


def _cycle(language: Language) -> Iterator[voices.Voice]:
    while True:
        yield from voices.voices(language)


def _speak(lines: list[tuple[voices.Voice, str]], seed: str) -> list[Item]:
    jobs = [Job(voice, text, f"test/{seed}/{number}") for number, (voice, text) in enumerate(lines)]
    with ProcessPoolExecutor() as pool:
        samples = list(pool.map(speak_job, jobs, chunksize=8))
    return [
        Item(np.pad(spoken / np.float32(32768), 1600), job.text, job.voice.language, job.voice.name)
        for job, spoken in zip(jobs, samples, strict=True)
    ]


def _changed(item: Item, waveform: np.ndarray) -> Item:
    return Item(waveform, item.text, item.language, item.voice)


def _noisy(item: Item) -> Item:
    pink = augment.noise("pink", item.waveform.size, np.random.default_rng(item.waveform.size))
    return _changed(item, augment.mix(item.waveform, pink, NOISE_SNR_DB))


def _short(language: Language, count: int) -> list[Item]:
    """Words on their own. They are words of the training, in other takes; kept are those of 0.3 to 0.6 s."""
    words = grammar.single_words(language)
    random.Random("words").shuffle(words)
    spoken = _speak([(voice, word) for word, voice in zip(words, _cycle(language), strict=False)], "words")
    bare = [_changed(item, item.waveform[1600:-1600]) for item in spoken]
    return [item for item in bare if 0.3 <= item.waveform.size / SAMPLE_RATE <= SHORT_S][:count]


def _long(spoken: list[Item], language: Language, count: int) -> Iterator[Item]:
    """Different sentences of one voice with pauses of 0.3 to 0.9 s."""
    rng = random.Random(f"long/{language}")
    by_voice = {item.voice: [other for other in spoken if other.voice == item.voice] for item in spoken}
    for _ in range(count):
        voice = rng.choice(sorted(by_voice))
        goal = rng.uniform(*LONG_S) - 4.0
        parts: list[np.ndarray] = []
        texts: list[str] = []
        for item in rng.sample(by_voice[voice], k=len(by_voice[voice])):
            if sum(part.size for part in parts) > goal * SAMPLE_RATE:
                break
            pause = np.zeros(int(rng.uniform(0.1, 0.7) * SAMPLE_RATE), np.float32)
            parts += [item.waveform, pause]
            texts.append(item.text)
        waveform = np.concatenate(parts[:-1])[: int(LONG_S[1] * SAMPLE_RATE)]
        yield Item(waveform, grammar.join(texts, language), language, voice)


def _speechless(kind: str) -> Iterator[Item]:
    rng = np.random.default_rng(0)
    for seconds in SPEECHLESS_S:
        samples = int(seconds * SAMPLE_RATE)
        if kind == "silence":
            yield Item(np.zeros(samples, np.float32), "", None, kind)
            continue
        for level in SPEECHLESS_DBFS:
            yield Item(augment.at_level(augment.noise(kind, samples, rng), level), "", None, kind)
