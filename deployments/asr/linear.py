"""Linear layers for the CPU, their weights laid out once the way its matrix kernels want them.

A decode step multiplies a few rows with every weight of the model, so it is bound by how fast weights stream through
the cores: half the bytes are half the time. `nn.Linear` keeps them in plain order, in the format it computes in.
"""

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from transformers import Qwen3ASRForConditionalGeneration

from deployments.asr.decoder import Decoder
from deployments.asr.encoder import attend_in_windows, encode_in_c
from deployments.asr.mapped import release_freed
from deployments.asr.native.decoder import suits
from deployments.asr.native.weights import NativeLinear, NativeWeight
from deployments.asr.onednn import round_up
from deployments.exceptions import CheckpointError

Quantization = Literal["none", "int8"]

_FLOAT16_MAX = torch.finfo(torch.float16).max
_FLOAT16_STEP = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
"""Distance of the smallest float16 numbers: bfloat16 weights that fall between them are moved by half of it at most."""


FEW_ROWS = 8
"""Up to so many rows float16 weights are the faster ones."""


class UnsuitableLayer(Exception):
    """This layout would change what the layer computes."""


class PackedLinear(nn.Module):
    """`nn.Linear` with its weight in oneDNN's blocked order. Same format; sums are taken in another order."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        # The operators that torch.compile itself uses on the CPU; they are not public, see `_first_that_works`.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (..., in features). Returns (..., out features)."""
        *shape, features = inputs.shape
        rows = inputs.numel() // features
        if padding := round_up(rows) - rows:
            inputs = nn.functional.pad(inputs.reshape(rows, features), (0, 0, 0, padding))
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self.bias, "none", [], "")
        return output[:rows].view(*shape, -1) if padding else output


class HalfLinear(nn.Module):
    """`nn.Linear` that computes in float32 with weights kept in float16.

    For processors that do not compute in bfloat16. A weight released in bfloat16 has fewer digits than float16 keeps,
    so nothing is rounded but numbers too small to matter; a weight with more digits is refused.

    Raises:
        UnsuitableLayer: float16 cannot hold the weight.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        if weight.dtype != torch.float32 or not _fits_float16(weight):
            raise UnsuitableLayer
        bias = None if linear.bias is None else linear.bias.detach()
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (..., in features) float32. Returns (..., out features) float32."""
        output: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self._packed)
        return output


class DualLinear(nn.Module):
    """`HalfLinear` for few rows, which are bound by memory, and `PackedLinear` for many, which are bound by arithmetic.

    Takes three halves of the memory of a plain float32 layer.

    Raises:
        UnsuitableLayer: float16 cannot hold the weight.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self._few = HalfLinear(linear)
        self._many = PackedLinear(linear)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (..., in features) float32. Returns (..., out features) float32."""
        rows = inputs.numel() // inputs.shape[-1]
        output: torch.Tensor = (self._few if rows <= FEW_ROWS else self._many)(inputs)
        return output


class Int8Linear(nn.Module):
    """`nn.Linear` with int8 weights, one scale an output feature; activations are quantised as they come.

    They get one scale for all rows of a batch, so what a row computes depends a little on its neighbours. In C
    each row has its own.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach().float()
        self._packed = torch.ops.quantized.linear_prepack(_quantised(linear), bias)
        # Without VNNI the kernel adds pairs of products in 16 bits, which overflow unless activations keep to 7 bits.
        capabilities = torch.cpu.get_capabilities()
        self._seven_bits = not (capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Args: (..., in features). Returns (..., out features), in the format of the inputs."""
        output = torch.ops.quantized.linear_dynamic(inputs.float(), self._packed, self._seven_bits)
        return output.to(inputs.dtype)


def _quantised(linear: nn.Linear) -> torch.Tensor:
    """Its weight in int8, with one scale an output feature."""
    weight = linear.weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # they say that they are to go
        return torch.quantize_per_channel(weight, scales, torch.zeros(len(scales), dtype=torch.int), 0, torch.qint8)


class HalfEmbedding(nn.Module):
    """`nn.Embedding` that returns float32 from weights kept in bfloat16, where they were released in it."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self._weight = embedding.weight.detach().bfloat16()
        if embedding.weight.dtype != torch.float32 or not torch.equal(self._weight.float(), embedding.weight):
            raise UnsuitableLayer

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Args: (...) token ids. Returns (..., hidden) float32."""
        return nn.functional.embedding(tokens, self._weight).float()


