"""From waveforms to audio embeddings, many utterances at a time and each exactly as if it were alone."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.features import CHUNK_FRAMES, LogMel
from deployments.transcription.utterance import Waveform

CHUNK_TOKENS = 13
"""Audio embeddings of one whole chunk of `CHUNK_FRAMES`."""
FRAMES_PER_S = 100
"""Of the spectrogram."""


class AudioEncoder:
    """The checkpoint's feature extractor, audio tower and projector."""

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        self._log_mel = LogMel(checkpoint.feature_extractor, checkpoint.model.device)
        config = checkpoint.model.config.audio_config
        self._window_frames: int = config.n_window_infer
        self._window_tokens = CHUNK_TOKENS * (config.n_window_infer // CHUNK_FRAMES)
        # SDPA reads the windows' lengths on the host in every layer, which would stall a GPU each time: left there.
        flash = "flash" in (config._attn_implementation or "")
        self._windows_device = checkpoint.model.device if flash else torch.device("cpu")

    def tokens(self, samples: int) -> int:
        """Embeddings that a waveform of so many samples is encoded to."""
        return _tokens(self._log_mel.frames(samples))

    def encode(self, waveforms: Sequence[Waveform]) -> tuple[torch.Tensor, ...]:
        """Embeddings of each utterance, shape (tokens, hidden).

        All spectrograms go through as one row, one after the other, with no padding between them; the attention
        windows restart at each utterance, which makes this exact.
        """
        return self._encode(self._log_mel(waveforms), [self._log_mel.frames(len(waveform)) for waveform in waveforms])

    def encode_stretches(self, waveform: Waveform, seconds: float) -> Iterator[torch.Tensor]:
        """The embeddings of one utterance, as those of `encode`, in as many steps as it takes.

        A step encodes at most so many seconds, but one attention window at least: no window sees another.
        """
        (mel,) = self._log_mel([waveform])
        frames = self._log_mel.frames(len(waveform))
        step = self._window_frames * max(1, int(seconds * FRAMES_PER_S) // self._window_frames)
        for start in range(0, frames, step):
            (embeddings,) = self._encode([mel[:, start : start + step]], [min(step, frames - start)])
            yield embeddings

    def _encode(self, mels: list[torch.Tensor], frames: list[int]) -> tuple[torch.Tensor, ...]:
        lengths = [_tokens(count) for count in frames]
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


def _tokens(frames: int) -> int:
    chunks, rest = divmod(frames, CHUNK_FRAMES)
    return CHUNK_TOKENS * chunks + -(-rest // 8)


def _mask(frames: list[int], padded: list[int]) -> torch.Tensor:
    """(1, sum of padded), 1 where there is audio."""
    spans = [torch.arange(length) < count for count, length in zip(frames, padded, strict=True)]
    return torch.cat(spans).long().unsqueeze(0)
