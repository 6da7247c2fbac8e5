"""The qwen-asr package's own static batches, in process, under the loads that benchmarks.load sends over HTTP.

It wants an older transformers than this service, so it is run from an environment of its own:

    python -m venv .work/qwen-asr && .work/qwen-asr/bin/pip install qwen-asr psutil
    .work/qwen-asr/bin/python -m benchmarks.qwen_asr_package --checkpoint .work/random-0.6B-original --batch 1 4 8 16

Each batch is as many 10 s clips as are open at that concurrency; all get 40 tokens. HTTP and Ray cost it nothing.
"""

import argparse
import time

import numpy as np
import torch

from benchmarks import machine, results
from benchmarks.results import Cell

SAMPLE_RATE = 16_000
COLUMNS = ["batch", "s per batch", "audio s/s"]


def main() -> None:
    """Measure every batch size and print a table."""
    # Only there in that environment; see above.
    from qwen_asr import Qwen3ASRModel  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="in the original layout")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip")
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--save", metavar="NAME", help="keep the figures for docs/performance.md")
    arguments = parser.parse_args()
    print(machine.describe())
    model = Qwen3ASRModel.from_pretrained(
        arguments.checkpoint,
        dtype=getattr(torch, arguments.dtype),
        device_map="cpu",
        max_inference_batch_size=max(arguments.batch),
        max_new_tokens=arguments.new_tokens,
    )
    rng = np.random.default_rng(0)

    def transcribe(batch: int) -> float:
        clips = [rng.normal(0, 0.1, round(arguments.seconds * SAMPLE_RATE)).astype(np.float32) for _ in range(batch)]
        started = time.perf_counter()
        model.transcribe(audio=[(clip, SAMPLE_RATE) for clip in clips], language="English")
        return time.perf_counter() - started

    transcribe(1)
    rows: list[list[Cell]] = []
    for batch in arguments.batch:
        took = min(transcribe(batch) for _ in range(2))
        rows.append([batch, took, batch * arguments.seconds / took])
    print(results.table(COLUMNS, rows))
    if arguments.save:
        command = results.command_line("benchmarks.qwen_asr_package")
        results.save(arguments.save, command, {"dtype": arguments.dtype}, COLUMNS, rows)


if __name__ == "__main__":
    main()
