"""Train the demo checkpoint from nothing: speak the corpus, train (or resume), export.

    python -m benchmarks.demo_checkpoint.train

Every core runs one data-parallel worker with one thread, which keeps its pace when the machine is shared. State is
kept in `.work/demo_checkpoint`; a training that was stopped goes on where it was, with the same data and order.
"""

import argparse
import os
from dataclasses import dataclass

import torch
import torch.multiprocessing as mp
from torch.nn import functional
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_checkpoint import corpus, dev
from benchmarks.demo_checkpoint.batches import Batch, Batches, Mix
from benchmarks.demo_checkpoint.corpus import Corpus
from benchmarks.demo_checkpoint.dev import Said
from benchmarks.demo_checkpoint.export import TRAINED, WORK, export
from benchmarks.demo_checkpoint.losses import IGNORED, answer_loss, read
from benchmarks.demo_checkpoint.model import build_model, build_processor
from benchmarks.demo_checkpoint.tokenizer import CtcUnits
from benchmarks.demo_checkpoint.training import Learning, Schedule, begin, run


@dataclass(frozen=True)
class Recipe(Schedule):
    """The knobs of this training."""

    muon_lr: float = 0.013
    decay: float = 0.25
    average: float = 0.99
    save_every: int = 100
    evaluate_every: int = 400
    ctc: float = 0.5
    text_from: int = 700  # the first steps train the encoder alone, at half the cost: nothing to read yet
    smoothing: float = 0.05


class Learner:
    """Model and CTC head of one worker, and how they learn."""

    def __init__(self, processor: Qwen3ASRProcessor, units: CtcUnits, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.model: Qwen3ASRForConditionalGeneration = build_model(processor.tokenizer)
        self.model.train()
        self.ctc_head = torch.nn.Linear(self.model.config.audio_config.d_model, len(units))
        self.learning = Learning(self.model, {"ctc_head": self.ctc_head}, recipe, plain=["embed_tokens"])

    def learn(self, batch: Batch) -> dict[str, float]:
        """One optimiser step over all workers' batches; returns the cross-entropy and CTC of this worker."""
        losses: list[torch.Tensor] = []

        def loss() -> torch.Tensor:
            text, ctc = self._losses(batch)
            losses.extend([text, ctc])
            return text + self.recipe.ctc * ctc

        self.learning.update(loss)
        text, ctc = losses
        return {"loss": text.item(), "ctc": ctc.item()}

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        audio = self.model.model.get_audio_features(batch.mel, batch.mask, cu_seqlens=batch.windows)
        ctc_loss = self._ctc_loss(audio.last_hidden_state, batch)
        if self.learning.step < self.recipe.text_from:
            return torch.zeros(()), ctc_loss
        total = torch.zeros(())
        count = 0
        for rows in batch.rows:
            states = read(self.model, rows, audio.pooler_output).last_hidden_state
            total = total + answer_loss(self.model, states, rows.labels, self.recipe.smoothing)
            count += int((rows.labels != IGNORED).sum())
        return total / count, ctc_loss

    def _ctc_loss(self, encoded: torch.Tensor, batch: Batch) -> torch.Tensor:
        """CTC on the encoder's output: without it the audio is ignored for a long time."""
        spoken = [index for index, units in enumerate(batch.units) if units]
        scores = self.ctc_head(encoded).log_softmax(-1).split(batch.lengths)
        return functional.ctc_loss(
            torch.nn.utils.rnn.pad_sequence([scores[index] for index in spoken]),
            torch.tensor([unit for index in spoken for unit in batch.units[index]]),
            torch.tensor([batch.lengths[index] for index in spoken]),
            torch.tensor([len(batch.units[index]) for index in spoken]),
            zero_infinity=True,
        )


def dev_errors(learner: Learner, processor: Qwen3ASRProcessor, unheard: list[Said]) -> str:
    """Of the averaged weights, on sentences never trained on."""
    model = build_model(processor.tokenizer)
    model.load_state_dict(learner.learning.average, strict=False)
    model.tie_weights()
    return dev.errors(model.eval(), processor, unheard)


def work(rank: int, world: int, recipe: Recipe) -> None:
    """One worker process."""
    begin(WORK, rank, world)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    units = CtcUnits()
    learner = Learner(processor, units, recipe)
    batches = Batches(Corpus(WORK / "corpus", "train"), processor, units, recipe.seconds, Mix())
    unheard = dev.sentences(Corpus(WORK / "corpus", "dev"))
    run(
        learner.learning,
        lambda step: learner.learn(batches.batch(step, rank)),
        lambda: dev_errors(learner, processor, unheard),
        TRAINED,
    )


def prepare() -> None:
    """Speak the corpus and make the processor, where they are not there yet."""
    corpus.build(WORK / "corpus")
    if not (WORK / "processor").exists():
        build_processor().save_pretrained(WORK / "processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4200, help="length of the whole training; may change on resume")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="data-parallel processes")
    arguments = parser.parse_args()
    prepare()
    (WORK / "rendezvous").unlink(missing_ok=True)
    mp.spawn(work, (arguments.workers, Recipe(steps=arguments.steps)), nprocs=arguments.workers)
    export(TRAINED)


if __name__ == "__main__":
    main()
