"""CUDA graphs of the decode step: a GPU runs it faster than Python can launch its kernels one by one."""

import itertools
import logging
from bisect import bisect_left
from typing import Any, Protocol

import torch

logger = logging.getLogger("ray.serve.asr")

SHORTEST = 256
"""Tokens of the shortest length bucket; each next one is twice as long, up to a whole slot."""


class StepFunction(Protocol):
    """A decode step whose every kernel depends on the shapes alone."""

    def __call__(self, tokens: torch.Tensor, positions: torch.Tensor, first_slot: int, length: int) -> torch.Tensor: ...


class DecodeGraphs:
    """One graph for each bucket of rows and length; a step runs in the smallest that holds it.

    The rows of a bucket that nobody holds write to position 0 of free slots, which the next prefill overwrites. A
    device without graphs (a CPU, in tests) runs the padded step itself: the same shapes, the same results.
    """

    def __init__(self, step: StepFunction, *, slots: int, slot_tokens: int, device: torch.device):
        self._step = step
        self._rows = doubling(1, slots)
        self._lengths = doubling(min(SHORTEST, slot_tokens), slot_tokens)
        # One pair of buffers for all graphs: a graph reads from where it was recorded.
        self._tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self._positions = torch.zeros(slots, dtype=torch.long, device=device)
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None
        if self._tokens.is_cuda:
            # The largest first: the others fit into its memory.
            for bucket in itertools.product(reversed(self._rows), reversed(self._lengths)):
                self._recorded[bucket] = self._record(*bucket)
            logger.info("recorded %d CUDA graphs of the decode step", len(self._recorded))

    def replay(self, tokens: torch.Tensor, positions: torch.Tensor, length: int) -> torch.Tensor:
        """Advance the first rows.

        Args:
            tokens: (rows,) on the host.
            positions: (rows,) on the host.
            length: tokens that attention looks at, at least.

        Returns logits, (rows, vocabulary), overwritten by the next call.
        """
        rows = len(tokens)
        bucket = self._rows[bisect_left(self._rows, rows)], self._lengths[bisect_left(self._lengths, length)]
        self._tokens[:rows].copy_(tokens, non_blocking=True)
        self._positions[:rows].copy_(positions, non_blocking=True)
        self._positions[rows : bucket[0]].zero_()
        if not self._tokens.is_cuda:
            return self._run(*bucket)[:rows]
        graph, logits = self._recorded[bucket]
        graph.replay()
        return logits[:rows]

    def _run(self, rows: int, length: int) -> torch.Tensor:
        return self._step(self._tokens[:rows], self._positions[:rows], first_slot=0, length=length)

    def _record(self, rows: int, length: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels that choose their algorithm do so before they are recorded
            self._run(rows, length)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._run(rows, length)
        self._pool = self._pool or graph.pool()
        return graph, logits


def doubling(first: int, last: int) -> list[int]:
    """`first` and its doubles, up to and with `last`."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(min(2 * sizes[-1], last))
    return sizes
