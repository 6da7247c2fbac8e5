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

    `update` is all that the attention layers call. What it does is set before each forward pass: `begin_prefill`
    writes whole prompts, `begin_decode` one token a row.
    """

    def __init__(self, config: Qwen3Config, *, slots: int, slot_tokens: int, dtype: torch.dtype, device: torch.device):
        self.slots = slots
        self.slot_tokens = slot_tokens
        shape = (slots, config.num_key_value_heads, slot_tokens, config.head_dim)
        self._keys = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self._values = [_zeros(shape, dtype, device) for _ in range(config.num_hidden_layers)]
        self._all_slots = torch.arange(slots, device=device)
        self._slots = self._all_slots
        self._positions = self._all_slots
        self._window: tuple[slice, slice] | None = None
        """Slots and tokens that the attention of a decode step sees; None in a prefill."""

    def begin_prefill(self, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """The next forward pass brings whole prompts, all tokens as one row.

        Args:
            slots: (tokens,) the slot of each.
            positions: (tokens,) where in its slot it goes.
        """
        self._slots, self._positions, self._window = slots, positions, None

    def begin_decode(self, first_slot: int, positions: torch.Tensor, length: int) -> None:
        """The next forward pass brings one token for each of the slots from `first_slot` on.

        Args:
            first_slot: the first one.
            positions: (rows,) where in its slot each token goes.
            length: tokens of every slot that attention looks at; at least the largest position and one.
        """
        rows = slice(first_slot, first_slot + len(positions))
        self._slots, self._positions, self._window = self._all_slots[rows], positions, (rows, slice(length))

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (rows, heads, tokens, head_dim) of one layer; return what its attention reads."""
        all_keys, all_values = self._keys[layer], self._values[layer]
        if self._window is None:
            all_keys[self._slots, :, self._positions] = keys[0].transpose(0, 1)
            all_values[self._slots, :, self._positions] = values[0].transpose(0, 1)
            return keys, values  # causal attention over the prompts themselves needs nothing older
        all_keys[self._slots, :, self._positions] = keys[:, :, 0]
        all_values[self._slots, :, self._positions] = values[:, :, 0]
        rows, tokens = self._window
        return all_keys[rows, :, tokens], all_values[rows, :, tokens]

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
