"""Attention of many sequences in one row is the attention of each, written out."""

import pytest
import torch

from deployments.asr.packed import Packed, attend_packed

LENGTHS = [1, 7, 104, 33]


def _written_out(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float, causal: bool
) -> torch.Tensor:
    """One sequence, head by head, in float64."""
    shared = query.shape[1] // keys.shape[1]
    heads = []
    for head in range(query.shape[1]):
        scores = scaling * query[:, head].double() @ keys[:, head // shared].double().T
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ values[:, head // shared].double())
    return torch.stack(heads, dim=1)


def _check(device: str, dtype: torch.dtype, key_heads: int, *, causal: bool, tolerance: float) -> None:
    torch.manual_seed(0)
    query = torch.randn(sum(LENGTHS), 4, 64).to(device, dtype)
    keys, values = (torch.randn(sum(LENGTHS), key_heads, 64).to(device, dtype) for _ in range(2))
    attended = attend_packed(query, keys, values, Packed(LENGTHS, query.device), scaling=0.2, causal=causal)
    parts = zip(query.cpu().split(LENGTHS), keys.cpu().split(LENGTHS), values.cpu().split(LENGTHS), strict=True)
    expected = torch.cat([_written_out(*part, 0.2, causal) for part in parts])
    torch.testing.assert_close(attended.cpu().double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_each_sequence_attends_to_itself(key_heads: int, causal: bool) -> None:
    _check("cpu", torch.float32, key_heads, causal=causal, tolerance=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_gpu_attends_alike(key_heads: int, causal: bool, dtype: torch.dtype) -> None:
    _check("cuda", dtype, key_heads, causal=causal, tolerance=1e-5 if dtype == torch.float32 else 2e-2)
