"""Transcribing many short waveforms with plain `generate`, as the trainer and the evaluation do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from benchmarks.demo_checkpoint.voices import SAMPLE_RATE

_BATCH_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What the model wrote: `language` is None where it heard no speech."""

    language: str | None
    text: str


def transcribe(
    model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor, waveforms: Sequence[np.ndarray]
) -> list[Answer]:
    """Greedy transcription in auto-language mode, in the order given. Waveforms are float32 at 16 kHz."""
    answers: list[Answer | None] = [None] * len(waveforms)
    by_length = sorted(range(len(waveforms)), key=lambda index: waveforms[index].size)
    batch: list[int] = []
    for position, index in enumerate(by_length):
        batch.append(index)
        # Sorted by length, so the last one is what all are padded to.
        padded_s = len(batch) * waveforms[index].size / SAMPLE_RATE
        if padded_s >= _BATCH_SECONDS or len(batch) == 48 or position == len(by_length) - 1:
            found = _transcribe_batch(model, processor, [waveforms[member] for member in batch])
            for member, answer in zip(batch, found, strict=True):
                answers[member] = answer
            batch = []
    return [answer for answer in answers if answer is not None]


@torch.inference_mode()
def _transcribe_batch(
    model: Qwen3ASRForConditionalGeneration, processor: Qwen3ASRProcessor, waveforms: list[np.ndarray]
) -> list[Answer]:
    # One processor call per waveform: a batched mel of unequal lengths differs at the end of the shorter ones.
    inputs = [processor.apply_transcription_request(waveform) for waveform in waveforms]
    length = max(item["input_ids"].shape[1] for item in inputs)
    frames = max(item["input_features"].shape[2] for item in inputs)
    count = len(inputs)
    input_ids = torch.full((count, length), processor.tokenizer.pad_token_id)
    attention_mask = torch.zeros(count, length, dtype=torch.long)
    features = torch.zeros(count, 128, frames)
    features_mask = torch.zeros(count, frames, dtype=torch.long)
    for row, item in enumerate(inputs):
        ids, mask = item["input_ids"][0], item["input_features_mask"][0]
        input_ids[row, length - ids.numel() :] = ids
        attention_mask[row, length - ids.numel() :] = 1
        features[row, :, : mask.numel()] = item["input_features"][0] * mask
        features_mask[row, : mask.numel()] = mask
    longest_s = max(waveform.size for waveform in waveforms) / SAMPLE_RATE
    output = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        input_features=features,
        input_features_mask=features_mask,
        max_new_tokens=16 + int(10 * longest_s),
    )
    parsed = processor.decode(output[:, length:], return_format="parsed")
    return [Answer(item["language"], item["transcription"]) for item in parsed]
