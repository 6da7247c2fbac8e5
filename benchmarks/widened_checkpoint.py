"""Write the demo checkpoint in the size of a real one: it says what the demo says, and takes as long as the real one.

    python -m benchmarks.widened_checkpoint --size 0.6B --out .work/wide-0.6B

For measuring what depends on the answers, as on when they end, where the real weights cannot be had. Every narrow
channel of the residual streams becomes several wide ones that hold the same, and whoever reads them takes their mean;
heads and hidden units are placed among idle ones; further layers add nothing. In the text model that is exact but for
rounding. In the encoder it is nearly so: positions in more channels have more frequencies, so each wide channel is a
copy of the narrow one whose frequency is nearest.
"""

import shutil
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from benchmarks.random_checkpoint import SHAPES, TOKENIZER_FILES, config_of, run
from deployments.served_model import DEMO_CHECKPOINT

# Tokens that the demo's vocabulary lacks must never be the best: every token writes the same little into one channel
# that is spare, and in it they alone score below nothing.
_SPARE = 0.08
_SPARE_HEARD = 32.0
_UNKNOWN = -256.0


@dataclass(frozen=True)
class Axis:
    """What each index of a wide axis holds: a copy of the narrow index that `sources` tells, or nothing where -1."""

    sources: torch.Tensor

    @property
    def share(self) -> float:
        """How much of the axis holds anything."""
        return float((self.sources >= 0).float().mean())

    @property
    def copies(self) -> torch.Tensor:
        """(narrow,) how many there are of each."""
        return self.sources[self.sources >= 0].bincount()

    def write(self, weight: torch.Tensor) -> torch.Tensor:
        """(narrow, ...) -> (wide, ...), every copy the same."""
        wide = weight[self.sources.clamp(min=0)]
        wide[self.sources < 0] = 0
        return wide

    def read(self, weight: torch.Tensor) -> torch.Tensor:
        """(outputs, narrow, ...) -> (outputs, wide, ...), which make the mean of all copies."""
        shares = weight / self.copies.reshape(-1, *[1] * (weight.ndim - 2))
        return self.write(shares.transpose(0, 1)).transpose(0, 1)


