"""From waveforms to audio embeddings, many utterances at a time and each exactly as if it were alone."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.features import CHUNK_FRAMES, LogMel
from deployments.asr.joined import join
from deployments.asr.native.encoder import LayOut, NativeEncoder
from deployments.asr.packed import Packed, attend_packed
from deployments.audio.waveform import Waveform
from deployments.budget import CHUNK_TOKENS

FRAMES_PER_S = 100
"""Of the spectrogram."""


class AudioEncoder:
    """The checkpoint's feature extractor, audio tower and projector.

    Args:
        checkpoint: the loaded model; from now on its audio tower attends as `WindowAttention` does, unless it is a
            `NativeEncoder`.
    """

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        tower = _part(checkpoint.model).audio_tower
        self._native = tower if isinstance(tower, NativeEncoder) else None
        if checkpoint.model.device.type == "cuda":
            for convolution in (tower.conv2d1, tower.conv2d2, tower.conv2d3):
                convolution.to(memory_format=torch.channels_last)  # what its kernels want, and would convert to
        if self._native is None:
            attend_in_windows(checkpoint.model)
        self._log_mel = LogMel(checkpoint.feature_extractor, checkpoint.model.device)
        config = checkpoint.model.config.audio_config
        self._window_frames: int = config.n_window_infer
        self._window_tokens = CHUNK_TOKENS * (config.n_window_infer // CHUNK_FRAMES)

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
        window_lengths = [window for length in lengths for window in self._windows(length)]
        if self._native is not None:
            chunks = [tokens for count in frames for tokens in _chunks(count)]
            return cast(torch.Tensor, self._native(mels, chunks, window_lengths)).split(lengths)
        windows = Packed(window_lengths, self._model.device)
        encoded = self._model.get_audio_features(
            torch.cat(mels, dim=1).unsqueeze(0).to(self._model.dtype),
            _mask(frames, [mel.shape[1] for mel in mels]).to(self._model.device),
            cu_seqlens=windows.bounds,
            windows=windows,
        )
        embeddings: torch.Tensor = encoded.pooler_output
        return embeddings.split(lengths)

    def _windows(self, tokens: int) -> list[int]:
        whole, rest = divmod(tokens, self._window_tokens)
        return [self._window_tokens] * whole + ([rest] if rest else [])


class WindowAttention(nn.Module):
    """`Qwen3ASRAudioAttention` over all windows at once; transformers' own goes through them one by one on a GPU too.

    Args:
        attention: its layers are taken over, and copied where they are joined.
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.qkv = join([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out_proj = attention.out_proj
        self._heads: int = attention.num_heads
        self._scaling: float = attention.scaling

    def forward(
        self, hidden_states: torch.Tensor, cu_seqlens: torch.Tensor, windows: Packed | None = None, **_: object
    ) -> torch.Tensor:
        """Attend within windows.

        Args:
            hidden_states: (tokens, features) of all windows.
            cu_seqlens: (windows + 1,) where they begin and the last one ends.
            windows: the same; None, as `generate` calls it, has them read from `cu_seqlens`.

        Returns (tokens, features).
        """
        windows = windows or Packed(cu_seqlens.diff().tolist(), hidden_states.device)
        projected = self.qkv(hidden_states).view(len(hidden_states), 3, self._heads, -1)
        query, keys, values = projected.unbind(dim=1)
        attended = attend_packed(query, keys, values, windows, scaling=self._scaling, causal=False)
        output: torch.Tensor = self.out_proj(attended.flatten(1))
        return output


def attend_in_windows(model: Any) -> None:
    """Let a model's audio tower attend as `WindowAttention` does, from now on."""
    for layer in _part(model).audio_tower.layers:
        if not isinstance(layer.self_attn, WindowAttention):
            layer.self_attn = WindowAttention(layer.self_attn)


def encode_in_c(model: Any, lay_out: LayOut) -> bool:
    """Let a model's audio tower and projector be a `NativeEncoder`; False where they cannot be."""
    part = _part(model)
    if (native := NativeEncoder.of(part, lay_out)) is None:
        return False
    part.audio_tower, part.multi_modal_projector = native, nn.Identity()
    return True


def _part(model: Any) -> Any:
    """What has the audio tower and the projector, of a recognizer; or itself, which an aligner has in its place."""
    return model.model if hasattr(model, "model") else model


def _chunks(frames: int) -> list[int]:
    """Tokens of each chunk of so many frames."""
    chunks, rest = divmod(frames, CHUNK_FRAMES)
    return [CHUNK_TOKENS] * chunks + ([-(-rest // 8)] if rest else [])


def _tokens(frames: int) -> int:
    return sum(_chunks(frames))


def _mask(frames: list[int], padded: list[int]) -> torch.Tensor:
    """(1, sum of padded), 1 where there is audio."""
    spans = [torch.arange(length) < count for count, length in zip(frames, padded, strict=True)]
    return torch.cat(spans).long().unsqueeze(0)
