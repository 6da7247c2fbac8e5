"""Train the demo checkpoint further: its text model learns to keep its place in utterances of up to 30 s.

They are what the service cuts out of long recordings: with pauses or without, with louder and quieter sentences, of
which the first and the last may be a part of one.

    python -m benchmarks.demo_checkpoint.train_long [--from deployments/checkpoints/demo]

Needs the corpus of `train`, and one whose words have times, and speaks them if they are not there. State is kept in
`.work/demo_checkpoint`, and a training that was stopped goes on where it was.
"""

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_aligner import corpus as timed
from benchmarks.demo_aligner.corpus import TimedCorpus
from benchmarks.demo_checkpoint import dev
from benchmarks.demo_checkpoint.batches import Batch, Batches, Mix, Rows
from benchmarks.demo_checkpoint.corpus import Corpus
from benchmarks.demo_checkpoint.dev import Said
from benchmarks.demo_checkpoint.export import EXPORTED, TRAINED_LONG, WORK, export
from benchmarks.demo_checkpoint.losses import IGNORED, answer_loss, place_loss, read
from benchmarks.demo_checkpoint.tokenizer import CtcUnits
from benchmarks.demo_checkpoint.train import prepare
from benchmarks.demo_checkpoint.training import Learning, Schedule, begin, run

TIMED = WORK / "timed_corpus"
MIX = Mix(long=0.5, butted=0.4, uneven=0.25, cut=0.3, joined=0.1, joined_from=0, single=0.5)


@dataclass(frozen=True)
class Recipe(Schedule):
    """The knobs of this training."""

    muon_lr: float = 0.005
    adam_lr: float = 1e-3
    decay: float = 0.75
    average: float = 0.99
    save_every: int = 50
    evaluate_every: int = 200
    seconds: float = 64.0
    smoothing: float = 0.05
    place: float = 0.3  # weight of looking where a word is said
    place_layers: tuple[int, ...] = (1, 2)
    bfloat16: bool = False  # a quarter faster where the processor has the instructions


class Learner:
    """The model of one worker, and how it learns."""

    def __init__(self, checkpoint: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model = Qwen3ASRForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        self.model.train()
        self.model.model.language_model.set_attn_implementation("eager")
        self.learning = Learning(self.model, {}, recipe, plain=["embed_tokens"])

    def learn(self, batch: Batch) -> dict[str, float]:
        """One optimiser step over all workers' batches; returns this worker's losses."""
        losses: list[torch.Tensor] = []

        def loss() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
                text, place = self._losses(batch)
            losses.extend([text, place])
            return text + self.recipe.place * place

        self.learning.update(loss)
        text, place = losses
        return {"loss": text.item(), "place": place.item()}

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        audio = self.model.model.get_audio_features(batch.mel, batch.mask, cu_seqlens=batch.windows).pooler_output
        texts, places = zip(*(self._row_losses(rows, audio) for rows in batch.rows), strict=True)
        answered = sum(int((rows.labels != IGNORED).sum()) for rows in batch.rows)
        placed = sum(int((rows.places[..., 1] > 0).sum()) for rows in batch.rows)
        return torch.stack(texts).sum() / answered, torch.stack(places).sum() / max(placed, 1)

    def _row_losses(self, rows: Rows, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = read(self.model, rows, audio, output_attentions=True)
        layers = [place_loss(output.attentions[layer], rows.places) for layer in self.recipe.place_layers]
        text = answer_loss(self.model, output.last_hidden_state, rows.labels, self.recipe.smoothing)
        return text, torch.stack(layers).mean()


def dev_errors(learner: Learner, processor: Qwen3ASRProcessor, sentences: list[Said], pieces: list[Said]) -> str:
    """Of the averaged weights, on sentences never trained on: singly, and as pieces of long recordings."""
    model = copy.deepcopy(learner.model).eval()
    model.load_state_dict(learner.learning.average, strict=False)
    model.tie_weights()
    model.set_attn_implementation("sdpa")
    return f"sentences: {dev.errors(model, processor, sentences)} long pieces: {dev.errors(model, processor, pieces)}"


def work(rank: int, world: int, checkpoint: Path, recipe: Recipe) -> None:
    """One worker process."""
    begin(WORK, rank, world)
    processor = AutoProcessor.from_pretrained(checkpoint)
    learner = Learner(checkpoint, recipe)
    batches = Batches(TimedCorpus(TIMED, "train"), processor, CtcUnits(), recipe.seconds, MIX)
    unheard = Corpus(WORK / "corpus", "dev")
    sentences, pieces = dev.sentences(unheard), dev.pieces(unheard)
    run(
        learner.learning,
        lambda step: learner.learn(batches.batch(step, rank)),
        lambda: dev_errors(learner, processor, sentences, pieces),
        TRAINED_LONG,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000, help="length of the whole training; may change on resume")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="data-parallel processes")
    parser.add_argument(
        "--from", type=Path, default=EXPORTED, dest="checkpoint", help="folder of the weights to begin with"
    )
    parser.add_argument("--bfloat16", action="store_true", help="faster on processors with bfloat16 instructions")
    arguments = parser.parse_args()
    prepare()
    timed.build(TIMED)
    (WORK / "rendezvous").unlink(missing_ok=True)
    recipe = Recipe(steps=arguments.steps, bfloat16=arguments.bfloat16)
    mp.spawn(work, (arguments.workers, arguments.checkpoint, recipe), nprocs=arguments.workers)
    export(TRAINED_LONG)


if __name__ == "__main__":
    main()
