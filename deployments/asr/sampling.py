"""Choosing the next token of every row, each by its own options."""

from collections.abc import Sequence as Items

import torch

from deployments.asr.sequence import Sequence


def sample(logits: torch.Tensor, sequences: Items[Sequence]) -> tuple[list[int], list[float]]:
    """Choose a token for each row.

    Greedy rows (temperature 0) take the likeliest token; the others sample, each from a random stream of its own, so
    that a row's sample does not depend on who else is running.

    Args:
        logits: (rows, vocabulary) float32.
        sequences: the rows.

    Returns the tokens, and the natural-log probability the model gave each.
    """
    tokens = logits.argmax(dim=-1)
    for row, sequence in enumerate(sequences):
        if sequence.generator is not None and logits[row].isfinite().all():
            # Relative to the best, so that no temperature however small divides into infinity.
            relative = logits[row] - logits[row].max()
            probabilities = torch.softmax(relative / sequence.utterance.temperature, dim=-1).cpu()
            tokens[row] = torch.multinomial(probabilities, 1, generator=sequence.generator)[0]
    logprobs = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=-1)
    # The one moment at which a GPU is waited for.
    chosen = torch.stack([tokens.double(), logprobs.double()]).tolist()
    return [int(token) for token in chosen[0]], chosen[1]


def fresh_generator() -> torch.Generator:
    """A random stream like no other."""
    generator = torch.Generator()
    generator.seed()
    return generator
