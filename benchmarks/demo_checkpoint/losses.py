"""What both trainings of the demo checkpoint ask of its text model."""

from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3ASRForConditionalGeneration

from benchmarks.demo_checkpoint.batches import Rows

IGNORED = -100
"""The label where nothing is to be predicted."""


def read(model: Qwen3ASRForConditionalGeneration, rows: Rows, audio: torch.Tensor, **options: Any) -> Any:
    """The text model's output for rows whose audio tokens are those of `audio`, (tokens of the batch, width)."""
    embedded = model.get_input_embeddings()(rows.input_ids)
    places = (rows.input_ids == model.config.audio_token_id).unsqueeze(-1)
    embedded = embedded.masked_scatter(places, audio[rows.audio].to(embedded.dtype))
    # Right padding needs no mask: causality hides it.
    return model.model.language_model(inputs_embeds=embedded, use_cache=False, **options)


def answer_loss(
    model: Qwen3ASRForConditionalGeneration, states: torch.Tensor, labels: torch.Tensor, smoothing: float
) -> torch.Tensor:
    """Cross-entropy of the answers, summed over their tokens: states (rows, length, width), labels (rows, length)."""
    wanted = labels != IGNORED
    scores = model.lm_head(states[wanted]).float()
    return functional.cross_entropy(scores, labels[wanted], label_smoothing=smoothing, reduction="sum")


def place_loss(attention: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """How little of the attention goes to where a token is said: minus the logarithm of its share, summed over tokens.

    The share is the mean over heads, so that some may look elsewhere.

    Args:
        attention: (rows, heads, length, length) of one layer.
        places: as in `Rows`.
    """
    placed = places[..., 1] > 0
    starts, ends = places[placed].split(1, dim=-1)
    tokens = torch.arange(places.shape[1])
    inside = (tokens >= starts) & (tokens < ends)
    weights = attention.transpose(1, 2)[placed].float().mean(1)  # (tokens with a place, length)
    return -((weights * inside).sum(-1) + 1e-6).log().sum()
