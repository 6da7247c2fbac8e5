"""From waveforms to audio embeddings, many utterances at a time and each exactly as if it were alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from deployments.asr.checkpoint import Checkpoint
from deployments.transcription.utterance import SAMPLE_RATE, Waveform

CHUNK_FRAMES = 100
"""Mel frames of 10 ms that the encoder's convolutions see at once: one second."""
CHUNK_TOKENS = 13
"""Audio embeddings of one whole chunk."""


@dataclass(frozen=True)
class Mel:
    """The log-mel spectrogram of one utterance, its time axis zero-padded to whole chunks."""

    features: torch.Tensor
    """(mel bins, frames)"""
    mask: torch.Tensor
    """(frames,), 1 where there is audio"""

    @property
    def tokens(self) -> int:
        """Audio embeddings this spectrogram encodes to."""
        chunks, rest = divmod(int(self.mask.sum()), CHUNK_FRAMES)
        return CHUNK_TOKENS * chunks + -(-rest // 8)


class AudioEncoder:
    """The checkpoint's feature extractor, audio tower and projector."""

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        self._feature_extractor = checkpoint.feature_extractor
        window_frames: int = checkpoint.model.config.audio_config.n_window_infer
        self._window_tokens = CHUNK_TOKENS * (window_frames // CHUNK_FRAMES)

    def mel(self, waveform: Waveform) -> Mel:
        """The spectrogram of one utterance.

        One call an utterance, on purpose: extracting several at once pads them to a common length before the Fourier
        transform and changes the last frame of the shorter ones.
        """
        features = self._feature_extractor(
            waveform,
            sampling_rate=SAMPLE_RATE,
            padding="longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return Mel(features["input_features"][0], features["attention_mask"][0])

    def encode(self, mels: Sequence[Mel]) -> tuple[torch.Tensor, ...]:
        """Embeddings of each utterance, shape (tokens, hidden).

        All spectrograms go through as one row, one after the other, with no padding between them; the attention
        windows restart at each utterance, which makes this exact.
        """
        lengths = [mel.tokens for mel in mels]
        windows = [window for length in lengths for window in self._windows(length)]
        device = self._model.device
        encoded = self._model.get_audio_features(
            torch.cat([mel.features for mel in mels], dim=1).unsqueeze(0).to(device, self._model.dtype),
            torch.cat([mel.mask for mel in mels]).unsqueeze(0).to(device),
            # Left on the CPU: every layer reads these lengths, which would stall a GPU each time.
            cu_seqlens=torch.tensor([0, *accumulate(windows)], dtype=torch.int32),
        )
        embeddings: torch.Tensor = encoded.pooler_output
        return embeddings.split(lengths)

    def _windows(self, tokens: int) -> list[int]:
        whole, rest = divmod(tokens, self._window_tokens)
        return [self._window_tokens] * whole + ([rest] if rest else [])
