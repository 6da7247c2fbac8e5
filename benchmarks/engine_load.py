"""The engine under load, without a service around it: closed loops of clips, and where the time goes.

    python -m benchmarks.random_checkpoint --size 0.6B --out .work/random-0.6B
    python -m benchmarks.engine_load --checkpoint .work/random-0.6B --concurrency 1 8 32 128
    python -m benchmarks.engine_load --checkpoint .work/random-0.6B --device cuda --concurrency 1 32 128 256

It starts as a replica does, with the same settings (`ASR_*` in the environment). What a service adds to this is the
difference to `benchmarks.load`. Every clip is noise of its own and is answered with `--tokens` tokens.
"""

import argparse
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import machine, results
from benchmarks.results import Cell
from deployments.asr.engine import Engine
from deployments.asr.onednn import bound_caches
from deployments.asr.openmp import limit_spinning
from deployments.asr.request import Request
from deployments.asr.start import start_engine
from deployments.audio.waveform import SAMPLE_RATE
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Utterance

COLUMNS = [
    "concurrency",
    "clips",
    "audio s/s",
    "mean s",
    "p95 s",
    "encode ms a clip",
    "prefill ms a clip",
    "decode ms a step",
    "rows a step",
]


def closed_loop(engine: Engine, utterances: list[Utterance], concurrency: int) -> list[Cell]:
    """Keep so many utterances in the engine until all are transcribed. Returns the cells of `COLUMNS`."""
    room = threading.Semaphore(concurrency)
    took: list[float] = []

    def done(began_at: float, _: object) -> None:
        took.append(time.perf_counter() - began_at)
        room.release()

    requests = [Request(utterance) for utterance in utterances]
    engine.statistics.take()
    started = time.perf_counter()
    for request in requests:
        room.acquire()
        request.future.add_done_callback(partial(done, time.perf_counter()))
        engine.submit([request])
    tokens = sum(request.future.result().output_tokens for request in requests)
    seconds = time.perf_counter() - started
    period = engine.statistics.take()
    return [
        concurrency,
        len(requests),
        round(sum(utterance.duration for utterance in utterances) / seconds, 1),
        round(float(np.mean(took)), 3),
        round(float(np.percentile(took, 95)), 3),
        round(1e3 * period.encode_s / len(requests), 2),
        round(1e3 * period.prefill_s / len(requests), 2),
        round(1e3 * period.decode_s / period.decode_steps, 2),
        round((tokens - len(requests)) / period.decode_steps, 1),
    ]


def noise(seed: int, seconds: float, tokens: int) -> Utterance:
    """An utterance that is answered with so many tokens."""
    waveform = np.random.default_rng(seed).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return Utterance(waveform, DecodingOptions(max_new_tokens=tokens, loop_detection=False))


def main() -> None:
    """Run one closed loop after the other and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--clips", type=int, default=4, help="of each loop, times its concurrency")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    limit_spinning()
    bound_caches()
    print(machine.describe())
    settings = Settings(model=str(arguments.checkpoint))
    engine = start_engine(settings, ServedModel.of(settings), num_gpus=1 if arguments.device == "cuda" else 0)
    rows: list[list[Cell]] = []
    for concurrency in arguments.concurrency:
        count = max(8, arguments.clips * concurrency)
        clips = [noise(seed, arguments.seconds, arguments.tokens) for seed in range(count)]
        rows.append(closed_loop(engine, clips, concurrency))
        print(*rows[-1], sep="\t", flush=True)
    engine.stop()
    print(results.table(COLUMNS, rows))
    if arguments.save:
        where: dict[str, Cell] = {"device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"}
        print(results.save(arguments.save, results.command_line("benchmarks.engine_load"), where, COLUMNS, rows))


if __name__ == "__main__":
    main()
