"""What trains both demo checkpoints: data-parallel steps with an average of the weights, kept so that they resume."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from benchmarks.demo_checkpoint.muon import Muon


@dataclass(frozen=True)
class Schedule:
    """The knobs that any training has. The learning rate warms up, stays, and falls to zero over the last part."""

    steps: int
    muon_lr: float
    decay: float
    average: float
    save_every: int
    evaluate_every: int
    seconds: float = 32.0  # audio per worker and step
    warmup: int = 100
    adam_lr: float = 2e-3
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step: warm-up, constant, linear decay."""
        remaining = (self.steps - step) / (self.decay * self.steps)
        return max(0.0, min((step + 1) / self.warmup, 1.0, remaining))


class Learning:
    """Optimisers and running average of one worker. All workers hold the same values.

    Args:
        model: learns, and is averaged.
        heads: learn beside it and are dropped in the end, by the names that they have in a saved state.
        schedule: how fast.
        plain: parts of the names of matrices that are no transformations (embeddings): they go by AdamW, as vectors do.
    """

    def __init__(self, model: nn.Module, heads: dict[str, nn.Module], schedule: Schedule, plain: Sequence[str]) -> None:
        self.step = 0
        self.schedule = schedule
        self._model = model
        self._heads = heads
        parameters = [*model.parameters(), *(p for head in heads.values() for p in head.parameters())]
        # Gradients live in one buffer, so that workers average them in one message.
        self._gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, self._gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        hidden = [
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and not any(part in name for part in plain)
        ]
        others = [p for p in parameters if not any(p is matrix for matrix in hidden)]
        self._optimisers = [
            Muon(hidden, lr=schedule.muon_lr),
            torch.optim.AdamW(others, lr=schedule.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        ]
        self._peaks = [schedule.muon_lr, schedule.adam_lr]
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, loss: Callable[[], torch.Tensor]) -> None:
        """One optimiser step on the mean of all workers' losses."""
        self._gradient.zero_()
        loss().backward()
        dist.all_reduce(self._gradient)
        self._gradient /= dist.get_world_size()
        norm = float(self._gradient.norm())
        if norm > self.schedule.clip:
            self._gradient *= self.schedule.clip / norm
        for optimiser, peak in zip(self._optimisers, self._peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * self.schedule.rate(self.step)
            optimiser.step()
        self.step += 1
        # A short memory at first, or the average would still hold the random start.
        keep = min(self.schedule.average, self.step / (self.step + 10))
        for name, parameter in self._model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - keep)

    def save(self, path: Path) -> None:
        """Write beside, then replace: what is on disk is always whole."""
        state = {
            "step": self.step,
            "model": self._model.state_dict(),
            **{name: head.state_dict() for name, head in self._heads.items()},
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "average": self.average,
        }
        unfinished = path.with_suffix(".part")
        torch.save(state, unfinished)
        os.replace(unfinished, path)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self._model.load_state_dict(state["model"])
        for name, head in self._heads.items():
            head.load_state_dict(state[name])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average = state["average"]


def begin(folder: Path, rank: int, world: int) -> None:
    """Join the other worker processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)


def run(
    learning: Learning, learn: Callable[[int], dict[str, float]], evaluate: Callable[[], object], trained: Path
) -> None:
    """Train to the last step, from the state in `trained` if there is one; then leave the other workers.

    Args:
        learning: steps as `learn` makes it.
        learn: makes the step of this number and returns this worker's losses by name.
        evaluate: by all workers together; says how good the averaged weights are.
        trained: file of the state, which the first worker writes.
    """
    schedule, is_first = learning.schedule, dist.get_rank() == 0
    if trained.exists():
        learning.restore(trained)
    bar = tqdm(total=schedule.steps, initial=learning.step, disable=not is_first, mininterval=10, desc="train")
    began_at = learning.step
    running: dict[str, float] = {}
    while learning.step < schedule.steps:
        losses = learn(learning.step)
        memory = min(0.95, 1 - 1 / (learning.step - began_at))
        running = {name: memory * running.get(name, 0.0) + (1 - memory) * loss for name, loss in losses.items()}
        shown = " ".join(f"{name} {loss:.3f}" for name, loss in running.items())
        bar.set_postfix_str(shown, refresh=False)
        bar.update()
        is_last = learning.step == schedule.steps
        if is_first and (is_last or learning.step % schedule.save_every == 0):
            learning.save(trained)
        if is_last or learning.step % schedule.evaluate_every == 0:
            score = evaluate()
            if is_first:
                bar.write(f"step {learning.step} {shown} {score}")
    dist.destroy_process_group()


def publish(model: Any, processor: Any, fresh: Path, exported: Path) -> None:
    """Write a checkpoint in bfloat16 to `fresh` and move it into the folder `exported`.

    Each file replaces its predecessor in one move, so a service that is starting reads old or new, never half.
    """
    model.to(torch.bfloat16).save_pretrained(fresh)
    processor.save_pretrained(fresh)
    exported.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        file.chmod(0o644)  # safetensors writes for its owner only
        os.replace(file, exported / file.name)
