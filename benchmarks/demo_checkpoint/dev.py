"""How good weights are while they are trained, on sentences never trained on: singly, and as pieces of recordings."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import jiwer
import numpy as np
import torch
import torch.distributed as dist
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_checkpoint import decode, grammar
from benchmarks.demo_checkpoint.corpus import Clip, Corpus
from benchmarks.demo_checkpoint.grammar import LANGUAGES, Language
from benchmarks.demo_checkpoint.voices import SAMPLE_RATE
from deployments.audio.cutting import Cutter
from deployments.audio.silero import SileroVad
from deployments.audio.speech import SpeechOptions

RECORDING_S = 300.0  # per language
PAUSE_S = (0.3, 1.5)
LIMIT_S = 30.0  # the service's default
_BLOCK = 10 * SAMPLE_RATE


@dataclass(frozen=True)
class Said:
    """Something to be transcribed: float32 `(samples,)` at 16 kHz, and what is said in it."""

    waveform: np.ndarray
    text: str
    language: Language


def sentences(dev: Corpus) -> list[Said]:
    """Every clip on its own."""
    return [Said(dev.waveform(clip), clip.text, clip.language) for clip in dev.clips]


def pieces(dev: Corpus) -> list[Said]:
    """The pieces that the service makes of a long recording of the clips of each language, voices in turn."""
    return [piece for language in LANGUAGES for piece in _pieces(dev, language)]


def _pieces(dev: Corpus, language: Language) -> list[Said]:
    rng = random.Random(f"pieces/{language}")
    clips = [clip for clip in dev.clips if clip.language == language]
    rng.shuffle(clips)
    parts: list[np.ndarray] = []
    said: list[tuple[float, Clip]] = []  # with the second in its middle
    seconds = 0.0
    for clip in islice(cycle(clips), 10 * len(clips)):
        if seconds >= RECORDING_S:
            break
        pause = rng.uniform(*PAUSE_S)
        parts += [np.zeros(round(pause * SAMPLE_RATE), np.float32), dev.waveform(clip)]
        said.append((seconds + pause + clip.duration / 2, clip))
        seconds += pause + clip.duration
    recording = np.concatenate(parts)
    cutter = Cutter(SileroVad(), limit_s=LIMIT_S, options=SpeechOptions())
    blocks = (recording[start : start + _BLOCK] for start in range(0, recording.size, _BLOCK))
    cut = [*(piece for block in blocks for piece in cutter.push(block)), *cutter.finish()]
    return [
        Said(
            piece.waveform,
            grammar.join([clip.text for middle, clip in said if piece.start <= middle < piece.end], language),
            language,
        )
        for piece in cut
    ]


def errors(model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor, everything: Sequence[Said]) -> str:
    """Word and character error rates, shared between the workers."""
    mine = everything[dist.get_rank() :: dist.get_world_size()]
    answers = decode.transcribe(model, processor, [each.waveform for each in mine])
    counts = torch.zeros(len(LANGUAGES) + 1, 2)
    for each, answer in zip(mine, answers, strict=True):
        row = LANGUAGES.index(each.language)
        said = grammar.units(grammar.normalise(each.text), each.language)
        heard = grammar.units(grammar.normalise(answer.text), each.language)
        found = jiwer.process_words(" ".join(said), " ".join(heard))
        counts[row] += torch.tensor([found.substitutions + found.deletions + found.insertions, len(said)])
        counts[-1] += torch.tensor([answer.language == each.language, 1])
    dist.all_reduce(counts)
    english, chinese, language = (100 * counts[:, 0] / counts[:, 1]).tolist()
    return f"WER {english:.1f} % CER {chinese:.1f} % language {language:.1f} %"
