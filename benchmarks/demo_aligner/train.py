"""Train the demo aligner from the demo checkpoint: speak the corpus, train (or resume), export.

    python -m benchmarks.demo_aligner.train

Every worker is a data-parallel process with one thread, which keeps its pace when the machine is shared. State is kept
in `.work/demo_aligner`; a training that was stopped goes on where it was, with the same data and order.
"""

import argparse
import copy
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional
from transformers import AutoProcessor, Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from benchmarks.demo_aligner import corpus
from benchmarks.demo_aligner.batches import IGNORED, Batch, Batches, Mix, Rows
from benchmarks.demo_aligner.corpus import TimedCorpus
from benchmarks.demo_aligner.export import TRAINED, WORK, export
from benchmarks.demo_aligner.model import CLASSES, build_model, build_processor
from benchmarks.demo_aligner.scoring import Score, align, errors_of
from benchmarks.demo_checkpoint.training import Learning, Schedule, begin, run


@dataclass(frozen=True)
class Recipe(Schedule):
    """The knobs of this training."""

    muon_lr: float = 0.01
    decay: float = 0.3
    average: float = 0.995
    save_every: int = 50
    evaluate_every: int = 200
    heard: float = 0.3  # weight of telling at every audio token which word is being said
    place: float = 0.3  # weight of telling at every audio token when it is
    place_layer: int = 3  # of the text model: the layers above it read the time there
    blur: float = 0.7  # classes: a time is nearly right beside the right one


@dataclass(frozen=True)
class Losses:
    """Cross-entropies of one batch: the times of words, the words heard, the times of the audio itself."""

    times: torch.Tensor
    heard: torch.Tensor
    places: torch.Tensor


class Learner:
    """Model and training head of one worker, and how they learn."""

    def __init__(self, units: int, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.model: Qwen3ASRForTokenClassification = build_model()
        self.model.train()
        self.heard_head = torch.nn.Linear(self.model.config.audio_config.d_model, units)
        self.learning = Learning(self.model, {"heard_head": self.heard_head}, recipe, plain=["embed_tokens", "score"])
        self._blurred = _blurred_classes(recipe.blur)

    def learn(self, batch: Batch) -> dict[str, float]:
        """One optimiser step over all workers' batches; returns the losses of this worker."""
        made: list[Losses] = []

        def loss() -> torch.Tensor:
            losses = self._losses(batch)
            made.append(losses)
            return losses.times + self.recipe.heard * losses.heard + self.recipe.place * losses.places

        self.learning.update(loss)
        (losses,) = made
        return {"times": losses.times.item(), "heard": losses.heard.item(), "places": losses.places.item()}

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


def _blurred_classes(width: float) -> torch.Tensor:
    """(classes, classes): what is to be predicted for each class, a bell around it that sums to 1."""
    classes = torch.arange(CLASSES)
    bells = torch.exp(-((classes - classes.unsqueeze(1)) ** 2) / (2 * width**2))
    return bells / bells.sum(dim=1, keepdim=True)


def dev_errors(learner: Learner, processor: Qwen3ASRProcessor, dev: TimedCorpus) -> Score:
    """How far the averaged weights are off on sentences never trained on, over all workers."""
    model = copy.deepcopy(learner.model).eval()
    model.load_state_dict(learner.learning.average)
    rank, world = dist.get_rank(), dist.get_world_size()
    clips = dev.clips[rank::world]
    found = align(model, processor, [(dev.waveform(clip), clip.text, clip.language) for clip in clips])
    errors = [error for clip, times in zip(clips, found, strict=True) for error in errors_of(clip.times, times)]
    everybodys: list[list[float]] = [[] for _ in range(world)]
    dist.all_gather_object(everybodys, errors)
    return Score.of("dev", None, len(dev.clips), [error for errors in everybodys for error in errors])


def work(rank: int, world: int, recipe: Recipe) -> None:
    """One worker process."""
    begin(WORK, rank, world)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    batches = Batches(TimedCorpus(WORK / "corpus", "train"), processor, recipe.seconds, Mix())
    dev = TimedCorpus(WORK / "corpus", "dev")
    learner = Learner(batches.units, recipe)
    run(
        learner.learning,
        lambda step: learner.learn(batches.batch(step, rank)),
        lambda: dev_errors(learner, processor, dev),
        TRAINED,
    )


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
