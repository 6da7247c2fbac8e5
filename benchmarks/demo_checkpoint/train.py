"""Train the demo checkpoint from nothing: speak the corpus, train (or resume), export.

    python -m benchmarks.demo_checkpoint.train

Every core runs one data-parallel worker with one thread, which keeps its pace when the machine is shared. State is
kept in `.work/demo_checkpoint`; a training that was stopped goes on where it was, with the same data and order.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import jiwer
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional
from tqdm import tqdm
from transformers import AutoProcessor, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_checkpoint import corpus, decode, grammar
from benchmarks.demo_checkpoint.batches import Batch, Batches, Mix
from benchmarks.demo_checkpoint.corpus import Corpus
from benchmarks.demo_checkpoint.export import TRAINED, WORK, export
from benchmarks.demo_checkpoint.grammar import LANGUAGES
from benchmarks.demo_checkpoint.model import build_model, build_processor
from benchmarks.demo_checkpoint.muon import Muon
from benchmarks.demo_checkpoint.tokenizer import CtcUnits


@dataclass(frozen=True)
class Recipe:
    """The knobs of one training run. The learning rate warms up, stays, and falls to zero over the last part."""

    steps: int
    seconds: float = 32.0  # audio per worker and step
    warmup: int = 100
    decay: float = 0.25
    muon_lr: float = 0.013
    adam_lr: float = 2e-3
    ctc: float = 0.5
    text_from: int = 700  # the first steps train the encoder alone, at half the cost: nothing to read yet
    smoothing: float = 0.05
    average: float = 0.99
    clip: float = 1.0
    save_every: int = 100
    evaluate_every: int = 400

    def rate(self, step: int) -> float:
        """The share of the peak learning rate at a step: warm-up, constant, linear decay."""
        remaining = (self.steps - step) / (self.decay * self.steps)
        return max(0.0, min((step + 1) / self.warmup, 1.0, remaining))


class Learner:
    """Model, CTC head, optimisers and running average of one worker. All workers hold the same values."""

    def __init__(self, processor: Qwen3ASRProcessor, units: CtcUnits, recipe: Recipe) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.step = 0
        self.model: Qwen3ASRForConditionalGeneration = build_model(processor.tokenizer)
        self.model.train()
        self.ctc_head = torch.nn.Linear(self.model.config.audio_config.d_model, len(units))
        parameters = [*self.model.parameters(), *self.ctc_head.parameters()]
        # Gradients live in one buffer, so that workers average them in one message.
        self._gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
        sizes = [parameter.numel() for parameter in parameters]
        for parameter, part in zip(parameters, self._gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        hidden = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name]
        others = [p for p in parameters if not any(p is matrix for matrix in hidden)]
        self._optimisers = [
            Muon(hidden, lr=recipe.muon_lr),
            torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
        ]
        self._peaks = [recipe.muon_lr, recipe.adam_lr]
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def learn(self, batch: Batch) -> tuple[float, float]:
        """One optimiser step over all workers' batches; returns (cross-entropy, CTC) of this worker."""
        self._gradient.zero_()
        text_loss, ctc_loss = self._losses(batch)
        (text_loss + self.recipe.ctc * ctc_loss).backward()
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
        return text_loss.item(), ctc_loss.item()

    def _losses(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        audio = self.model.model.get_audio_features(batch.mel, batch.mask, cu_seqlens=batch.windows)
        ctc_loss = self._ctc_loss(audio.last_hidden_state, batch)
        if self.step < self.recipe.text_from:
            return torch.zeros(()), ctc_loss
        embed = self.model.get_input_embeddings()
        total = torch.zeros(())
        count = 0
        for rows in batch.rows:
            embedded = embed(rows.input_ids)
            places = (rows.input_ids == self.model.config.audio_token_id).unsqueeze(-1)
            embedded = embedded.masked_scatter(places, audio.pooler_output[rows.audio])
            # Right padding needs no mask: causality hides it.
            hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
            wanted = rows.labels != -100
            logits = self.model.lm_head(hidden[wanted])
            total = total + functional.cross_entropy(
                logits, rows.labels[wanted], label_smoothing=self.recipe.smoothing, reduction="sum"
            )
            count += int(wanted.sum())
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

    def state(self) -> dict[str, object]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ctc_head": self.ctc_head.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "average": self.average,
        }

    def restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ctc_head.load_state_dict(state["ctc_head"])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.average = state["average"]


def averaged_model(learner: Learner, processor: Qwen3ASRProcessor) -> Qwen3ASRForConditionalGeneration:
    """A copy of the model with the averaged weights."""
    model = build_model(processor.tokenizer)
    model.load_state_dict(learner.average, strict=False)
    model.tie_weights()
    return model.eval()


def dev_errors(learner: Learner, processor: Qwen3ASRProcessor, dev: Corpus) -> str:
    """Word and character error rates of the averaged weights on sentences never trained on, over all workers."""
    model = averaged_model(learner, processor)
    rank, world = dist.get_rank(), dist.get_world_size()
    clips = dev.clips[rank::world]
    answers = decode.transcribe(model, processor, [dev.waveform(clip) for clip in clips])
    counts = torch.zeros(len(LANGUAGES) + 1, 2)
    for clip, answer in zip(clips, answers, strict=True):
        row = LANGUAGES.index(clip.language)
        said = grammar.units(grammar.normalise(clip.text), clip.language)
        heard = grammar.units(grammar.normalise(answer.text), clip.language)
        found = jiwer.process_words(" ".join(said), " ".join(heard))
        counts[row] += torch.tensor([found.substitutions + found.deletions + found.insertions, len(said)])
        counts[-1] += torch.tensor([answer.language == clip.language, 1])
    dist.all_reduce(counts)
    english, chinese, language = (100 * counts[:, 0] / counts[:, 1]).tolist()
    return f"WER {english:.1f} % CER {chinese:.1f} % language {language:.1f} %"


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
    units = CtcUnits()
    learner = Learner(processor, units, recipe)
    if TRAINED.exists():
        learner.restore(TRAINED)
    batches = Batches(Corpus(WORK / "corpus", "train"), processor, units, recipe.seconds, Mix())
    dev = Corpus(WORK / "corpus", "dev")
    bar = tqdm(total=recipe.steps, initial=learner.step, disable=rank != 0, mininterval=10, desc="train")
    text, ctc, first = 0.0, 0.0, learner.step
    while learner.step < recipe.steps:
        losses = learner.learn(batches.batch(learner.step, rank))
        memory = min(0.95, 1 - 1 / (learner.step - first))
        text, ctc = memory * text + (1 - memory) * losses[0], memory * ctc + (1 - memory) * losses[1]
        bar.set_postfix_str(f"loss {text:.3f} ctc {ctc:.3f}", refresh=False)
        bar.update()
        last = learner.step == recipe.steps
        if rank == 0 and (last or learner.step % recipe.save_every == 0):
            save(learner, TRAINED)
        if last or learner.step % recipe.evaluate_every == 0:
            errors = dev_errors(learner, processor, dev)
            if rank == 0:
                bar.write(f"step {learner.step} loss {text:.3f} ctc {ctc:.3f} {errors}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4200, help="length of the whole training; may change on resume")
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
