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
from deployments.asr.features import LogMel
from deployments.served_model import DEMO_CHECKPOINT
from tests.unit.tiny_models import noise


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> AudioEncoder:
    return AudioEncoder(checkpoint)


@torch.inference_mode()
def test_packed_is_what_each_encodes_to_alone(encoder: AudioEncoder) -> None:
    waveforms = [noise(seconds, seed=i) for i, seconds in enumerate([0.3, 10.0, 3.33, 8.0, 17.01, 0.99])]
    for waveform, together in zip(waveforms, encoder.encode(waveforms), strict=True):
        assert together.shape[0] == encoder.tokens(len(waveform))
        torch.testing.assert_close(together, encoder.encode([waveform])[0], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 7.77, 8.0, 8.01, 29.99])
def test_alone_is_what_the_model_itself_computes(encoder: AudioEncoder, reference: Checkpoint, seconds: float) -> None:
    waveform = noise(seconds)
    features = reference.feature_extractor(
        waveform, sampling_rate=16_000, padding="longest", return_attention_mask=True, return_tensors="pt"
    )
    expected = reference.model.get_audio_features(features["input_features"], features["attention_mask"]).pooler_output
    torch.testing.assert_close(encoder.encode([waveform])[0], expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("seconds", "at_a_time", "stretches"), [(0.3, 10, 1), (8.0, 0, 1), (17.01, 10, 3), (29.99, 0, 4), (29.99, 16, 2)]
)
def test_in_stretches_it_is_the_same(encoder: AudioEncoder, seconds: float, at_a_time: float, stretches: int) -> None:
    waveform = noise(seconds)
    parts = list(encoder.encode_stretches(waveform, at_a_time))
    assert len(parts) == stretches
    torch.testing.assert_close(torch.cat(parts), encoder.encode([waveform])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 0.5, 1.0, 3.3333, 8.01])
def test_spectrograms_are_those_of_the_released_extractor(checkpoint: Checkpoint, seconds: float) -> None:
    waveforms = [noise(12.0, seed=1), noise(seconds), np.zeros(20_000, dtype=np.float32)]
    extractor = checkpoint.feature_extractor
    for waveform, mel in zip(waveforms, LogMel(extractor, torch.device("cpu"))(waveforms), strict=True):
        expected = extractor(waveform, sampling_rate=16_000, padding="longest", return_tensors="pt")["input_features"]
        torch.testing.assert_close(mel, expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1_600, 8_000, 8_001, 15_999, 16_000, 16_160, 17_281, 100_000, 480_000])
def test_the_number_of_embeddings_is_that_of_the_released_processor(encoder: AudioEncoder, samples: int) -> None:
    processor = AutoProcessor.from_pretrained(DEMO_CHECKPOINT)
    prompt = processor.apply_transcription_request(np.zeros(samples, dtype=np.float32))
    placeholders = int((prompt["input_ids"] == processor.audio_token_id).sum())
    assert encoder.tokens(samples) == placeholders
