"""A small randomly initialised Qwen3-ASR, written in either released layout: what can be tested without a real one."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3ASRConfig, Qwen3ASRForConditionalGeneration

from deployments.served_model import DEMO_CHECKPOINT

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json")

ENCODER = {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "n_window": 50,
    "n_window_infer": 800,
    "output_dim": 64,
    "downsample_hidden_size": 8,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def write_native(folder: Path, *, seed: int = 0) -> Path:
    """Write the model in the native layout, with the demo checkpoint's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    torch.manual_seed(seed)
    model = Qwen3ASRForConditionalGeneration(
        Qwen3ASRConfig(
            audio_config={"model_type": "qwen3_asr_encoder", **ENCODER},
            text_config={
                "model_type": "qwen3",
                "vocab_size": len(tokenizer),
                "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
                **TEXT,
            },
            audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        )
    )
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
    return folder


def write_original(native: Path, folder: Path) -> Path:
    """Write the same model the way `Qwen/Qwen3-ASR-1.7B` is released: `thinker.*` names, nested configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((native / "config.json").read_text())
    thinker = {
        "model_type": "qwen3_asr_thinker",
        "audio_token_id": config["audio_token_id"],
        "audio_config": {
            "model_type": "qwen3_asr_audio_encoder",
            "conv_chunksize": 500,
            "max_source_positions": 1500,
            "num_hidden_layers": ENCODER["encoder_layers"],
            **ENCODER,
        },
        "text_config": {
            "model_type": "qwen3",
            "vocab_size": config["text_config"]["vocab_size"],
            "rope_theta": 1_000_000,
            "rope_scaling": {"mrope_section": [2, 3, 3], "mrope_interleaved": True, "rope_type": "default"},
            **TEXT,
        },
    }
    released = {
        "architectures": ["Qwen3ASRForConditionalGeneration"],
        "model_type": "qwen3_asr",
        "support_languages": ["English"],
        "thinker_config": thinker,
    }
    (folder / "config.json").write_text(json.dumps(released))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 128})
    )
    weights = {_original_name(name): weight for name, weight in load_file(native / "model.safetensors").items()}
    weights.setdefault("thinker.lm_head.weight", weights["thinker.model.embed_tokens.weight"].clone())
    # Two shards with an index, as the larger releases are.
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in TOKENIZER_FILES[:3]:
        shutil.copy(native / name, folder / name)
    return folder


def _original_name(name: str) -> str:
    for native, original in (
        ("model.multi_modal_projector.linear_1.", "thinker.audio_tower.proj1."),
        ("model.multi_modal_projector.linear_2.", "thinker.audio_tower.proj2."),
        ("model.audio_tower.", "thinker.audio_tower."),
        ("model.language_model.", "thinker.model."),
        ("lm_head.", "thinker.lm_head."),
    ):
        if name.startswith(native):
            return name.replace(native, original, 1)
    raise AssertionError(name)
