"""Choosing the next token of every row, each by its own options."""

import torch
from transformers import LogitsProcessor, StoppingCriteria


class RowSampler(LogitsProcessor):
    """Chooses each row's token itself and leaves `generate` no choice, since its own options are one for all rows.

    Greedy rows (temperature 0) take the likeliest token; the others sample, each from a random stream of its own, so
    that a row's sample does not depend on its neighbours in the batch.
    """

    def __init__(self, temperatures: list[float]):
        self._temperatures = temperatures
        self._generators = [_fresh_generator() if temperature > 0 else None for temperature in temperatures]
        self._logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Args: `scores` (rows, vocabulary), raw logits. Returns scores that only the chosen tokens survive."""
        logits = scores.float()
        tokens = logits.argmax(dim=-1)
        for row, (temperature, generator) in enumerate(zip(self._temperatures, self._generators, strict=True)):
            if generator is not None:
                # Relative to the best, so that no temperature however small divides into infinity.
                relative = logits[row] - logits[row].max()
                probabilities = torch.softmax(relative / temperature, dim=-1).cpu()
                tokens[row] = torch.multinomial(probabilities, 1, generator=generator)[0]
        tokens = tokens.unsqueeze(1)
        self._logprobs.append(torch.log_softmax(logits, dim=-1).gather(1, tokens).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)

    def mean_logprob(self, row: int, tokens: int) -> float:
        """Mean natural-log probability that the model gave the first `tokens` tokens of `row`."""
        return float(torch.stack(self._logprobs[:tokens])[:, row].mean())


class RowBudget(StoppingCriteria):
    """Ends each row at its own number of new tokens; `generate` alone knows only one for all."""

    def __init__(self, budgets: list[int], device: torch.device):
        self._budgets = torch.tensor(budgets, device=device)

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        """Args: `input_ids` (rows, new tokens so far). Returns (rows,) bool."""
        return self._budgets <= input_ids.shape[1]


def _fresh_generator() -> torch.Generator:
    generator = torch.Generator()
    generator.seed()
    return generator
