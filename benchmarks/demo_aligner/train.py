"""Train the demo aligner from the demo checkpoint: speak the corpus, train (or resume), export.

    python -m benchmarks.demo_aligner.train

Every worker is a data-parallel process with one thread, which keeps its pace when the machine is shared. State is kept
in `.work/demo_aligner`; a training that was stopped goes on where it was, with the same data and order.
"""

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoProcessor, Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from benchmarks.demo_aligner import corpus
from benchmarks.demo_aligner.batches import IGNORED, Batch, Batches, Mix, Rows
from benchmarks.demo_aligner.corpus import TimedCorpus
from benchmarks.demo_aligner.export import TRAINED, WORK, export
from benchmarks.demo_aligner.model import CLASSES, build_model, build_processor
from benchmarks.demo_aligner.scoring import Score, align, errors_of
from benchmarks.demo_checkpoint.muon import Muon


@dataclass(frozen=True)
class Recipe:
    """The knobs of one training run. The learning rate warms up, stays, and falls to zero over the last part."""

    steps: int
    seconds: float = 32.0  # audio per worker and step
    warmup: int = 100
    decay: float = 0.3
    muon_lr: float = 0.01
    adam_lr: float = 2e-3
    heard: float = 0.3  # weight of telling at every audio token which word is being said
    place: float = 0.3  # weight of telling at every audio token when it is
    place_layer: int = 3  # of the text model: the layers above it read the time there
    blur: float = 0.7  # classes: a time is nearly right beside the right one
    average: float = 0.995
    clip: float = 1.0
    save_every: int = 50
    evaluate_every: int = 200

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step: warm-up, constant, linear decay."""
        remaining = (self.steps - step) / (self.decay * self.steps)
        return max(0.0, min((step + 1) / self.warmup, 1.0, remaining))


@dataclass(frozen=True)
class Losses:
    """Cross-entropies of one batch: the times of words, the words heard, the times of the audio itself."""

    times: torch.Tensor
    heard: torch.Tensor
    places: torch.Tensor


class Learner:
    """Model, training head, optimisers and running average of one worker. All workers hold the same values."""

    def __init__(self, units: int, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.step = 0
        self.model: Qwen3ASRForTokenClassification = build_model()
        self.model.train()
        self.heard_head = torch.nn.Linear(self.model.config.audio_config.d_model, units)
        parameters = [*self.model.parameters(), *self.heard_head.parameters()]
        # Gradients live in one buffer, so that workers average them in one message.
        self._gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, self._gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        hidden = [
            parameter
            for name, parameter in self.model.named_parameters()
            if parameter.ndim == 2 and "embed_tokens" not in name and "score" not in name
        ]
        others = [p for p in parameters if not any(p is matrix for matrix in hidden)]
        self._optimisers = [
            Muon(hidden, lr=recipe.muon_lr),
            torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        ]
        self._peaks = [recipe.muon_lr, recipe.adam_lr]
        self._blurred = _blurred_classes(recipe.blur)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def learn(self, batch: Batch) -> Losses:
        """One optimiser step over all workers' batches; returns the losses of this worker."""
        self._gradient.zero_()
        losses = self._losses(batch)
        (losses.times + self.recipe.heard * losses.heard + self.recipe.place * losses.places).backward()
        dist.all_reduce(self._gradient)
        self._gradient /= dist.get_world_size()
        norm = float(self._gradient.norm())
        if norm > self.recipe.clip:
            self._gradient *= self.recipe.clip / norm
        for optimiser, peak in zip(self._optimisers, self._peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * self.recipe.rate(self.step)
            optimiser.step()
        self.step += 1
        # A short memory at first, or the average would still hold the random start.
        keep = min(self.recipe.average, self.step / (self.step + 10))
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter.detach(), 1 - keep)
        return losses

    def _losses(self, batch: Batch) -> Losses:
        audio = self.model.model.get_audio_features(batch.mel, batch.mask, cu_seqlens=batch.windows)
        heard = functional.cross_entropy(
            self.heard_head(audio.last_hidden_state), batch.units, ignore_index=IGNORED, label_smoothing=0.05
        )
        sums = [self._row_losses(rows, audio.pooler_output) for rows in batch.rows]
        words = sum(int((rows.classes != IGNORED).sum()) for rows in batch.rows)
        tokens = sum(int((rows.places != IGNORED).sum()) for rows in batch.rows)
        times, places = (torch.stack(parts).sum() for parts in zip(*sums, strict=True))
        return Losses(times / words, heard, places / tokens)

    def _row_losses(self, rows: Rows, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedded = self.model.get_input_embeddings()(rows.input_ids)
        placeholders = (rows.places != IGNORED).unsqueeze(-1)
        embedded = embedded.masked_scatter(placeholders, audio[rows.audio])
        text = self.model.model.language_model
        # Right padding needs no mask: causality hides it.
        output = text(inputs_embeds=embedded, use_cache=False, output_hidden_states=True)
        middle = text.norm(output.hidden_states[self.recipe.place_layer])
        return (
            self._time_loss(output.last_hidden_state, rows.classes),
            self._time_loss(middle, rows.places),
        )

    def _time_loss(self, states: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Summed over everything that has a time."""
        wanted = classes != IGNORED
        scores = self.model.score(states[wanted])
        return functional.cross_entropy(scores, self._blurred[classes[wanted]], reduction="sum")

    def state(self) -> dict[str, object]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "heard_head": self.heard_head.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "average": self.average,
        }

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.heard_head.load_state_dict(state["heard_head"])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average = state["average"]


def _blurred_classes(width: float) -> torch.Tensor:
    """(classes, classes): what is to be predicted for each class, a bell around it that sums to 1."""
    classes = torch.arange(CLASSES)
    bells = torch.exp(-((classes - classes.unsqueeze(1)) ** 2) / (2 * width**2))
    return bells / bells.sum(dim=1, keepdim=True)


def dev_errors(learner: Learner, processor: Qwen3ASRProcessor, dev: TimedCorpus) -> Score:
    """How far the averaged weights are off on sentences never trained on, over all workers."""
    model = copy.deepcopy(learner.model).eval()
    model.load_state_dict(learner.average)
    rank, world = dist.get_rank(), dist.get_world_size()
    clips = dev.clips[rank::world]
    found = align(model, processor, [(dev.waveform(clip), clip.text, clip.language) for clip in clips])
    errors = [error for clip, times in zip(clips, found, strict=True) for error in errors_of(clip.times, times)]
    everybodys: list[list[float]] = [[] for _ in range(world)]
    dist.all_gather_object(everybodys, errors)
    return Score.of("dev", None, len(dev.clips), [error for errors in everybodys for error in errors])


def save(learner: Learner, path: Path) -> None:
    """Write beside, then replace: a checkpoint on disk is always whole."""
    unfinished = path.with_suffix(".part")
    torch.save(learner.state(), unfinished)
    os.replace(unfinished, path)


def work(rank: int, world: int, recipe: Recipe) -> None:
    """One worker process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{WORK / 'rendezvous'}", rank=rank, world_size=world)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    batches = Batches(TimedCorpus(WORK / "corpus", "train"), processor, recipe.seconds, Mix())
    dev = TimedCorpus(WORK / "corpus", "dev")
    learner = Learner(batches.units, recipe)
    if TRAINED.exists():
        learner.restore(TRAINED)
    bar = tqdm(total=recipe.steps, initial=learner.step, disable=rank != 0, mininterval=10, desc="train")
    running = torch.zeros(3)
    first = learner.step
    while learner.step < recipe.steps:
        losses = learner.learn(batches.batch(learner.step, rank))
        memory = min(0.95, 1 - 1 / (learner.step - first))
        latest = torch.stack([losses.times, losses.heard, losses.places]).detach()
        running = memory * running + (1 - memory) * latest
        shown = "times {:.3f} heard {:.3f} places {:.3f}".format(*running.tolist())
        bar.set_postfix_str(shown, refresh=False)
        bar.update()
        last = learner.step == recipe.steps
        if rank == 0 and (last or learner.step % recipe.save_every == 0):
            save(learner, TRAINED)
        if last or learner.step % recipe.evaluate_every == 0:
            score = dev_errors(learner, processor, dev)
            if rank == 0:
                bar.write(f"step {learner.step} {shown} {score}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="length of the whole training; may change on resume")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="data-parallel processes")
    arguments = parser.parse_args()
    corpus.build(WORK / "corpus")
    if not (WORK / "processor").exists():
        build_processor().save_pretrained(WORK / "processor")
    (WORK / "rendezvous").unlink(missing_ok=True)
    mp.spawn(work, (arguments.workers, Recipe(steps=arguments.steps)), nprocs=arguments.workers)
    export()


if __name__ == "__main__":
    main()
