"""From waveforms to audio embeddings, many utterances at a time and each exactly as if it were alone."""

from collections.abc import Sequence
from itertools import accumulate

import torch

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.features import CHUNK_FRAMES, LogMel
from deployments.transcription.utterance import Waveform

CHUNK_TOKENS = 13
"""Audio embeddings of one whole chunk of `CHUNK_FRAMES`."""


class AudioEncoder:
    """The checkpoint's feature extractor, audio tower and projector."""

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        self._log_mel = LogMel(checkpoint.feature_extractor, checkpoint.model.device)
        config = checkpoint.model.config.audio_config
        self._window_tokens = CHUNK_TOKENS * (config.n_window_infer // CHUNK_FRAMES)
        # SDPA reads the windows' lengths on the host in every layer, which would stall a GPU each time: left there.
        flash = "flash" in (config._attn_implementation or "")
        self._windows_device = checkpoint.model.device if flash else torch.device("cpu")

    def tokens(self, samples: int) -> int:
        """Embeddings that a waveform of so many samples is encoded to."""
        chunks, rest = divmod(self._log_mel.frames(samples), CHUNK_FRAMES)
        return CHUNK_TOKENS * chunks + -(-rest // 8)

    def encode(self, waveforms: Sequence[Waveform]) -> tuple[torch.Tensor, ...]:
        """Embeddings of each utterance, shape (tokens, hidden).

        All spectrograms go through as one row, one after the other, with no padding between them; the attention
        windows restart at each utterance, which makes this exact.
        """
        mels = self._log_mel(waveforms)
        frames = [self._log_mel.frames(len(waveform)) for waveform in waveforms]
        lengths = [self.tokens(len(waveform)) for waveform in waveforms]
        windows = [window for length in lengths for window in self._windows(length)]
        encoded = self._model.get_audio_features(
            torch.cat(mels, dim=1).unsqueeze(0).to(self._model.dtype),
            _mask(frames, [mel.shape[1] for mel in mels]).to(self._model.device),
            cu_seqlens=torch.tensor([0, *accumulate(windows)], dtype=torch.int32, device=self._windows_device),
        )
        embeddings: torch.Tensor = encoded.pooler_output
        return embeddings.split(lengths)

    def _windows(self, tokens: int) -> list[int]:
        whole, rest = divmod(tokens, self._window_tokens)
        return [self._window_tokens] * whole + ([rest] if rest else [])


def _mask(frames: list[int], padded: list[int]) -> torch.Tensor:
    """(1, sum of padded), 1 where there is audio."""
    spans = [torch.arange(length) < count for count, length in zip(frames, padded, strict=True)]
    return torch.cat(spans).long().unsqueeze(0)
