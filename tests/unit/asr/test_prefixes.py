"""Prompts that begin alike are read from where they differ, and answered as if they were read whole."""

import pytest
import torch

from benchmarks.engine import noise_sequence
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.prefixes import Prefixes
from deployments.asr.prompt import Prompt
from deployments.asr.runner import ModelRunner
from deployments.asr.sequence import Sequence

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


def test_what_was_kept_is_copied(prefixes: Prefixes, slots: Slots) -> None:
    assert prefixes.recall([1, 2, AUDIO, AUDIO, 3], 4) == 0
    prefixes.keep([1, 2, AUDIO, AUDIO, 3], 4)
    assert prefixes.recall([1, 2, AUDIO, 5], 7) == 2
    assert slots.pasted == {7: [4, 4]}
    assert prefixes.recall([1, AUDIO], 8) == prefixes.recall([1, 2, 3, AUDIO], 8) == 0


def test_the_last_of_use_stay_within_the_room(prefixes: Prefixes) -> None:
    for first in (1, 2, 3):
        prefixes.keep([first, 0, AUDIO], 0)
    assert prefixes.recall([1, 0, AUDIO], 5) == 2
    prefixes.keep([4, 0, 0, AUDIO], 0)
    assert [prefixes.recall([first, 0, AUDIO], 5) for first in (1, 2, 3)] == [2, 0, 0]
    assert prefixes.recall([4, 0, 0, AUDIO], 5) == 3
    prefixes.keep([5, 0, 0, 0, 0, 0, 0, AUDIO], 0)
    assert prefixes.recall([4, 0, 0, AUDIO], 5) == 3, "what has no room drives nothing out"


def test_what_is_not_finite_is_not_kept(prefixes: Prefixes) -> None:
    prefixes.keep([1, AUDIO], 13)
    assert prefixes.recall([1, AUDIO], 5) == 0


@torch.inference_mode()
def test_a_prompt_that_begins_alike_is_answered_the_same(checkpoint: Checkpoint) -> None:
    prompt = Prompt(checkpoint.tokenizer)

    def read(runner: ModelRunner, seed: int, slot: int) -> torch.Tensor:
        sequence: Sequence = noise_sequence(runner, prompt, seed, seconds=1.0 + seed)
        runner.encode([sequence])
        return runner.prefill([sequence], first_slot=slot)

    runner = ModelRunner(checkpoint, prompt, slots=3, slot_tokens=256)
    read(runner, 0, 0)
    again = ModelRunner(checkpoint, prompt, slots=3, slot_tokens=256)
    expected = read(again, 1, 0)
    ids = prompt.token_ids(audio_tokens=1)
    beginning = ids.index(prompt.audio_id)
    assert runner._prefixes.recall(ids, 1) == beginning
    runner.cache.layer(0)[0][:, :, beginning:] = torch.nan  # of the slot that it was read into, too
    torch.testing.assert_close(read(runner, 1, 2), expected)
