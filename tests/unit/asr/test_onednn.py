"""oneDNN keeps few kernels, in the processes that the service starts."""

import os
import subprocess
import sys

import pytest

from deployments.asr.onednn import KEPT_KERNELS, bound_caches

NAMES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
GROWTH = """
from deployments.asr.onednn import bound_caches

if {bounded}:
    bound_caches()

import psutil
import torch
from torch import nn

from deployments.asr.linear import PackedLinear

layers = [PackedLinear(nn.Linear(128, 64 * width)) for width in range(1, 9)]

def see(numbers):
    with torch.inference_mode():
        for rows in numbers:
            for layer in layers:
                layer(torch.zeros(rows, 128))
    return psutil.Process().memory_info().rss

before = see([1, 2, 3, 4, 5, 6, 7, 8, 512])
print(see(range(9, 513)) - before)
"""
"""Prints by how many bytes a process grows that meets some 70 numbers of rows with eight shapes of weights."""


def growth(*, bounded: bool) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    code = GROWTH.format(bounded=bounded)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_memory_grows_little_with_the_shapes_seen() -> None:
    assert growth(bounded=True) < growth(bounded=False) / 3


def test_the_operator_may_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAMES[0], raising=False)
    monkeypatch.setenv(NAMES[1], "500")
    bound_caches()
    assert [os.environ[name] for name in NAMES] == [KEPT_KERNELS, "500"]
