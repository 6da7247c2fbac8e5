"""What each stage of the engine costs, beside plain `generate` and the bound that memory sets.

    python -m benchmarks.random_checkpoint --size 0.6B --out .work/random-0.6B
    python -m benchmarks.engine --checkpoint .work/random-0.6B --rows 1 4 8 16 32 --save engine
    python -m benchmarks.engine --checkpoint .work/random-0.6B --device cuda --rows 1 8 32 128 --save engine_gpu

For each number of rows: milliseconds to encode and to read the prompts of that many 10 s clips, and milliseconds of
one decode step of all of them. Variants: `generate` (transformers, in the same number format), `plain` (our loop over
the model as it was loaded), on a CPU `packed` (with weights laid out for it: what is served by default) and `int8`,
on a GPU `graphs` (decode steps replayed as CUDA graphs: what is served by default) and `compiled` (the same with
`torch_compile`). A CPU is given one clip after the other to encode and to read, as the engine admits them there, a GPU
all at once. The floor is the time it takes to read all weights of the language model once, in the variant's own format,
at the bandwidth measured in the same minutes. Each variant runs in a process of its own; its memory (of a GPU: what
torch has reserved) is read after the load.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import GenerationConfig, StoppingCriteria

from benchmarks import machine, results
from benchmarks.results import Cell
from deployments.asr.answer import AnswerReader
from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.device import choose_dtype, prepare_gpu
from deployments.asr.linear import pack
from deployments.asr.mapped import mapped_zeros
from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.asr.prompt import Prompt
from deployments.asr.request import Request
from deployments.asr.runner import ModelRunner
from deployments.asr.sampling import sample
from deployments.asr.sequence import Sequence
from deployments.audio.waveform import SAMPLE_RATE
from deployments.transcription.utterance import Utterance

VARIANTS = {"cpu": ("generate", "plain", "packed", "int8"), "cuda": ("generate", "plain", "graphs", "compiled")}
CLIP_S = 10.0
SLOT_TOKENS = 512
STEPS = 10
COLUMNS = ["variant", "rows", "encode ms", "prefill ms", "step ms", "tokens/s", "step / floor", "memory GiB"]


@dataclass(frozen=True)
class Job:
    """One variant, to be measured in a process of its own."""

    variant: str
    checkpoint: Path
    rows: tuple[int, ...]
    threads: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Stages:
    """Milliseconds for all rows together; None where a variant cannot be taken apart."""

    encode: float | None
    prefill: float
    step: float


def main() -> None:
    """Measure all variants and print one table."""
    arguments = _parser().parse_args()
    limit_spinning()  # in the processes started below, as in the service
    bound_caches()
    device = torch.device(arguments.device)
    dtype = choose_dtype(arguments.dtype, device)
    print(machine.describe())
    rows: list[list[Cell]] = []
    for variant in arguments.variants or VARIANTS[device.type]:
        job = Job(variant, arguments.checkpoint, tuple(arguments.rows), arguments.threads, dtype, device)
        with multiprocessing.get_context("spawn").Pool(1) as process:
            for row in process.apply(measure, (job,)):
                print(*row, sep="\t", flush=True)
                rows.append(row)
    if arguments.save:
        settings: dict[str, Cell] = {"threads": arguments.threads, "dtype": str(dtype).removeprefix("torch.")}
        if device.type == "cuda":
            settings["device"] = torch.cuda.get_device_name()
        results.save(arguments.save, results.command_line("benchmarks.engine"), settings, COLUMNS, rows)


def measure(job: Job) -> list[list[Cell]]:
    """One row of the table for each number of rows of the batch."""
    torch.set_num_threads(job.threads)
    if job.device.type == "cuda":
        prepare_gpu()
    checkpoint = load(str(job.checkpoint), dtype=job.dtype, device=job.device)
    weights = _decode_weights(checkpoint)
    bytes_each = {"packed": 2, "int8": 1}.get(job.variant, job.dtype.itemsize)
    if job.variant in ("packed", "int8"):
        layout = pack(checkpoint.model, "int8" if job.variant == "int8" else "none")
        print(f"{job.variant}: {layout}", flush=True)
    on_gpu = job.device.type == "cuda"
    memory = (torch.cuda.memory_reserved() if on_gpu else psutil.Process().memory_info().rss) / 2**30
    floor = 1e3 * weights * bytes_each / read_bandwidth(job.device)
    table: list[list[Cell]] = []
    for rows in job.rows:
        stages = _generate(checkpoint, rows) if job.variant == "generate" else _engine(job, checkpoint, rows)
        table.append(
            [
                job.variant,
                rows,
                None if stages.encode is None else round(stages.encode),
                round(stages.prefill),
                round(stages.step, 1),
                round(1e3 * rows / stages.step, 1),
                round(stages.step / floor, 2),
                round(memory, 2),
            ]
        )
    return table


@torch.inference_mode()
def _engine(job: Job, checkpoint: Checkpoint, rows: int) -> Stages:
    prompt = Prompt(checkpoint.tokenizer)
    runner = ModelRunner(
        checkpoint,
        prompt,
        slots=rows,
        slot_tokens=SLOT_TOKENS,
        graphs=job.variant in ("graphs", "compiled"),
        compiled=job.variant == "compiled",
    )
    sequences = [noise_sequence(runner, prompt, seed) for seed in range(rows)]
    together = rows if job.device.type == "cuda" else 1
    groups = [sequences[first : first + together] for first in range(0, rows, together)]
    runner.encode(groups[0])
    runner.prefill(groups[0], first_slot=0)
    encode = sum(milliseconds(lambda g=group: runner.encode(g)) for group in groups)  # type: ignore[misc]

    def read_prompts() -> None:
        for index, group in enumerate(groups):
            choose_next(runner.prefill(group, first_slot=index * together), group)

    def step() -> None:
        choose_next(runner.decode(sequences), sequences)

    prefill = milliseconds(read_prompts)
    step()
    return Stages(encode, prefill, statistics.median(milliseconds(step) for _ in range(STEPS)))


def choose_next(logits: torch.Tensor, sequences: list[Sequence]) -> None:
    """Append each row's next token."""
    for sequence, token, logprob in zip(sequences, *sample(logits, sequences), strict=True):
        sequence.append(token, logprob)


