"""What prompts begin with, before their audio: read once, and copied into the slots of all that begin alike."""

import logging
from collections import OrderedDict, deque

import torch

from deployments.asr.cache import SlotCache

logger = logging.getLogger("ray.serve.asr")

KEPT_TOKENS = 512
"""Of all beginnings together; some 60 MB at the size of Qwen3-ASR-0.6B."""
REMEMBERED = 32
"""Beginnings that were met once: most callers' own never come again."""

Key = tuple[int, ...]


class Prefixes:
    """Keys and values of the beginnings of prompts that came more than once, those that were last of use.

    Without a caller's context all prompts begin alike; with one, those of all pieces of a recording do, and of all
    requests that bring the same.

    Args:
        cache: what is copied from and to.
        audio_id: the token of a prompt at which its beginning ends.
        tokens: that are kept in all.
    """

    def __init__(self, cache: SlotCache, *, audio_id: int, tokens: int = KEPT_TOKENS):
        self._cache = cache
        self._audio_id = audio_id
        self._room = tokens
        self._met: deque[Key] = deque(maxlen=REMEMBERED)
        self._kept: OrderedDict[Key, torch.Tensor] = OrderedDict()

    def recall(self, prompt_ids: list[int], slot: int) -> int:
        """Copy the beginning of a prompt into a slot; returns how many of its tokens are in there now."""
        key = self._beginning(prompt_ids)
        if key not in self._kept:
            return 0
        self._kept.move_to_end(key)
        self._cache.paste(slot, self._kept[key])
        return len(key)

    def keep(self, prompt_ids: list[int], slot: int) -> None:
        """Keep the beginning of a prompt that is in a slot, if it has been met before."""
        key = self._beginning(prompt_ids)
        if key in self._kept or len(key) > self._room:
            return
        if key not in self._met:
            self._met.append(key)
            return
        while sum(map(len, self._kept)) + len(key) > self._room:
            self._kept.popitem(last=False)
        try:
            entries = self._cache.copy(slot, len(key))
        except RuntimeError:
            logger.warning("there is no memory to keep what prompts begin with; they are read whole")
            return
        # A fault of this moment would be one of all prompts to come. Every token looks at itself in every layer: what
        # is not finite anywhere is not finite in the last one.
        keys_and_values = entries.unflatten(0, (2, -1))[:, -1]
        if keys_and_values.isfinite().all():
            self._kept[key] = entries

    def _beginning(self, prompt_ids: list[int]) -> Key:
        return tuple(prompt_ids[: prompt_ids.index(self._audio_id)])