Layout = Callable[[nn.Linear], nn.Module]
Place = tuple[nn.Module, str]
"""A layer's parent and its name in there."""


def pack(model: Qwen3ASRForConditionalGeneration, quantization: Quantization, *, spare_bytes: float = math.inf) -> str:
    """Lay out the weights of a model that runs on the CPU, in place; the plain ones are dropped.

    The language model becomes a `Decoder`. Where the library in C takes them, its weights are those of `NativeLinear`,
    and audio tower and projector become a `NativeEncoder`. Elsewhere the audio encoder, which only ever sees many rows
    at a time, the head, which sees few, and the language model, which sees both, have different layouts.

    Args:
        model: in the format it was loaded in.
        quantization: `int8` replaces the weights by rounded ones.
        spare_bytes: memory that may be taken for speed, where the library is not used; without it each weight of the
            language model is kept once, as those in int8 always are.

    Returns the name of each layout used and how many layers have it, for the log. A layer whose layout this build of
    torch lacks keeps its plain weight.

    Raises:
        CheckpointError: `int8` was asked for and this build of torch lacks its operators.
    """
    attend_in_windows(model)
    language_model = Decoder.of(model)
    text = set(_linears(language_model))
    spare = sum(getattr(*place).weight.nbytes for place in text) < spare_bytes
    in_c = suits(language_model, model.lm_head)
    used: Counter[str] = Counter()
    linears = len(_linears(model))
    lay_out = native_int8 if quantization == "int8" else native
    if in_c and encode_in_c(model, lay_out):
        used["NativeEncoder"] = linears - len(_linears(model))
    for parent, name in _linears(model):
        linear = getattr(parent, name)
        is_head = linear is model.lm_head
        layouts: tuple[Layout, ...] = (PackedLinear,)
        if in_c and ((parent, name) in text or is_head):
            setattr(parent, name, NativeLinear(lay_out(linear)))
            used["NativeLinear"] += 1
            continue
        if quantization == "int8":
            layouts = (Int8Linear,)
        elif (parent, name) in text or is_head:
            layouts = (DualLinear if spare and not is_head else HalfLinear, PackedLinear)
        packed = _first_that_works(layouts, linear)
        if quantization == "int8" and packed is linear:
            raise CheckpointError(
                f"quantization 'int8' needs operators that torch {torch.__version__} lacks here. Set it to 'none'."
            )
        setattr(parent, name, packed)
        used[type(packed).__name__] += 1
    for parent, name in _places(language_model, nn.Embedding):
        with contextlib.suppress(UnsuitableLayer):
            setattr(parent, name, HalfEmbedding(getattr(parent, name)))
    release_freed()  # the plain weights, which lay between what is left
    return ", ".join(f"{count} {layout}" for layout, count in sorted(used.items()))


def native(linear: nn.Linear) -> NativeWeight:
    """A layer's weight as the library in C takes it."""
    return NativeWeight.of(linear.weight, linear.bias)


def native_int8(linear: nn.Linear) -> NativeWeight:
    """The same in int8, with one scale an output feature."""
    weight = linear.weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
    rounded = (weight / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
    return NativeWeight.of_int8(rounded, scales, linear.bias)


def _first_that_works(layouts: tuple[Layout, ...], linear: nn.Linear) -> nn.Module:
    """The operators are private or old ones of torch, and some do not take every number format: try them."""
    for layout in layouts:
        try:
            packed = layout(linear)
            packed(torch.zeros(1, linear.in_features, dtype=linear.weight.dtype))
        except (
            UnsuitableLayer,
            AttributeError,
            RuntimeError,
            OSError,
        ):  # this build lacks the operator, or memory is out
            continue
        return packed
    return linear


def _linears(part: nn.Module) -> list[Place]:
    return _places(part, nn.Linear)


def _places(part: nn.Module, kind: type[nn.Module]) -> list[Place]:
    """Where layers of a kind are. Who held the layers themselves would hold the weights that are replaced, too."""
    return [(p, name) for p in part.modules() for name, child in p.named_children() if type(child) is kind]


def _fits_float16(weight: torch.Tensor) -> bool:
    if weight.abs().max() > _FLOAT16_MAX:
        return False
    return bool((weight.half().float() - weight).abs().max() <= _FLOAT16_STEP / 2)
