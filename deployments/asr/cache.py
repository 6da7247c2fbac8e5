"""The key-value cache: one slot a row, every slot as long as the longest row may get."""

import torch
from transformers import Qwen3Config

from deployments.asr.mapped import mapped_zeros


def slot_bytes(config: Qwen3Config, slot_tokens: int, dtype: torch.dtype) -> int:
    """Memory that one slot takes."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize
    return slot_tokens * per_token


class SlotCache:
    """Keys and values of all layers, in place of transformers' own caches.

    Those grow and shrink with the whole batch; here a row joins, grows and leaves on its own. The running rows always
    hold the slots `0..rows-1`, so that a decode step works on views. On the CPU, memory that was never written to is
    not taken from the system yet.
    """

    def __init__(self, config: Qwen3Config, *, slots: int, slot_tokens: int, dtype: torch.dtype, device: torch.device):
        self.slots = slots
        self.slot_tokens = slot_tokens
        self._layers = config.num_hidden_layers
        heads, head_dim = config.num_key_value_heads, config.head_dim
        if device.type == "cuda":
            # FlashAttention reads a slot's tokens one after the other, each with all its heads.
            entries = torch.zeros((2 * self._layers, slots, slot_tokens, heads, head_dim), dtype=dtype, device=device)
            self._entries = entries.transpose(2, 3)
        else:
            shape = (2 * self._layers, slots, heads, slot_tokens, head_dim)
            self._entries = mapped_zeros(shape, dtype, huge_pages=False)
        self._slots = self._positions = torch.empty(0, dtype=torch.long, device=device)

    def begin(self, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Say where the tokens of the next forward pass go.

        Args:
            slots: (tokens,) the slot of each.
            positions: (tokens,) where in its slot it goes.
        """
        self._slots, self._positions = slots, positions

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take the keys and values of one layer, (tokens, heads, head_dim) both."""
        self._entries[layer][self._slots, :, self._positions] = keys
        self._entries[self._layers + layer][self._slots, :, self._positions] = values

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values of one layer, (slots, heads, slot_tokens, head_dim) both."""
        return self._entries[layer], self._entries[self._layers + layer]

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row to another slot."""
        self._entries[:, target, :, :tokens] = self._entries[:, source, :, :tokens]

    def copy(self, slot: int, tokens: int) -> torch.Tensor:
        """The first tokens of a slot, (2 * layers, heads, tokens, head_dim)."""
        return self._entries[:, slot, :, :tokens].clone(memory_format=torch.contiguous_format)

    def paste(self, slot: int, entries: torch.Tensor) -> None:
        """Put a `copy` at the beginning of a slot."""
        self._entries[:, slot, :, : entries.shape[2]] = entries

    def clear(self, slot: int, tokens: int) -> None:
        """Forget the first tokens of a slot.

        Who is there next attends with weight 0 to what is left of the one before, and 0 times NaN is NaN.
        """
        self._entries[:, slot, :, :tokens] = 0
