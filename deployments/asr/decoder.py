"""The language model, laid out for decoding: the same weights as transformers' Qwen3, in fewer and larger operations.

A decode step is short. In transformers' layers a third of it goes into small operations: here queries, keys and values
come of one matrix product, gates and values of the feed-forward part of another, and queries and keys are normalised
and rotated together.
"""

from collections.abc import Iterable
from typing import Any, Self, cast

import torch
from torch import nn
from torch.nn.functional import rms_norm
from transformers import Qwen3ASRForConditionalGeneration

from deployments.asr.attention import Step, attend
from deployments.asr.cache import SlotCache
from deployments.asr.joined import join
from deployments.asr.packed import Packed
from deployments.asr.pointwise import Pointwise
from deployments.exceptions import CheckpointError


class Decoder(nn.Module):
    """All layers, from embeddings to the last hidden states.

    Args:
        model: transformers' language model; its parameters are taken over, and copied where they are joined.

    Raises:
        CheckpointError: it is not as all Qwen3 are.
    """

    def __init__(self, model: Any):
        super().__init__()
        if model.config.hidden_act != "silu":
            raise CheckpointError(f"A language model with hidden_act {model.config.hidden_act!r} is no Qwen3.")
        self.embed_tokens = model.embed_tokens
        self._rotary = model.rotary_emb
        self.layers = nn.ModuleList()
        for index, layer in enumerate(model.layers):
            self.layers.append(DecoderLayer(layer, index))
            model.layers[index] = nn.Identity()  # lets go of what was copied
        self.final_norm = Norm(model.norm)

    @classmethod
    def of(cls, model: Qwen3ASRForConditionalGeneration) -> Self:
        """The decoder of a model, which from the first call on is its language model: `generate` needs the other."""
        if not isinstance(model.model.language_model, cls):
            model.model.language_model = cls(model.model.language_model)
        decoder: Self = model.model.language_model
        return decoder

    def compile_pointwise(self, compiled: bool) -> None:
        """Let what lies between matrix products be compiled at its next use, or no longer."""
        pointwise = Pointwise(compiled=compiled)
        for layer in cast(Iterable[DecoderLayer], self.layers):
            layer.pointwise = pointwise

    def forward(
        self,
        embeddings: torch.Tensor,
        positions: torch.Tensor,
        cache: SlotCache,
        batch: Packed | Step,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run all layers.

        Args:
            embeddings: (tokens, hidden).
            positions: (tokens,) of each in its sequence.
            cache: told where the tokens go.
            batch: what the tokens are.
            wanted: (rows,) the tokens whose hidden states are needed; None for all.

        Returns (rows, hidden).
        """
        cosines, sines = self.rotation(embeddings, positions)
        rotation = cosines[:, None], sines[:, None]
        hidden = embeddings
        for layer in self.layers[:-1]:
            hidden = layer(hidden, rotation, cache, batch)
        hidden = self.layers[-1](hidden, rotation, cache, batch, wanted)
        normed: torch.Tensor = self.final_norm(hidden)
        return normed

    def rotation(self, embeddings: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines of positions, (tokens, head_dim) both, the first half of the sines negated."""
        cosines, sines = (part[0] for part in self._rotary(embeddings, positions[None]))
        half = sines.shape[-1] // 2
        return cosines, torch.cat([-sines[:, :half], sines[:, half:]], dim=-1)


class DecoderLayer(nn.Module):
    """One layer, made of a `Qwen3DecoderLayer`."""

    def __init__(self, layer: Any, index: int):
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self._index = index
        self.pointwise = Pointwise()
        self.head_dim: int = attention.head_dim
        self.heads = attention.q_proj.out_features // self.head_dim
        self.key_heads = attention.k_proj.out_features // self.head_dim
        self.scaling: float = attention.scaling
        self.attention_norm = Norm(layer.input_layernorm)
        self.qkv = join([attention.q_proj, attention.k_proj, attention.v_proj])
        head_weights = [attention.q_norm.weight] * self.heads + [attention.k_norm.weight] * self.key_heads
        self.head_weights = nn.Buffer(torch.stack(head_weights).detach(), persistent=False)
        self.head_epsilon: float = attention.q_norm.variance_epsilon
        self.output = attention.o_proj
        self.mlp_norm = Norm(layer.post_attention_layernorm)
        self.gate_up = join([mlp.gate_proj, mlp.up_proj])
        self.hidden_size: int = mlp.down_proj.out_features
        self.intermediate_size: int = mlp.down_proj.in_features
        self.down = mlp.down_proj

    def forward(
        self,
        hidden: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        cache: SlotCache,
        batch: Packed | Step,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states to those after this layer, (tokens, hidden); of the `wanted` tokens alone where they are told.

        `rotation` holds cosines and sines, (tokens, 1, head_dim), the first half of the sines negated.
        """
        attended = self._attend(self.attention_norm(hidden), rotation, cache, batch)
        if wanted is not None:
            hidden, attended = hidden[wanted], attended[wanted]
        norm = self.mlp_norm
        hidden, normed = self.pointwise.add_and_normalise(hidden, self.output(attended), norm.weight, norm.epsilon)
        output: torch.Tensor = hidden + self.down(self.pointwise.gate(self.gate_up(normed)))
        return output

    def _attend(
        self,
        normed: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        cache: SlotCache,
        batch: Packed | Step,
    ) -> torch.Tensor:
        """(tokens, heads * head_dim)."""
        projected = self.qkv(normed).view(len(normed), -1, self.head_dim)
        rotated = self.heads + self.key_heads
        heads = self.pointwise.rotate(projected[:, :rotated], self.head_weights, *rotation, self.head_epsilon)
        query, keys, values = heads[:, : self.heads], heads[:, self.heads :], projected[:, rotated:]
        cache.write(self._index, keys, values)
        return attend(query, keys, values, cache.layer(self._index), scaling=self.scaling, batch=batch).flatten(1)


class Norm(nn.Module):
    """`Qwen3RMSNorm` as one operation."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight = norm.weight
        self.epsilon: float = norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Args: (..., hidden). Returns the same."""
        return rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)
