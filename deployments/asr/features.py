"""Log-mel spectrograms of many waveforms at once, on the device, each exactly as if it were alone.

The checkpoint's own feature extractor pads the waveforms of a batch to one length before the Fourier transform, which
changes the last frame of the shorter ones; here each is extended by its own reflection, as it would be alone, and all
go through as one signal, one after the other.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch
from transformers import Qwen3ASRFeatureExtractor

from deployments.audio.waveform import Waveform

CHUNK_FRAMES = 100
"""Mel frames of 10 ms that the encoder's convolutions see at once: one second."""


class LogMel:
    """The feature extractor of one checkpoint (its filters, window and hop), for batches."""

    def __init__(self, extractor: Qwen3ASRFeatureExtractor, device: torch.device):
        self._fft: int = extractor.n_fft
        self._hop: int = extractor.hop_length
        self._min_samples: int = extractor.min_length
        self._device = device
        self._window = torch.hann_window(self._fft, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32).T

    def frames(self, samples: int) -> int:
        """Mel frames of a waveform of so many samples; shorter ones than half a second count as that long."""
        return max(samples, self._min_samples) // self._hop

    def __call__(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Return the spectrogram of each waveform, (mel bins, frames), zero-padded to whole `CHUNK_FRAMES`."""
        lengths = [max(len(waveform), self._min_samples) for waveform in waveforms]
        counts = [length // self._hop for length in lengths]
        # Where in the signal each waveform's part begins, in hops.
        starts = [0, *accumulate(-(-(length + self._fft) // self._hop) for length in lengths)]
        spectrum = self._log_mel(self._join(waveforms, lengths, starts))
        own_frames = spectrum[:, self._indices(starts, counts)]
        owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(self._device, non_blocking=True)
        padded = [-(-count // CHUNK_FRAMES) * CHUNK_FRAMES for count in counts]
        features = spectrum.new_zeros(len(spectrum), sum(padded))
        features[:, self._indices([0, *accumulate(padded)], counts)] = _scale(own_frames, owner, len(counts))
        return list(features.split(padded, dim=1))

    def _join(self, waveforms: Sequence[Waveform], lengths: list[int], starts: list[int]) -> torch.Tensor:
        """All waveforms as one signal, each brought to its length and extended by its reflection on both sides."""
        on_gpu = self._device.type == "cuda"
        signal = torch.zeros(starts[-1] * self._hop, pin_memory=on_gpu)  # pinned: a GPU fetches it by itself
        samples, half = signal.numpy(), self._fft // 2
        for waveform, length, start in zip(waveforms, lengths, starts, strict=False):
            first = start * self._hop + half
            own = samples[first : first + length]
            own[: len(waveform)] = waveform
            samples[first - half : first] = own[half:0:-1]
            samples[first + length : first + length + half] = own[-2 : -half - 2 : -1]
        return signal.to(self._device, non_blocking=True)

    def _log_mel(self, signal: torch.Tensor) -> torch.Tensor:
        """(mel bins, frames of the whole signal)."""
        stft = torch.stft(signal, self._fft, self._hop, window=self._window, center=False, return_complex=True)
        return (self._filters @ stft.abs() ** 2).clamp(min=1e-10).log10()

    def _indices(self, starts: Iterable[int], counts: list[int]) -> torch.Tensor:
        """Those of so many frames from each start on."""
        spans = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=False)]
        return torch.from_numpy(np.concatenate(spans)).to(self._device, non_blocking=True)


def _scale(logarithm: torch.Tensor, owner: torch.Tensor, owners: int) -> torch.Tensor:
    """openai/whisper's: floored at 80 dB below the utterance's own peak, and scaled.

    Args:
        logarithm: (mel bins, frames) of all utterances.
        owner: (frames,) whose each is.
        owners: how many there are.
    """
    peaks = logarithm.new_full((owners,), -torch.inf).scatter_reduce_(0, owner, logarithm.amax(dim=0), "amax")
    return (torch.maximum(logarithm, peaks[owner] - 8.0) + 4.0) / 4.0