@dataclass(frozen=True)
class Layer:
    """How a layer's weights grow; one that has no `inputs` works on each channel alone."""

    outputs: Axis
    inputs: Axis | None = None
    factor: float = 1.0

    def grow(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight or bias in the wide shape."""
        grown = self.outputs.write(weight * self.factor)
        return self.inputs.read(grown) if self.inputs is not None and grown.ndim > 1 else grown


def first(narrow: int, wide: int) -> Axis:
    """The narrow ones, and nothing behind them."""
    indices = torch.arange(wide)
    return Axis(torch.where(indices < narrow, indices, -1))


def repeated(narrow: int, wide: int) -> Axis:
    """All narrow ones as often as they fit and leave one spare, and nothing behind them."""
    indices = torch.arange(wide)
    return Axis(torch.where(indices < (wide - 1) // narrow * narrow, indices % narrow, -1))


def positions(narrow: int, wide: int) -> Axis:
    """Sines, then cosines, each by the narrow one of nearest frequency."""
    half = (torch.arange(wide // 2) * ((narrow // 2 - 1) / (wide // 2 - 1))).round().long()
    return Axis(torch.cat([half, half + narrow // 2]))


def rotations(narrow: int, wide: int) -> Axis:
    """One head's channels: every second rotation of the wide one is the narrow one's, by `rope_theta`."""
    half = torch.full((wide // 2,), -1)
    half[:narrow:2] = torch.arange(narrow // 2)
    return Axis(torch.cat([half, torch.where(half < 0, -1, half + narrow // 2)]))


def heads(count: int, head: Axis, total: int) -> Axis:
    """The first `count` of `total` heads."""
    narrow = len(head.copies)
    placed = [torch.where(head.sources < 0, -1, head.sources + number * narrow) for number in range(count)]
    return Axis(torch.cat([*placed, torch.full((len(head.sources) * (total - count),), -1)]))


def rope_theta(narrow: Qwen3ASRConfig, head_dim: int) -> float:
    """The base with which every second rotation of a head of `head_dim` channels is one of the narrow model's."""
    text = narrow.text_config
    return float(text.rope_parameters["rope_theta"] ** (head_dim / text.head_dim / 2))


def encoder_layers(narrow: Qwen3ASRConfig, wide: Qwen3ASRConfig) -> dict[str, Layer]:
    """The layers of the audio encoder and the projector, by the last part of their names."""
    small, large = narrow.audio_config, wide.audio_config
    kernels = first(small.downsample_hidden_size, large.downsample_hidden_size)
    bins = small.num_mel_bins // 8
    stream = positions(small.d_model, large.d_model)
    small_head, large_head = (each.d_model // each.encoder_attention_heads for each in (small, large))
    attended = heads(small.encoder_attention_heads, first(small_head, large_head), large.encoder_attention_heads)
    hidden = first(small.encoder_ffn_dim, large.encoder_ffn_dim)
    return {
        "conv2d1": Layer(kernels, first(1, 1)),
        "conv2d2": Layer(kernels, kernels),
        "conv2d3": Layer(kernels, kernels),
        "conv_out": Layer(stream, first(bins * small.downsample_hidden_size, bins * large.downsample_hidden_size)),
        "q_proj": Layer(attended, stream, sqrt(large_head / small_head)),  # scores are divided by its square root
        "k_proj": Layer(attended, stream),
        "v_proj": Layer(attended, stream),
        "out_proj": Layer(stream, attended),
        "fc1": Layer(hidden, stream),
        "fc2": Layer(stream, hidden),
        "self_attn_layer_norm": Layer(stream),
        "final_layer_norm": Layer(stream),
        "ln_post": Layer(stream),
        "linear_1": Layer(stream, stream),
        "linear_2": Layer(repeated(small.output_dim, large.output_dim), stream),
    }


def text_layers(narrow: Qwen3ASRConfig, wide: Qwen3ASRConfig) -> dict[str, Layer]:
    """The layers of the text model, by the last part of their names."""
    small, large = narrow.text_config, wide.text_config
    stream = repeated(small.hidden_size, large.hidden_size)
    head = rotations(small.head_dim, large.head_dim)
    queries = heads(small.num_attention_heads, head, large.num_attention_heads)
    keys = heads(small.num_key_value_heads, head, large.num_key_value_heads)
    hidden = first(small.intermediate_size, large.intermediate_size)
    norm = sqrt(stream.share)  # a root mean square over channels of which some hold nothing is so much smaller
    return {
        "q_proj": Layer(queries, stream),
        "k_proj": Layer(keys, stream),
        "v_proj": Layer(keys, stream),
        "o_proj": Layer(stream, queries),
        "gate_proj": Layer(hidden, stream),
        "up_proj": Layer(hidden, stream),
        "down_proj": Layer(stream, hidden),
        "input_layernorm": Layer(stream, factor=norm),
        "post_attention_layernorm": Layer(stream, factor=norm),
        "norm": Layer(stream, factor=norm / int(stream.copies[0])),  # the head shares the embeddings, and reads a sum
        "q_norm": Layer(head),  # its `share` and the scale of scores make up for each other
        "k_norm": Layer(head, factor=sqrt(head.share)),
    }


def widened(weights: dict[str, torch.Tensor], narrow: Qwen3ASRConfig, wide: Qwen3ASRConfig) -> dict[str, torch.Tensor]:
    """The narrow model's weights in the shapes of the wide one."""
    encoder, text = encoder_layers(narrow, wide), text_layers(narrow, wide)
    stream = text["norm"].outputs
    spare = int((stream.sources < 0).nonzero()[0])
    grown: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        *path, layer, _ = name.split(".")
        if layer == "embed_tokens":
            known = first(narrow.text_config.vocab_size, wide.text_config.vocab_size)
            grown[name] = stream.write(known.write(weight).T).T.contiguous()
            grown[name][:, spare] = torch.where(known.sources < 0, _UNKNOWN, _SPARE)
        else:
            grown[name] = (text if "language_model" in path else encoder)[layer].grow(weight)
        if name.endswith("linear_2.bias"):
            grown[name][spare] = _SPARE
        if name.endswith("language_model.norm.weight"):
            grown[name][spare] = _SPARE_HEARD
    return grown


def write_widened(folder: Path, size: str, *, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the demo checkpoint with the shape of `size` in the native layout. Returns `folder`.

    Raises:
        ValueError: the shape has fewer layers than the demo.
    """
    demo = Qwen3ASRForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32)
    shape = SHAPES[size]
    config = config_of(
        shape, AutoTokenizer.from_pretrained(DEMO_CHECKPOINT), rope_theta(demo.config, shape.text["head_dim"])
    )
    config.eos_token_id = demo.config.eos_token_id
    model = Qwen3ASRForConditionalGeneration(config).to(dtype).requires_grad_(False)
    model.generation_config = demo.generation_config
    for name, module in model.named_modules():
        if name.endswith((".out_proj", ".fc2", ".o_proj", ".down_proj")):
            for weight in module.parameters():
                weight.zero_()
    unknown = model.load_state_dict(widened(dict(demo.named_parameters()), demo.config, config), strict=False)
    if unknown.unexpected_keys:
        raise ValueError(f"a model of {size} has no {', '.join(unknown.unexpected_keys[:3])}")
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    return folder


if __name__ == "__main__":
    run(__doc__, ("0.6B", "1.7B"), write_widened)
