"""The key-value cache: one slot a row, every slot as long as the longest row may get."""

import torch
from transformers import Qwen3Config


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
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self._rows = torch.empty(0, dtype=torch.long)
        self._positions: torch.Tensor | None = None
        self._length = 0

    def begin_prefill(self, first_slot: int, rows: int) -> None:
        """The next forward pass brings the prompts of `rows` rows, for the slots from `first_slot` on."""
        self._rows = torch.arange(first_slot, first_slot + rows)
        self._positions = None

    def begin_decode(self, rows: torch.Tensor, positions: torch.Tensor, length: int) -> None:
        """The next forward pass brings one token for each of the slots `rows`.

        Args:
            rows: (rows,) slots.
            positions: (rows,) where in its slot each token goes.
            length: tokens of every slot that attention looks at; at least the largest position and one.
        """
        self._rows, self._positions, self._length = rows, positions, length

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write (rows, heads, tokens, head_dim) of one layer; return what its attention reads."""
        all_keys, all_values = self._keys[layer], self._values[layer]
        if self._positions is None:
            first, tokens = int(self._rows[0]), keys.shape[2]
            all_keys[first : first + len(keys), :, :tokens] = keys
            all_values[first : first + len(values), :, :tokens] = values
            return keys, values  # causal attention over the prompt itself needs nothing older
        all_keys[self._rows, :, self._positions] = keys[:, :, 0]
        all_values[self._rows, :, self._positions] = values[:, :, 0]
        rows = len(self._rows)
        if int(self._rows[-1]) == rows - 1:
            return all_keys[:rows, :, : self._length], all_values[:rows, :, : self._length]
        return all_keys[self._rows, :, : self._length], all_values[self._rows, :, : self._length]

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row to another slot."""
        for cache in (*self._keys, *self._values):
            cache[target, :, :tokens] = cache[source, :, :tokens]
