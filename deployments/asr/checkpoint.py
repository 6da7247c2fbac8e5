"""Finding and loading a Qwen3-ASR checkpoint, in either layout it is released in.

*Native* (`Qwen/Qwen3-ASR-1.7B-hf`, our demo): what transformers' `qwen3_asr` classes read as it is. *Original*
(`Qwen/Qwen3-ASR-1.7B`, `-0.6B`): the same weights under `thinker.*` names with a nested `thinker_config`. transformers
reads the latter without an error and with random weights, so it is renamed here, and no checkpoint is served unless
every weight was found.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3ASRConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
)

from deployments.asr.checkpoint_files import Purpose, config_of
from deployments.asr.prompt import CONTROL_TOKENS
from deployments.exceptions import CheckpointError

_NATIVE_NAMES = {
    r"^thinker\.audio_tower\.proj1\.": "model.multi_modal_projector.linear_1.",
    r"^thinker\.audio_tower\.proj2\.": "model.multi_modal_projector.linear_2.",
    r"^thinker\.audio_tower\.": "model.audio_tower.",
    r"^thinker\.model\.": "model.language_model.",
}
"""Weight names of the original layout (regular expressions) to those of the native one, but for the head's."""

_ENCODER_KEYS = (
    "num_mel_bins",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "d_model",
    "activation_function",
    "scale_embedding",
    "n_window",
    "output_dim",
    "n_window_infer",
    "downsample_hidden_size",
)
_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "attention_bias",
    "tie_word_embeddings",
)


@dataclass(frozen=True)
class Architecture:
    """In what the checkpoints of the two purposes differ."""

    purpose: Purpose
    model: type[PreTrainedModel]
    head: str
    """Native name of what the original layout calls `thinker.lm_head.`"""
    control_tokens: frozenset[str]
    """What its prompt is made of; a tokenizer without them is of another model."""


RECOGNIZER = Architecture("recognizer", Qwen3ASRForConditionalGeneration, "lm_head.", CONTROL_TOKENS)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with what turns waveforms and text into its inputs."""

    model: Qwen3ASRForConditionalGeneration
    """Or what the `Architecture` says that was loaded."""
    feature_extractor: Qwen3ASRFeatureExtractor
    tokenizer: PreTrainedTokenizerBase


def load(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    architecture: Architecture = RECOGNIZER,
) -> Checkpoint:
    """Load the checkpoint `name` (hub id or folder) for inference.

    Args:
        name: which.
        dtype: number format of the weights.
        device: where they shall be.
        architecture: what it is to be loaded as.

    Raises:
        CheckpointError: it is missing, incomplete, damaged or of another architecture; one sentence says which.
    """
    config = config_of(name, architecture.purpose)
    original_layout = "thinker_config" in config
    native_names = {**_NATIVE_NAMES, r"^thinker\.lm_head\.": architecture.head}
    try:
        model, report = architecture.model.from_pretrained(
            name,
            config=_flatten(config) if original_layout else None,
            key_mapping=native_names if original_layout else None,
            dtype=dtype,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(name)
        # The original layout names Whisper's extractor, which does not pad as the encoder needs.
        features = Qwen3ASRFeatureExtractor() if original_layout else Qwen3ASRFeatureExtractor.from_pretrained(name)
    except Exception as error:  # every library below raises its own kind; the operator needs one sentence
        raise CheckpointError(f"The model {name!r} could not be loaded: {_first_line(error)}") from error
    if lacking := sorted(architecture.control_tokens - set(tokenizer.get_added_vocab())):
        raise CheckpointError(f"The tokenizer of {name!r} is not one of Qwen3-ASR: it lacks {', '.join(lacking)}.")
    for kind in ("missing_keys", "mismatched_keys"):
        if wrong := sorted(map(str, report[kind])):
            raise CheckpointError(
                f"The checkpoint {name!r} is incomplete: {len(wrong)} {kind.replace('_', ' ')}, "
                f"such as {wrong[0]}; download it again."
            )
    return Checkpoint(model.eval().to(device), features, tokenizer)


def _flatten(config: dict[str, Any]) -> Qwen3ASRConfig:
    """The native configuration of an original one.

    The original's interleaved multi-axis rotary embedding always gets three equal positions, which is plain RoPE.
    """
    thinker = config["thinker_config"]
    # Only forced aligners classify, and only they have timestamps.
    classes = {"num_labels": thinker["classify_num"]} if "classify_num" in thinker else {}
    audio, text = thinker["audio_config"], thinker["text_config"]
    return Qwen3ASRConfig(
        audio_config={"model_type": "qwen3_asr_encoder", **_pick(audio, _ENCODER_KEYS)},
        text_config={
            "model_type": "qwen3",
            **_pick(text, _TEXT_KEYS),
            "rope_parameters": {"rope_type": "default", "rope_theta": text.get("rope_theta", 1_000_000)},
        },
        **_pick(thinker, ("audio_token_id",)),
        **_pick(config, ("timestamp_token_id",)),
        **classes,
        tie_word_embeddings=text.get("tie_word_embeddings", True),
    )


def _pick(config: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: config[key] for key in keys if key in config}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
