"""What a replica computes on, and how large a cache its memory holds."""

import errno
import mmap
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import Qwen3Config

from deployments.asr import device as module
from deployments.asr import mapped
from deployments.asr.cache import SlotCache, slot_bytes
from deployments.asr.device import choose_admission, choose_device, choose_piece, choose_slots, choose_threads
from deployments.exceptions import CheckpointError
from deployments.settings import Settings

CPU = torch.device("cpu")
RELEASED = Qwen3Config(num_hidden_layers=28, num_key_value_heads=8, head_dim=128)


def _slots(monkeypatch: pytest.MonkeyPatch, free_gib: float, **settings: Any) -> int:
    monkeypatch.setattr(module, "free_bytes", lambda *_: int(free_gib * 2**30))
    return choose_slots(Settings(**settings), RELEASED, torch.bfloat16, CPU, 0)


def test_a_slot_takes_what_it_says() -> None:
    config = Qwen3Config(num_hidden_layers=3, num_key_value_heads=2, head_dim=16)
    cache = SlotCache(config, slots=4, slot_tokens=50, dtype=torch.float32, device=CPU)
    taken = cache._entries.nbytes
    assert taken == 4 * slot_bytes(config, 50, torch.float32)
    assert slot_bytes(RELEASED, 1, torch.bfloat16) == 112 * 1024


@pytest.mark.parametrize("huge_pages", [False, True])
def test_a_kernel_without_huge_pages_maps_memory_too(huge_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mapping(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(mapped.mmap, "mmap", Mapping)
    zeros = mapped.mapped_zeros((3, 5), torch.bfloat16, huge_pages=huge_pages)
    assert zeros.shape == (3, 5)
    assert not zeros.any()


def test_a_cache_takes_memory_as_it_is_written() -> None:
    before = psutil.Process().memory_info().rss
    cache = SlotCache(RELEASED, slots=8, slot_tokens=2048, dtype=torch.float32, device=CPU)
    for tensor in cache._entries:
        assert not tensor[-1, -1, -1].any()
        tensor[:, :, :10] = 1.0
    assert psutil.Process().memory_info().rss - before < 2**27, "of 3.5 GiB"


def test_auto_takes_as_many_slots_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slots(monkeypatch, free_gib=100) == 16
    assert _slots(monkeypatch, free_gib=1.0) == 4
    with pytest.raises(CheckpointError, match=r"1 slots of 2048 tokens need 0\.2 GiB and cpu has 0\.1 GiB"):
        _slots(monkeypatch, free_gib=0.1)


def test_slots_that_were_set_must_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _slots(monkeypatch, free_gib=100, slots=40) == 40
    with pytest.raises(CheckpointError, match="40 slots"):
        _slots(monkeypatch, free_gib=5, slots=40)


def test_free_memory_is_measured() -> None:
    assert 0 < module.free_bytes(CPU, 0) < 2**50


def test_a_gpu_that_torch_does_not_see_is_no_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="sees no GPU"):
        choose_device(1.0)


def test_threads_are_those_that_were_set() -> None:
    assert choose_threads(Settings(torch_threads=3), CPU) == 3
    assert choose_threads(Settings(), torch.device("cuda")) == 1


def test_a_gpu_encodes_together_what_it_has_memory_for() -> None:
    gpu = torch.device("cuda")
    assert choose_admission(Settings(), torch.bfloat16, CPU, 2**40) == 10
    assert choose_admission(Settings(), torch.bfloat16, gpu, 2**40) == 600
    assert choose_admission(Settings(), torch.bfloat16, gpu, 1.4e9) == 100, "of a card of 12 GB with the 1.7B model"
    assert choose_admission(Settings(), torch.float32, gpu, 1.4e9) == 50
    assert choose_admission(Settings(), torch.bfloat16, gpu, 0) == 30
    assert choose_admission(Settings(admission_s=7), torch.bfloat16, gpu, 2**40) == 7


def test_prompts_are_read_in_pieces_where_that_is_faster() -> None:
    assert choose_piece(torch.float32, CPU) < choose_piece(torch.bfloat16, CPU)
    assert choose_piece(torch.bfloat16, torch.device("cuda")) == 0, "whole ones"


def test_a_container_bounds_threads_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    everything = module.free_bytes(CPU, 0)
    limits = {"cpu.max": "350000 100000", "memory.max": str(2**26), "memory.current": str(2**25)}
    for name, value in {**limits, "memory.stat": f"anon 5\ninactive_file {2**24}"}.items():
        (tmp_path / name).write_text(value + "\n")
    assert choose_threads(Settings(), CPU) == 4
    assert module.free_bytes(CPU, 0) == int(0.8 * (2**25 + 2**24)) < everything


def test_a_container_without_limits_has_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert choose_threads(Settings(), CPU) == 16, "outside of a container"
    limits = {"cpu.max": "max 100000", "memory.max": "max", "memory.current": str(2**25)}
    for name, value in {**limits, "memory.stat": "inactive_file 0"}.items():
        (tmp_path / name).write_text(value + "\n")
    assert choose_threads(Settings(), CPU) == 16
    assert module.free_bytes(CPU, 0) > 2**26
