"""The audio encoder on a CPU in one call."""

from collections.abc import Callable, Sequence
from ctypes import CDLL, byref, c_void_p
from itertools import accumulate
from typing import Any, Self, cast

import torch
from torch import nn

from deployments.asr.features import CHUNK_FRAMES
from deployments.asr.native.library import (
    CONVOLUTIONS,
    GROUP,
    LANES,
    LINE,
    PATCH,
    PLACES,
    TILE,
    TOGETHER,
    EncoderLayerStructure,
    EncoderStructure,
    LayerNormStructure,
    SoundsStructure,
    library,
)
from deployments.asr.native.weights import NativeWeight, Room
from deployments.budget import CHUNK_TOKENS

PRODUCTS = 4
"""Of a layer."""
LayOut = Callable[[nn.Linear], NativeWeight]
"""A layer's weight as the library takes it."""


class NativeEncoder(nn.Module):
    """The audio tower and the projector behind it.

    Args:
        part: the model that has both, its tower with `WindowAttention`, in bfloat16.
        lay_out: the weights of linear layers.
    """

    def __init__(self, part: Any, lay_out: LayOut):
        super().__init__()
        tower, projector = part.audio_tower, part.multi_modal_projector
        self._library = cast(CDLL, library())
        self._kept_alive: list[torch.Tensor] = []
        """What the library has pointers to, besides weights."""
        self.convolutions = [_convolution(each) for each in (tower.conv2d1, tower.conv2d2, tower.conv2d3)]
        self.linears: list[NativeWeight] = []
        first = tower.layers[0]
        self._hidden, self._intermediate = first.fc1.in_features, first.fc1.out_features
        self._heads, self._bins = tower.config.encoder_attention_heads, tower.config.num_mel_bins
        self._channels, self._embedding = tower.conv2d1.out_channels, projector.linear_2.out_features
        self.sizes = [(CHUNK_FRAMES, self._bins)]
        """Times and bins of a chunk, and of what each convolution makes of it."""
        for _ in range(CONVOLUTIONS):
            self.sizes.append(cast("tuple[int, int]", tuple(-(-size // 2) for size in self.sizes[-1])))
        joined = _with_weight(tower.conv_out, _bins_first(tower.conv_out.weight, self._channels))
        self._encoder = EncoderStructure(
            convolutions=tuple(weight.structure for weight in self.convolutions),
            joined=self._linear(lay_out(joined)),
            places=self._pointer(tower.positional_embedding.positional_embedding[: self.sizes[-1][0]].bfloat16()),
            layers=(EncoderLayerStructure * len(tower.layers))(*(self._layer(each, lay_out) for each in tower.layers)),
            norm=self._norm(tower.ln_post),
            first=self._linear(lay_out(projector.linear_1)),
            second=self._linear(lay_out(projector.linear_2)),
            layer_count=len(tower.layers),
            hidden=self._hidden,
            intermediate=self._intermediate,
            heads=self._heads,
            embedding=self._embedding,
            channels=self._channels,
            frames=CHUNK_FRAMES,
            bins=self._bins,
            epsilon=first.self_attn_layer_norm.eps,
            scaling=(self._hidden // self._heads) ** -0.5,
        )

    @classmethod
    def of(cls, part: Any, lay_out: LayOut) -> Self | None:
        """None where the library is missing, or not made for a tower of this format and these sizes."""
        return cls(part, lay_out) if library() is not None and _suits(part) else None

    def forward(self, mels: Sequence[torch.Tensor], tokens: Sequence[int], windows: Sequence[int]) -> torch.Tensor:
        """Encode.

        Args:
            mels: (bins, whole chunks of frames) of each utterance, zeros where it has ended.
            tokens: of each chunk of all.
            windows: tokens of each window of all, which are as many.

        Returns (tokens, embedding) bfloat16.

        Raises:
            ValueError: they do not go together, which the library does not notice.
        """
        self._check(mels, tokens, windows)
        spectrum = torch.cat(list(mels), dim=1).T.bfloat16().contiguous()
        total, threads = sum(tokens), torch.get_num_threads()
        longest = -(-max(windows) // TILE) * TILE
        head_dim = self._hidden // self._heads
        *between, (_, last_bins) = self.sizes[1:]
        images = [_narrow(TOGETHER, times, bins, self._channels) for times, bins in between]
        images.append(_narrow(total, last_bins, self._channels))
        embeddings = torch.empty(total, self._embedding)
        room = Room.of(total, max(last_bins * self._channels, self._hidden, self._intermediate))
        tensors = {
            "spectrum": spectrum,
            "chunk_starts": torch.tensor([0, *accumulate(tokens)]),
            "window_starts": torch.tensor([0, *accumulate(windows)]),
            "embeddings": embeddings,
            "residual": torch.empty(total, self._hidden),
            "wide": _narrow(total, max(3 * self._hidden, self._intermediate)),
            "attended": _narrow(total, self._hidden),
            "taken": torch.zeros(PRODUCTS * self._encoder.layer_count + 3, dtype=torch.long),
            "patches": _narrow(threads, PLACES, PATCH * self._channels),
            "scores": torch.empty(threads, GROUP, longest),
            "shares": _narrow(threads, GROUP, longest),
            "queries": _narrow(threads, GROUP, head_dim),
            "tiles": _narrow(threads, longest, head_dim + -(-head_dim // TILE) * TILE),
        }
        sounds = SoundsStructure(
            chunk_count=len(tokens),
            window_count=len(windows),
            longest=longest,
            images=(c_void_p * CONVOLUTIONS)(*(image.data_ptr() for image in images)),
            room=room.structure,
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )
        self._library.encode(byref(self._encoder), byref(sounds), threads)
        return embeddings.bfloat16()

    def _check(self, mels: Sequence[torch.Tensor], tokens: Sequence[int], windows: Sequence[int]) -> None:
        frames = sum(mel.shape[1] for mel in mels)
        if any(len(mel) != self._bins for mel in mels) or frames != CHUNK_FRAMES * len(tokens):
            raise ValueError(f"spectrograms of {[tuple(mel.shape) for mel in mels]} for {len(tokens)} chunks")
        most = self.sizes[-1][0]
        if not tokens or not all(1 <= count <= most for count in tokens) or sum(windows) != sum(tokens):
            raise ValueError(f"chunks of {list(tokens)} tokens in windows of {list(windows)}")

    def _layer(self, layer: Any, lay_out: LayOut) -> EncoderLayerStructure:
        attention = layer.self_attn
        return EncoderLayerStructure(
            qkv=self._linear(lay_out(attention.qkv)),
            output=self._linear(lay_out(attention.out_proj)),
            up=self._linear(lay_out(layer.fc1)),
            down=self._linear(lay_out(layer.fc2)),
            attention_norm=self._norm(layer.self_attn_layer_norm),
            mlp_norm=self._norm(layer.final_layer_norm),
        )

    def _norm(self, norm: nn.LayerNorm) -> LayerNormStructure:
        return LayerNormStructure(self._pointer(norm.weight), self._pointer(norm.bias))

    def _linear(self, weight: NativeWeight) -> object:
        self.linears.append(weight)
        return weight.structure

    def _pointer(self, tensor: torch.Tensor) -> int:
        kept = tensor.detach().float().contiguous()
        self._kept_alive.append(kept)
        return kept.data_ptr()


def _suits(part: Any) -> bool:
    tower, projector = part.audio_tower, part.multi_modal_projector
    first = tower.layers[0]
    hidden, heads = first.fc1.in_features, tower.config.encoder_attention_heads
    parameters = [*tower.parameters(), *projector.parameters()]
    return (
        tower.config.activation_function == "gelu"
        and 2 * tower.n_window == CHUNK_FRAMES
        and len(tower.positional_embedding.positional_embedding) >= CHUNK_TOKENS
        and tower.conv_out.in_features % LANES == 0
        and tower.conv2d1.out_channels % LINE == 0
        and hidden % (LANES * heads) == 0
        and all(size % TILE == 0 for size in (hidden, first.fc1.out_features, projector.linear_2.out_features))
        and all(parameter.dtype == torch.bfloat16 for parameter in parameters)
    )


def _convolution(convolution: nn.Conv2d) -> NativeWeight:
    """As a weight over the places that it looks at: for each time its bins, for each bin its channels."""
    weight = convolution.weight.detach().permute(0, 3, 2, 1).flatten(1)
    return NativeWeight.of(nn.functional.pad(weight, (0, -weight.shape[1] % LINE)), convolution.bias)


def _bins_first(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Of a layer over (channels, bins), that over (bins, channels)."""
    return weight.detach().unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)


def _with_weight(linear: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    """A layer with another weight."""
    copy = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    copy.weight, copy.bias = nn.Parameter(weight, requires_grad=False), linear.bias
    return copy


def _narrow(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)
