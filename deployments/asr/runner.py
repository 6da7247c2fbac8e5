"""Runs the model: whole prompts in, one token a row out."""

import logging
from collections.abc import Sequence as Items

import torch

from deployments.asr import attention
from deployments.asr.attention import Prompts
from deployments.asr.cache import SlotCache
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.encoder import AudioEncoder
from deployments.asr.graphs import DecodeGraphs
from deployments.asr.prompt import Prompt
from deployments.asr.sequence import Sequence

logger = logging.getLogger("ray.serve.asr")


class ModelRunner:
    """The language model over a `SlotCache`, with the audio encoder in front.

    The layers are called directly: `generate` and the model's own `forward` build masks and caches for a batch whose
    rows begin and end together.

    Args:
        checkpoint: the loaded model; from now on its text part attends as `attention.attend` does.
        prompt: of the same checkpoint.
        slots: rows that run together at most.
        slot_tokens: tokens that one row may need.
        graphs: replay decode steps as CUDA graphs.
    """

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt, *, slots: int, slot_tokens: int, graphs: bool = False):
        model = checkpoint.model
        self._language_model = model.model.language_model
        self._language_model.config._attn_implementation = attention.NAME
        self._head = model.lm_head
        self._audio_id = prompt.audio_id
        self._device = model.device
        self.encoder = AudioEncoder(checkpoint)
        self.cache = SlotCache(
            model.config.text_config, slots=slots, slot_tokens=slot_tokens, dtype=model.dtype, device=model.device
        )
        self._graphs = self._record_graphs() if graphs else None

    def prefill(self, sequences: Items[Sequence], first_slot: int) -> torch.Tensor:
        """Encode and read the prompts of new rows into the slots from `first_slot` on.

        Returns logits of the first token of each answer, (rows, vocabulary) float32.
        """
        lengths = [len(sequence.prompt_ids) for sequence in sequences]
        # Built on the CPU: a GPU would have to be asked how long the result is.
        slots = torch.arange(first_slot, first_slot + len(lengths)).repeat_interleave(torch.tensor(lengths))
        positions = self._on_device(torch.cat([torch.arange(length) for length in lengths]))
        prompts = Prompts(lengths, self._device)
        self.cache.begin_prefill(self._on_device(slots), positions)
        hidden = self._forward(self.embed(sequences), positions[None], mask=None, prompts=prompts)
        return self._head(hidden[0, prompts.bounds[1:] - 1]).float()

    def decode(self, sequences: Items[Sequence], first_slot: int = 0) -> torch.Tensor:
        """Advance the rows in the slots from `first_slot` on by the last token of each answer.

        Returns logits of the next token of each, (rows, vocabulary) float32.
        """
        tokens = torch.tensor([sequence.answer[-1] for sequence in sequences])
        positions = torch.tensor([sequence.position for sequence in sequences])
        length = max(sequence.position for sequence in sequences) + 1
        if self._graphs is not None and first_slot == 0:
            return self._graphs.replay(tokens, positions, length)
        return self._step(self._on_device(tokens), self._on_device(positions), first_slot, length)

    def embed(self, sequences: Items[Sequence]) -> torch.Tensor:
        """Prompts with the encoded audio in its place, one after the other: (1, tokens, hidden)."""
        ids = [token for sequence in sequences for token in sequence.prompt_ids]
        embeddings = self._embed_tokens(self._on_device(torch.tensor(ids)))
        start = 0
        for sequence, audio in zip(
            sequences, self.encoder.encode([sequence.utterance.waveform for sequence in sequences]), strict=True
        ):
            audio_start = start + sequence.prompt_ids.index(self._audio_id)
            embeddings[audio_start : audio_start + len(audio)] = audio
            start += len(sequence.prompt_ids)
        return embeddings[None]

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor, first_slot: int, length: int) -> torch.Tensor:
        """One decode step; nothing in here depends on what a tensor holds, so that it can be recorded as a graph."""
        self.cache.begin_decode(first_slot, positions, length)
        mask = (torch.arange(length, device=self._device) <= positions[:, None])[:, None, None, :]
        hidden = self._forward(self._embed_tokens(tokens)[:, None], positions[:, None], mask, prompts=None)
        return self._head(hidden[:, -1]).float()

    @torch.inference_mode()
    def _record_graphs(self) -> DecodeGraphs | None:
        """Graphs that were seen to compute what the step itself does; None where the device or its driver cannot."""
        try:
            graphs = DecodeGraphs(
                self._step, slots=self.cache.slots, slot_tokens=self.cache.slot_tokens, device=self._device
            )
            token, position = torch.tensor([self._audio_id]), torch.tensor([0])
            expected = self._step(self._on_device(token), self._on_device(position), first_slot=0, length=1)
            torch.testing.assert_close(graphs.replay(token, position, length=1), expected, rtol=0.05, atol=0.05)
        except Exception:
            logger.exception("the decode step cannot be replayed as CUDA graphs here and runs without them")
            return None
        return graphs

    def _forward(
        self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, prompts: Prompts | None
    ) -> torch.Tensor:
        rotation = self._language_model.rotary_emb(hidden, positions)
        for layer in self._language_model.layers:
            hidden = layer(
                hidden, attention_mask=mask, past_key_values=self.cache, position_embeddings=rotation, prompts=prompts
            )
        normed: torch.Tensor = self._language_model.norm(hidden)
        return normed

    def _embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._language_model.embed_tokens(ids)
        return embeddings

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)
