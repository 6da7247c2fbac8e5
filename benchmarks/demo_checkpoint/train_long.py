"""Train the demo checkpoint further: its text model learns to keep its place in utterances of up to 30 s.

    python -m benchmarks.demo_checkpoint.train_long [--from deployments/checkpoints/demo]

Needs the corpus of `train`, and speaks it if it is not there. State is kept in `.work/demo_checkpoint`, and a training
that was stopped goes on where it was.
"""

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch.nn import functional
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_checkpoint import corpus, dev
from benchmarks.demo_checkpoint.batches import Batch, Batches, Mix, Rows
from benchmarks.demo_checkpoint.corpus import Corpus
from benchmarks.demo_checkpoint.dev import Said
from benchmarks.demo_checkpoint.export import EXPORTED, WORK
from benchmarks.demo_checkpoint.tokenizer import CtcUnits
from benchmarks.demo_checkpoint.training import Learning, Schedule, begin, run

TRAINED = WORK / "long.pt"
MIX = Mix(long=0.5, joined=0.25, joined_from=0)


@dataclass(frozen=True)
class Recipe(Schedule):
    """The knobs of this training."""

    muon_lr: float = 0.005
    adam_lr: float = 1e-3
    decay: float = 0.4
    average: float = 0.99
    save_every: int = 50
    evaluate_every: int = 200
    seconds: float = 64.0
    smoothing: float = 0.05
    place: float = 0.3  # weight of looking at the right sentence
    place_layers: tuple[int, ...] = (1, 2)
    bfloat16: bool = False  # a quarter faster where the processor has the instructions


class Learner:
    """The text model of one worker, and how it learns. The encoder stays as it is: it hears well."""

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
        count = sum(int((rows.labels != -100).sum()) for rows in batch.rows)
        placed = sum(int((rows.places[..., 1] > 0).sum()) for rows in batch.rows)
        return torch.stack(texts).sum() / count, torch.stack(places).sum() / max(placed, 1)

    def _row_losses(self, rows: Rows, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedded = self.model.get_input_embeddings()(rows.input_ids)
        holes = (rows.input_ids == self.model.config.audio_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(holes, audio[rows.audio].float())
        # Right padding needs no mask: causality hides it.
        output = self.model.model.language_model(inputs_embeds=embedded, use_cache=False, output_attentions=True)
        wanted = rows.labels != -100
        text = functional.cross_entropy(
            self.model.lm_head(output.last_hidden_state[wanted]).float(),
            rows.labels[wanted],
            label_smoothing=self.recipe.smoothing,
            reduction="sum",
        )
        return text, self._place_loss([output.attentions[layer] for layer in self.recipe.place_layers], rows.places)

    def _place_loss(self, attentions: list[torch.Tensor], places: torch.Tensor) -> torch.Tensor:
        placed = places[..., 1] > 0
        at = torch.arange(places.shape[1])
        inside = (at >= places[placed][:, :1]) & (at < places[placed][:, 1:])
        total = torch.zeros(())
        for attention in attentions:
            weights = attention.transpose(1, 2)[placed]  # (labels, heads, length)
            seen = (weights * inside.unsqueeze(1)).sum(-1).mean(-1)
            total = total - (seen + 1e-6).log().sum()
        return total / len(attentions)


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
    batches = Batches(Corpus(WORK / "corpus", "train"), processor, CtcUnits(), recipe.seconds, MIX)
    unheard = Corpus(WORK / "corpus", "dev")
    sentences, pieces = dev.sentences(unheard), dev.pieces(unheard)
    run(
        learner.learning,
        lambda step: learner.learn(batches.batch(step, rank)),
        lambda: dev_errors(learner, processor, sentences, pieces),
        TRAINED,
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
    corpus.build(WORK / "corpus")
    (WORK / "rendezvous").unlink(missing_ok=True)
    recipe = Recipe(steps=arguments.steps, bfloat16=arguments.bfloat16)
    mp.spawn(work, (arguments.workers, arguments.checkpoint, recipe), nprocs=arguments.workers)


if __name__ == "__main__":
    main()
