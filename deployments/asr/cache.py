"""The key-value cache: one slot a row, every slot as long as the longest row may get."""

import math
import mmap

import torch
from transformers import Qwen3Config


def slot_bytes(config: Qwen3Config, slot_tokens: int, dtype: torch.dtype) -> int:
    """Memory that one slot takes."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return slot_tokens * per_token


class SlotCache:
    """Keys and values of all layers, in place of transformers' own caches.

    Those grow and shrink with the whole batch; here a row joins, grows and leaves on its own. The running rows always
    hold the slots `0..rows-1`, so that a decode step works on views. On the CPU, memory that was never written to is
    not taken from the system yet.

    `update` is all that the attention layers call. Where it writes to is set before each forward pass, by `begin`.
    """

    def __init__(self, config: Qwen3Config, *, slots: int, slot_tokens: int, dtype: torch.dtype, device: torch.device):
        self.slots = slots
        self.slot_tokens = slot_tokens
        shape = (slots, config.num_key_value_heads, slot_tokens, config.head_dim)
        self._keys = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self._values = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self._slots = self._positions = torch.empty(0, dtype=torch.long, device=device)
        self._prompts_alone = False

    def begin(self, slots: torch.Tensor, positions: torch.Tensor, *, prompts_alone: bool) -> None:
        """Say where the tokens of the next forward pass go.

        Args:
            slots: (tokens,) the slot of each.
            positions: (tokens,) where in its slot it goes.
            prompts_alone: they are whole prompts, whose attention needs nothing that is in the cache.
        """
        self._slots, self._positions, self._prompts_alone = slots, positions, prompts_alone

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the keys and values of one layer; return those that its attention reads.

        Args:
            keys: (1, heads, tokens, head_dim).
            values: as `keys`.
            layer: which.

        Returns `keys` and `values` where prompts are alone, else all slots: (slots, heads, slot_tokens, head_dim).
        """
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys[self._slots, :, self._positions] = keys[0].transpose(0, 1)
        all_values[self._slots, :, self._positions] = values[0].transpose(0, 1)
        return (keys, values) if self._prompts_alone else (all_keys, all_values)

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row to another slot."""
        for cache in (*self._keys, *self._values):
            cache[target, :, :tokens] = cache[source, :, :tokens]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # torch would write the zeros, and numpy ask for huge pages, of which a single token takes a whole one. Memory that
    # the system maps reads as zero, and is taken page by page when it is written to.
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
