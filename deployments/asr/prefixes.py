"""What prompts begin with, before their audio: read once, and copied into the slots of all that begin alike."""

from collections import OrderedDict

import torch

from deployments.asr.cache import SlotCache

Key = tuple[int, ...]


class Prefixes:
    """Keys and values of the beginnings of prompts, those that were last of use.

    Without a caller's context all prompts begin alike; with one, those of all pieces of a recording do, and of all
    requests that bring the same.

    Args:
        cache: what is copied from and to.
        audio_id: the token of a prompt at which its beginning ends.
        tokens: that are kept in all.
    """

    def __init__(self, cache: SlotCache, *, audio_id: int, tokens: int):
        self._cache = cache
        self._audio_id = audio_id
        self._room = tokens
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
        """Keep the beginning of a prompt that is in a slot."""
        key = self._beginning(prompt_ids)
        if key in self._kept or len(key) > self._room:
            return
        entries = self._cache.copy(slot, len(key))
        if not entries.isfinite().all():
            return  # a fault of this moment would be one of all prompts to come
        while sum(map(len, self._kept)) + len(key) > self._room:
            self._kept.popitem(last=False)
        self._kept[key] = entries

    def _beginning(self, prompt_ids: list[int]) -> Key:
        return tuple(prompt_ids[: prompt_ids.index(self._audio_id)])