@torch.inference_mode()
def _generate(checkpoint: Checkpoint, rows: int) -> Stages:
    """The released processor's padded batch."""
    features = checkpoint.feature_extractor(
        [_waveform(seed) for seed in range(rows)],
        sampling_rate=SAMPLE_RATE,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    prompt = Prompt(checkpoint.tokenizer).token_ids(audio_tokens=13 * round(CLIP_S))
    device = checkpoint.model.device
    inputs = {
        "input_ids": torch.tensor([prompt] * rows, device=device),
        "attention_mask": torch.ones(rows, len(prompt), dtype=torch.long, device=device),
        "input_features": features["input_features"].to(device, checkpoint.model.dtype),
        "input_features_mask": features["attention_mask"].to(device),
    }

    def transcribe(tokens: int) -> list[float]:
        """Milliseconds until each token."""
        clock = _Clock()
        config = GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        checkpoint.model.generate(**inputs, generation_config=config, stopping_criteria=[clock])
        return clock.told_ms

    transcribe(2)
    told = transcribe(1 + STEPS)
    return Stages(None, told[0], statistics.median(after - before for before, after in pairwise(told)))


class _Clock(StoppingCriteria):
    """Asked by `generate` after every token whether it shall stop."""

    def __init__(self) -> None:
        self.told_ms: list[float] = []
        self._began_at = time.perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        ended.any().item()  # a GPU is waited for
        self.told_ms.append(1e3 * (time.perf_counter() - self._began_at))
        return ended


def noise_sequence(runner: ModelRunner, prompt: Prompt, seed: int, *, seconds: float = CLIP_S) -> Sequence:
    """Noise as the engine takes it."""
    utterance = Utterance(_waveform(seed, seconds))
    tokens = runner.encoder.tokens(len(utterance.waveform))
    return Sequence(
        Request(utterance),
        prompt.token_ids(audio_tokens=tokens),
        tokens,
        budget=SLOT_TOKENS,
        reader=AnswerReader(prompt, utterance.options),
    )


def _waveform(seed: int, seconds: float = CLIP_S) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


def milliseconds(work: Callable[[], object]) -> float:
    """How long it takes, the device included."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    started = time.perf_counter()
    work()
    wait()
    return 1e3 * (time.perf_counter() - started)


def _decode_weights(checkpoint: Checkpoint) -> int:
    """Weights that a decode step reads: all of the language model and its head (tied to the embedding)."""
    return sum(weight.numel() for weight in checkpoint.model.model.language_model.parameters())


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of a pass over memory that no cache holds, on a CPU in huge pages; the best of five."""
    if device.type == "cuda":
        block = torch.ones(2**30, device=device)
    else:
        block = mapped_zeros((2**26,), torch.float32, huge_pages=True).fill_(1)
    return block.nbytes / min(1e-3 * milliseconds(block.sum) for _ in range(6))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", choices=VARIANTS, default="cpu")
    parser.add_argument("--variants", nargs="+", choices=sorted({v for of in VARIANTS.values() for v in of}))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--save", help="name to keep the figures under, for docs/performance.md")
    return parser


if __name__ == "__main__":
    main()
