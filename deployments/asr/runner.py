"""Runs the model: whole prompts in, one token a row out."""

from collections.abc import Sequence as Items

import torch
from torch.nn.functional import pad

from deployments.asr.cache import SlotCache
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.encoder import AudioEncoder
from deployments.asr.prompt import Prompt
from deployments.asr.sequence import Sequence


class ModelRunner:
    """The language model over a `SlotCache`, with the audio encoder in front.

    The layers are called directly: `generate` and the model's own `forward` build masks and caches for a batch whose
    rows begin and end together.
    """

    def __init__(self, checkpoint: Checkpoint, prompt: Prompt, *, slots: int, slot_tokens: int):
        model = checkpoint.model
        self._language_model = model.model.language_model
        self._head = model.lm_head
        self.encoder = AudioEncoder(checkpoint)
        self._audio_id = prompt.audio_id
        self._device = model.device
        self.cache = SlotCache(
            model.config.text_config, slots=slots, slot_tokens=slot_tokens, dtype=model.dtype, device=model.device
        )

    def prefill(self, sequences: Items[Sequence], first_slot: int) -> torch.Tensor:
        """Encode and read the prompts of new rows into the slots from `first_slot` on.

        Returns logits of the first token of each answer, (rows, vocabulary) float32.
        """
        lengths = torch.tensor([len(sequence.prompt_ids) for sequence in sequences], device=self._device)
        # Padded on the right: causal attention never looks there, and no mask is needed.
        embeddings = self.embed(sequences, int(lengths.max()))
        self.cache.begin_prefill(first_slot, len(sequences))
        positions = torch.arange(embeddings.shape[1], device=self._device).unsqueeze(0)
        hidden = self._forward(embeddings, positions, mask=None)
        last = hidden[torch.arange(len(sequences), device=self._device), lengths - 1]
        return self._head(last).float()

    def decode(self, slots: Items[int], sequences: Items[Sequence]) -> torch.Tensor:
        """Advance the rows in `slots` by the last token of each answer.

        Returns logits of the next token of each, (rows, vocabulary) float32.
        """
        tokens = torch.tensor([[sequence.answer[-1]] for sequence in sequences], device=self._device)
        positions = torch.tensor([sequence.position for sequence in sequences], device=self._device)
        length = max(sequence.position for sequence in sequences) + 1
        self.cache.begin_decode(torch.tensor(slots, device=self._device), positions, length)
        # Always a mask, even where all rows are as long: without one the attention kernel for grouped heads is slow.
        mask = (torch.arange(length, device=self._device) <= positions[:, None])[:, None, None, :]
        hidden = self._forward(self._language_model.embed_tokens(tokens), positions[:, None], mask)
        return self._head(hidden[:, -1]).float()

    def _forward(self, hidden: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rotation = self._language_model.rotary_emb(hidden, positions)
        for layer in self._language_model.layers:
            hidden = layer(hidden, attention_mask=mask, past_key_values=self.cache, position_embeddings=rotation)
        normed: torch.Tensor = self._language_model.norm(hidden)
        return normed

    def embed(self, sequences: Items[Sequence], length: int) -> torch.Tensor:
        """Prompts with the encoded audio in its place, right-padded: (rows, length, hidden)."""
        embeddings = []
        for sequence, audio in zip(sequences, self.encoder.encode([s.mel for s in sequences]), strict=True):
            ids = torch.tensor(sequence.prompt_ids, device=self._device)
            embedding = self._language_model.embed_tokens(ids)
            embedding[ids == self._audio_id] = audio
            embeddings.append(pad(embedding, (0, 0, 0, length - len(ids))))
        return torch.stack(embeddings)
