"""Write a randomly initialised Qwen3-ASR of any size, in either layout that the real ones are released in.

    python -m benchmarks.random_checkpoint --size 0.6B --layout original --out .work/random-0.6B
    python -m benchmarks.random_checkpoint --size aligner-0.6B --out .work/random-aligner

What it answers is noise, but it takes as long and as much memory as the real model of that size: for measuring speed
where the real weights cannot be had. The tokenizer is the demo checkpoint's; the vocabulary is padded to the true size.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRForTokenClassification,
)

from benchmarks.demo_aligner.template import CHAT_TEMPLATE as ALIGNER_TEMPLATE
from deployments.served_model import DEMO_CHECKPOINT

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json")


@dataclass(frozen=True)
class Shape:
    """The sizes that differ between checkpoints, in the words of the configuration."""

    encoder: dict[str, Any]
    text: dict[str, Any]
    time_classes: int | None = None
    """Steps of 80 ms that a forced aligner tells apart; None for a recognizer."""

    @property
    def encoder_config(self) -> dict[str, Any]:
        shared = {"num_mel_bins": 128, "n_window": 50, "n_window_infer": 800}
        return {**shared, **self.encoder, "output_dim": self.text["hidden_size"]}

    @property
    def text_config(self) -> dict[str, Any]:
        return {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, **self.text}


_RELEASED_TEXT = {
    "vocab_size": 151_936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 65_536,
}
SHAPES = {
    "0.6B": Shape(
        encoder={
            "d_model": 896,
            "encoder_layers": 18,
            "encoder_attention_heads": 14,
            "encoder_ffn_dim": 3584,
            "downsample_hidden_size": 480,
        },
        text={**_RELEASED_TEXT, "hidden_size": 1024, "intermediate_size": 3072},
    ),
    "1.7B": Shape(
        encoder={
            "d_model": 1024,
            "encoder_layers": 24,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "downsample_hidden_size": 480,
        },
        text={**_RELEASED_TEXT, "hidden_size": 2048, "intermediate_size": 6144},
    ),
    "tiny": Shape(
        encoder={
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "downsample_hidden_size": 8,
        },
        text={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 2048,
        },
    ),
}
SHAPES |= {
    "aligner-0.6B": Shape(
        encoder=SHAPES["1.7B"].encoder,
        text={**SHAPES["0.6B"].text, "vocab_size": 152_064, "tie_word_embeddings": False},
        time_classes=5000,
    ),
    "aligner-tiny": Shape(
        encoder=SHAPES["tiny"].encoder, text={**SHAPES["tiny"].text, "tie_word_embeddings": False}, time_classes=500
    ),
}


def config_of(shape: Shape, tokenizer: PreTrainedTokenizerBase, rope_theta: float) -> Qwen3ASRConfig:
    """The configuration of a model of this shape with the demo's tokenizer."""
    return Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder", **shape.encoder_config},
        text_config={
            "model_type": "qwen3",
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
            **shape.text_config,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        timestamp_token_id=tokenizer.convert_tokens_to_ids("<timestamp>"),
        **({"num_labels": shape.time_classes} if shape.time_classes else {}),
    )


def write_native(folder: Path, size: str, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Path:
    """Write the native layout, as transformers itself does. Returns `folder`."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    shape = SHAPES[size]
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    architecture = Qwen3ASRForTokenClassification if shape.time_classes else Qwen3ASRForConditionalGeneration
    try:
        model = architecture(config_of(shape, tokenizer, rope_theta=1_000_000))
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        # Fresh weights answer every audio with one token for ever; larger ones make the answer depend on the audio.
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed_tokens" not in name:
                weight.mul_(8)
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.mul_(3)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(DEMO_CHECKPOINT / name, folder / name)
    if shape.time_classes:
        (folder / "chat_template.jinja").write_text(ALIGNER_TEMPLATE, encoding="utf-8")
    return folder


def write_original(native: Path, folder: Path) -> Path:
    """Write the checkpoint in `native` the way `Qwen/Qwen3-ASR-1.7B` is released. Returns `folder`.

    That is: weights under `thinker.*`, a nested configuration, Whisper's feature extractor, shards with an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((native / "config.json").read_text())
    audio, text = config["audio_config"], config["text_config"]
    rope_theta = text.pop("rope_parameters")["rope_theta"]
    aligner = config["architectures"] == ["Qwen3ASRForTokenClassification"]
    released: dict[str, Any] = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],  # that of the aligner says so, too
        "model_type": "qwen3_asr",
        "support_languages": ["English"],
        "thinker_config": {
            "model_type": "qwen3_asr_thinker",
            "audio_token_id": config["audio_token_id"],
            "audio_config": {
                **audio,
                "model_type": "qwen3_asr_audio_encoder",
                "conv_chunksize": 500,
                "max_source_positions": 1500,
            },
            "text_config": {
                **text,
                "rope_theta": rope_theta,
                "rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": True, "rope_type": "default"},
            },
        },
    }
    if aligner:
        released |= {"timestamp_token_id": config["timestamp_token_id"], "timestamp_segment_time": 80}
        released["thinker_config"] |= {"model_type": "qwen3_forced_aligner", "classify_num": len(config["id2label"])}
    (folder / "config.json").write_text(json.dumps(released))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128})
    )
    weights = {_original_name(name): weight for name, weight in load_file(native / "model.safetensors").items()}
    if not aligner:
        weights.setdefault("thinker.lm_head.weight", weights["thinker.model.embed_tokens.weight"].clone())
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(native / name, folder / name)
    tokenizer = json.loads((native / "tokenizer_config.json").read_text())
    # transformers 4, which the qwen-asr package needs, knows a model's special tokens by this older name; 5 reads both.
    tokenizer["extra_special_tokens"] = tokenizer.pop("model_specific_special_tokens")
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def _original_name(name: str) -> str:
    for native, original in (
        ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
        ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
        ("model.audio_tower.", "thinker.audio_tower."),
        ("model.language_model.", "thinker.model."),
        ("lm_head.", "thinker.lm_head."),
        ("score.", "thinker.lm_head."),
    ):
        if name.startswith(native):
            return name.replace(native, original, 1)
    raise ValueError(f"no weight of the native layout: {name}")


def run(description: str | None, sizes: Iterable[str], write: Callable[[Path, str], object]) -> None:
    """Write the checkpoint that the command line asks for, with what `write` makes of a folder and a size."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(sizes), default="0.6B")
    parser.add_argument("--layout", choices=("native", "original"), default="native")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.layout == "native":
        write(arguments.out, arguments.size)
    else:
        native = arguments.out / "native"
        write(native, arguments.size)
        write_original(native, arguments.out)
        shutil.rmtree(native)
    print(f"{arguments.size} in the {arguments.layout} layout: {arguments.out}")


if __name__ == "__main__":
    run(__doc__, SHAPES, write_native)
