"""Beginnings of prompts are kept and copied, within bounds."""

import pytest
import torch

from deployments.asr.prefixes import REMEMBERED, Prefixes

AUDIO = 9


class Slots:
    """A cache of one layer and head whose entries are the numbers of its slots, and what was pasted into them."""

    def __init__(self) -> None:
        self.pasted: dict[int, list[float]] = {}

    def copy(self, slot: int, tokens: int) -> torch.Tensor:
        return torch.full((2, 1, tokens, 4), torch.nan if slot == 13 else float(slot))

    def paste(self, slot: int, entries: torch.Tensor) -> None:
        self.pasted[slot] = entries[0, 0, :, 0].tolist()


@pytest.fixture
def slots() -> Slots:
    return Slots()


@pytest.fixture
def prefixes(slots: Slots) -> Prefixes:
    return Prefixes(slots, audio_id=AUDIO, tokens=6)  # type: ignore[arg-type]


def keep(prefixes: Prefixes, *prompt_ids: int, slot: int = 0) -> None:
    """Twice, since what was met once is not kept yet."""
    for _ in range(2):
        prefixes.keep(list(prompt_ids), slot)


def test_what_was_kept_is_copied(prefixes: Prefixes, slots: Slots) -> None:
    assert prefixes.recall([1, 2, AUDIO, AUDIO, 3], 4) == 0
    prefixes.keep([1, 2, AUDIO, AUDIO, 3], 4)
    assert prefixes.recall([1, 2, AUDIO, 5], 7) == 0, "it may never come again"
    prefixes.keep([1, 2, AUDIO, 3], 5)
    assert prefixes.recall([1, 2, AUDIO, 5], 7) == 2
    assert slots.pasted == {7: [5, 5]}
    assert prefixes.recall([1, AUDIO], 8) == prefixes.recall([1, 2, 3, AUDIO], 8) == 0


def test_what_comes_once_drives_nothing_out(prefixes: Prefixes) -> None:
    keep(prefixes, 1, 0, AUDIO)
    for own in range(10, 10 + 3 * REMEMBERED):
        prefixes.keep([own, 0, 0, AUDIO], 0)
    assert prefixes.recall([1, 0, AUDIO], 5) == 2
    assert len(prefixes._met) == REMEMBERED


def test_the_last_of_use_stay_within_the_room(prefixes: Prefixes) -> None:
    for first in (1, 2, 3):
        keep(prefixes, first, 0, AUDIO)
    assert prefixes.recall([1, 0, AUDIO], 5) == 2
    keep(prefixes, 4, 0, 0, AUDIO)
    assert [prefixes.recall([first, 0, AUDIO], 5) for first in (1, 2, 3)] == [2, 0, 0]
    assert prefixes.recall([4, 0, 0, AUDIO], 5) == 3
    keep(prefixes, 5, 0, 0, 0, 0, 0, 0, AUDIO)
    assert prefixes.recall([4, 0, 0, AUDIO], 5) == 3, "what has no room drives nothing out"


def test_what_is_not_finite_is_not_kept(prefixes: Prefixes) -> None:
    keep(prefixes, 1, AUDIO, slot=13)
    assert prefixes.recall([1, AUDIO], 5) == 0


def test_without_memory_all_goes_on(prefixes: Prefixes, slots: Slots, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(slot: int, tokens: int) -> torch.Tensor:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr(slots, "copy", fail)
    keep(prefixes, 1, AUDIO)
    assert prefixes.recall([1, AUDIO], 5) == 0
