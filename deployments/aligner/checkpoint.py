"""Loading a Qwen3-ForcedAligner, in either layout it is released in, with the same care as the recognizer."""

from dataclasses import dataclass

import torch
from transformers import Qwen3ASRForTokenClassification, Qwen3ASRProcessor

from deployments.asr.checkpoint import Architecture, Checkpoint, load
from deployments.asr.checkpoint_files import config_of
from deployments.exceptions import CheckpointError

AUDIO_START, AUDIO, AUDIO_END, TIMESTAMP = "<|audio_start|>", "<|audio_pad|>", "<|audio_end|>", "<timestamp>"

ALIGNER = Architecture(
    "aligner", Qwen3ASRForTokenClassification, "score.", frozenset({AUDIO_START, AUDIO, AUDIO_END, TIMESTAMP})
)


@dataclass(frozen=True)
class AlignerCheckpoint:
    """A loaded forced aligner with its own processor, which splits texts and reads the model's answer."""

    checkpoint: Checkpoint
    processor: Qwen3ASRProcessor


def load_aligner(name: str, *, dtype: torch.dtype, device: torch.device) -> AlignerCheckpoint:
    """Load the forced aligner `name` (hub id or folder) for inference.

    Args:
        name: which.
        dtype: number format of the weights.
        device: where they shall be.

    Raises:
        CheckpointError: it is missing, incomplete, damaged or no forced aligner; one sentence says which.
    """
    checkpoint = load(name, dtype=dtype, device=device, architecture=ALIGNER)
    config = config_of(name, "aligner")
    if "thinker_config" not in config:
        return AlignerCheckpoint(checkpoint, Qwen3ASRProcessor.from_pretrained(name))
    # The original layout has no processor that transformers knows.
    milliseconds = config.get("timestamp_segment_time", 80)
    try:
        processor = Qwen3ASRProcessor(
            checkpoint.feature_extractor, checkpoint.tokenizer, timestamp_segment_time=milliseconds
        )
    except AttributeError as error:
        raise CheckpointError(f"The tokenizer of {name!r} is not one of Qwen3-ASR: {error}") from error
    return AlignerCheckpoint(checkpoint, processor)
