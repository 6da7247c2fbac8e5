"""Encoding many utterances at once changes nothing about any of them but the rounding of matrix products.

Whether those round alike for every number of rows depends on the processor; half a percent, which is what the
released processor's own batching changes, does not pass here.
"""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.encoder import AudioEncoder
from deployments.served_model import DEMO_CHECKPOINT
from tests.unit.asr.conftest import noise


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> AudioEncoder:
    return AudioEncoder(checkpoint)


@torch.inference_mode()
def test_packed_is_what_each_encodes_to_alone(encoder: AudioEncoder) -> None:
    mels = [encoder.mel(noise(seconds, seed=i)) for i, seconds in enumerate([0.3, 10.0, 3.33, 8.0, 17.01, 0.99])]
    for mel, together in zip(mels, encoder.encode(mels), strict=True):
        assert together.shape[0] == mel.tokens
        torch.testing.assert_close(together, encoder.encode([mel])[0], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 7.77, 8.0, 8.01, 29.99])
def test_alone_is_what_the_model_itself_computes(encoder: AudioEncoder, checkpoint: Checkpoint, seconds: float) -> None:
    mel = encoder.mel(noise(seconds))
    expected = checkpoint.model.get_audio_features(mel.features.unsqueeze(0), mel.mask.unsqueeze(0)).pooler_output
    assert torch.equal(encoder.encode([mel])[0], expected)


@pytest.mark.parametrize("samples", [1_600, 8_000, 8_001, 15_999, 16_000, 16_160, 17_281, 100_000, 480_000])
def test_the_number_of_embeddings_is_that_of_the_released_processor(encoder: AudioEncoder, samples: int) -> None:
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    prompt = processor.apply_transcription_request(np.zeros(samples, dtype=np.float32))
    placeholders = int((prompt["input_ids"] == processor.audio_token_id).sum())
    assert encoder.mel(noise(samples / 16_000)).tokens == placeholders
