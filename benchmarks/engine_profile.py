"""Where the time of each stage of the engine goes on a CPU, and how close its matrix products come to the hardware.

    python -m benchmarks.engine_profile --checkpoint .work/random-0.6B

By torch's profiler, which makes small operators some microseconds longer; where the model runs in C, a stage is one
figure. A decode step is bound by the memory that its weights are read from, an encoding and a prompt by arithmetic.
*Reach* is what the products' numbers and operations come to in the products' time, or where that is not known in all of
it; *best* is what a plain pass over memory, or one large product of oneDNN's, reached in the same process.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import machine, results
from benchmarks.engine import SLOT_TOKENS, choose_next, milliseconds, noise_sequence, read_bandwidth
from benchmarks.results import Cell
from deployments.asr.checkpoint import load
from deployments.asr.device import choose_dtype
from deployments.asr.linear import pack
from deployments.asr.native.encoder import NativeEncoder
from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.asr.prompt import Prompt
from deployments.asr.runner import ModelRunner
from deployments.asr.sequence import Sequence
from deployments.budget import CHUNK_TOKENS

CPU = torch.device("cpu")
REPEATS = 5
COLUMNS = [
    "stage",
    "rows",
    "ms",
    "products ms",
    "attention ms",
    "other operators ms",
    "between operators ms",
    "reach",
    "best",
]
Stage = tuple[float, float | None, float | None, float | None, float | None]
"""Milliseconds in all, in products, attention, other operators, and outside of any; None where it is not known."""
PRODUCTS = ("linear", "addmm", "aten::mm", "convolution", "conv2d")
ATTENTION = ("attention", "bmm", "softmax")


def main() -> None:
    """Profile all stages and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="of the decode steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    limit_spinning()
    bound_caches()
    torch.set_num_threads(arguments.threads)
    rows = measure(arguments.checkpoint, arguments.rows)
    print(results.table(COLUMNS, rows))
    if arguments.save:
        settings: dict[str, Cell] = {"threads": arguments.threads}
        print(results.save(arguments.save, results.command_line("benchmarks.engine_profile"), settings, COLUMNS, rows))


@torch.inference_mode()
def measure(checkpoint_folder: Path, step_rows: list[int]) -> list[list[Cell]]:
    """One row of the table for each stage."""
    dtype = choose_dtype("auto", CPU)
    checkpoint = load(str(checkpoint_folder), dtype=dtype, device=CPU)
    language_model = checkpoint.model.model.language_model
    in_layers = sum(weight.numel() for weight in language_model.layers.parameters())
    in_step = sum(weight.numel() for weight in language_model.parameters())
    pack(checkpoint.model, "none")
    prompt = Prompt(checkpoint.tokenizer)
    most = max(step_rows)
    runner = ModelRunner(checkpoint, prompt, slots=most, slot_tokens=SLOT_TOKENS)
    sequences = [noise_sequence(runner, prompt, seed) for seed in range(most)]
    arithmetic, bandwidth = _arithmetic(dtype), read_bandwidth(CPU)

    encode = partial(runner.encode, sequences[:1])
    read = partial(runner.prefill, sequences[:1], first_slot=0)
    tower = checkpoint.model.model.audio_tower
    stage = _timed if runner.runs_in_c else _profiled
    encoding = (_timed if isinstance(tower, NativeEncoder) else _profiled)(encode)
    reading = stage(read)
    encoded: tuple[Cell, Cell] = (None, None)
    if isinstance(tower, NativeEncoder):
        encoded = _reached(_encoder_operations(tower, sequences[0].audio_tokens), encoding, arithmetic, "GFLOP/s")
    # What it begins with is known from the time before.
    operations = 2 * in_layers * (len(sequences[0].prompt_ids) - runner.recall(sequences[0], slot=0))
    table: list[list[Cell]] = [
        ["encode 10 s", 1, *encoding, *encoded],
        ["read its prompt", 1, *reading, *_reached(operations, reading, arithmetic, "GFLOP/s")],
    ]
    for index, sequence in enumerate(sequences):
        runner.encode([sequence])
        choose_next(runner.prefill([sequence], first_slot=index), [sequence])
    for rows in step_rows:
        group = sequences[:rows]
        stepping = stage(partial(_step, runner, group))
        reached = _reached(in_step * dtype.itemsize, stepping, bandwidth, "GB/s")
        table.append(["decode step", rows, *stepping, *reached])
    return table


def _encoder_operations(encoder: NativeEncoder, tokens: int) -> int:
    """Of the products with which whole seconds are encoded to so many tokens."""
    seconds = tokens // CHUNK_TOKENS
    places = [seconds * times * bins for times, bins in encoder.sizes[1:]]
    products = [*zip(encoder.convolutions, places, strict=True), *((weight, tokens) for weight in encoder.linears)]
    return sum(2 * weight.outputs * weight.inputs * rows for weight, rows in products)


def _step(runner: ModelRunner, group: list[Sequence]) -> None:
    choose_next(runner.decode(group), group)


def _timed(work: Callable[[], object]) -> Stage:
    """The median, of all together."""
    work()
    return statistics.median(milliseconds(work) for _ in range(REPEATS)), None, None, None, None


def _profiled(work: Callable[[], object]) -> Stage:
    """Medians of each by torch's profiler."""
    work()
    runs: list[tuple[float, ...]] = []
    for _ in range(REPEATS):
        spent: dict[str, float] = defaultdict(float)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            took = milliseconds(work)
        for event in profiler.key_averages():
            spent[_kind(event.key)] += event.self_cpu_time_total / 1e3
        runs.append((took, spent["products"], spent["attention"], spent["other"], max(0.0, took - sum(spent.values()))))
    total, products, attention, other, between = (statistics.median(values) for values in zip(*runs, strict=True))
    return total, products, attention, other, between


def _kind(operator: str) -> str:
    if any(part in operator for part in ATTENTION):
        return "attention"
    return "products" if any(part in operator for part in PRODUCTS) else "other"


def _reached(amount: float, stage: Stage, best: float, unit: str) -> tuple[Cell, Cell]:
    """What a second did of the products, and the best of it, with their unit."""
    total, products, *_ = stage
    return f"{amount / (products or total) / 1e6:.3g} {unit}", f"{best / 1e9:.3g} {unit}"


def _arithmetic(dtype: torch.dtype) -> float:
    """Operations a second in one large product of packed weights; the best of five."""
    wide = torch.nn.Linear(4096, 4096, bias=False, dtype=dtype).requires_grad_(False)
    inputs = torch.randn(512, 4096).to(dtype)
    weight = torch.ops.mkldnn._reorder_linear_weight(wide.weight, len(inputs))
    product = torch.ops.mkldnn._linear_pointwise
    took_ms = min(milliseconds(lambda: product(inputs, weight, None, "none", [], "")) for _ in range(6))
    return 2.0 * len(inputs) * 4096 * 4096 / took_ms * 1e3


if __name__ == "__main__":
    main()
