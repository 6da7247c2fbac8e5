"""Choosing the next token of every row, each by its own options."""

from collections.abc import Sequence as Items

import torch

from deployments.asr.sequence import Sequence
from deployments.transcription.options import DecodingOptions

GREEDY_BELOW = 1e-4
"""Temperatures under this sample the best token with certainty, and those near the smallest float divide 0 by 0."""


def sample(logits: torch.Tensor, sequences: Items[Sequence]) -> tuple[list[int], list[float]]:
    """Choose a token for each row.

    Greedy rows (temperature 0) take the likeliest token; the others sample, each from a random stream of its own, so
    that a row's sample does not depend on who else is running.

    Args:
        logits: (rows, vocabulary) float32.
        sequences: the rows.

    Returns the tokens, and the natural-log probability the model gave each.
    """
    adjusted = _restrict_language(_penalise_repetition(logits, sequences), sequences)
    tokens = adjusted.argmax(dim=-1)
    if sampled := [row for row, sequence in enumerate(sequences) if sequence.generator is not None]:
        tokens[sampled] = _draw(adjusted, sequences, sampled).to(tokens.device)
    logprobs = logits.gather(1, tokens[:, None]).squeeze(1) - _log_sum_exp(logits)
    # Where no row samples, the one moment at which a GPU is waited for.
    chosen = torch.stack([tokens.double(), logprobs.double()]).tolist()
    return [int(token) for token in chosen[0]], chosen[1]


def _log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """(rows,). On a CPU to the bit the same whatever the other rows are, as the logits are.

    It takes ten times as long for powers that are no longer normal numbers, and they add nothing.
    """
    if logits.is_cuda:
        return logits.logsumexp(dim=-1)
    highest = logits.amax(dim=-1, keepdim=True)
    powers = (logits - highest).clamp_(min=-80).exp_()
    sums = torch.stack([row.sum() for row in powers])  # torch adds a row up in another order when it is alone
    return sums.log_() + highest.squeeze(1)


def _draw(logits: torch.Tensor, sequences: Items[Sequence], rows: Items[int]) -> torch.Tensor:
    """A token for each of these rows, on the CPU, where their random streams are."""
    wanted = [_probabilities(logits[row], sequences[row].utterance.options) for row in rows]
    drawn = torch.zeros(len(rows), dtype=torch.long)
    for i, probabilities in enumerate(torch.stack(wanted).cpu()):
        # A row without finite logits gets any token: the engine ends it for its probability.
        if probabilities.isfinite().all():
            drawn[i] = torch.multinomial(probabilities, 1, generator=sequences[rows[i]].generator)[0]
    return drawn


def generator_for(options: DecodingOptions) -> torch.Generator | None:
    """A random stream for an utterance that samples: its own seed's, or one like no other. None for a greedy one."""
    if options.temperature < GREEDY_BELOW:
        return None
    generator = torch.Generator()
    if options.seed is None:
        generator.seed()
    else:
        generator.manual_seed(options.seed)
    return generator


def _penalise_repetition(logits: torch.Tensor, sequences: Items[Sequence]) -> torch.Tensor:
    """Make tokens of each row's own answer less likely. Those of the prompt are left alone: one is the end of turn."""
    adjusted = logits
    for row, sequence in enumerate(sequences):
        penalty = sequence.utterance.options.repetition_penalty
        if penalty == 1 or not sequence.answer:
            continue
        if adjusted is logits:
            adjusted = logits.clone()
        seen = torch.tensor(sorted(set(sequence.answer)), device=logits.device)
        scores = logits[row, seen]
        adjusted[row, seen] = torch.where(scores > 0, scores / penalty, scores * penalty)
    return adjusted


def _restrict_language(logits: torch.Tensor, sequences: Items[Sequence]) -> torch.Tensor:
    """Leave only the tokens that name an allowed language, in rows where not every one is allowed."""
    restricted = logits
    for row, sequence in enumerate(sequences):
        if allowed := sequence.next_of_openings:
            if restricted is logits:
                restricted = logits.clone()
            restricted[row] = -torch.inf
            restricted[row, allowed] = logits[row, allowed]
    return restricted


def _probabilities(logits: torch.Tensor, options: DecodingOptions) -> torch.Tensor:
    """What to sample from, (vocabulary,): tempered, and cut to `top_k` and `top_p`."""
    probabilities = torch.softmax((logits - logits.max()) / options.temperature, dim=-1)
    if options.top_k:
        worst_kept = probabilities.topk(min(options.top_k, len(probabilities))).values[-1]
        probabilities = probabilities.where(probabilities >= worst_kept, 0.0)
    if options.top_p < 1:
        ranked, order = probabilities.sort(descending=True)
        # Kept is every token that the likelier ones have not yet brought to top_p: the best one always.
        likelier = ranked.cumsum(dim=-1) - ranked
        kept = ranked.where(likelier < options.top_p * probabilities.sum(), 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(0, order, kept)
    return probabilities
