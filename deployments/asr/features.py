"""Log-mel spectrograms of many waveforms at once, on the device, each exactly as if it were alone.

The checkpoint's own feature extractor pads the waveforms of a batch to one length before the Fourier transform, which
changes the last frame of the shorter ones; here each is extended by its own reflection, as it would be alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import Qwen3ASRFeatureExtractor

from deployments.transcription.utterance import Waveform

CHUNK_FRAMES = 100
"""Mel frames of 10 ms that the encoder's convolutions see at once: one second."""


class LogMel:
    """The feature extractor of one checkpoint (its filters, window and hop), for batches."""

    def __init__(self, extractor: Qwen3ASRFeatureExtractor, device: torch.device):
        self._fft: int = extractor.n_fft
        self._hop: int = extractor.hop_length
        self._min_samples: int = extractor.min_length
        self._window = torch.hann_window(self._fft, device=device)
        self._filters = torch.from_numpy(extractor.mel_filters).to(device, torch.float32).T

    def frames(self, samples: int) -> int:
        """Mel frames of a waveform of so many samples; shorter ones than half a second count as that long."""
        return max(samples, self._min_samples) // self._hop

    def __call__(self, waveforms: Sequence[Waveform]) -> list[torch.Tensor]:
        """Return the spectrogram of each waveform, (mel bins, frames), zero-padded to whole `CHUNK_FRAMES`."""
        counts = [self.frames(len(waveform)) for waveform in waveforms]
        spectra = self._power([self._extend(waveform) for waveform in waveforms])
        return [self._log_mel(spectrum[:, :frames]) for spectrum, frames in zip(spectra, counts, strict=True)]

    def _extend(self, waveform: Waveform) -> torch.Tensor:
        """To the shortest length there is, and by half a window of its own reflection on both sides."""
        samples = torch.from_numpy(np.ascontiguousarray(waveform))
        samples = pad(samples, (0, max(0, self._min_samples - len(samples))))
        return pad(samples[None], (self._fft // 2, self._fft // 2), mode="reflect")[0]

    def _power(self, waveforms: list[torch.Tensor]) -> torch.Tensor:
        batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(self._window.device)
        stft = torch.stft(batch, self._fft, self._hop, window=self._window, center=False, return_complex=True)
        return stft.abs() ** 2

    def _log_mel(self, power: torch.Tensor) -> torch.Tensor:
        """openai/whisper's: floored at 80 dB below the utterance's own peak, and scaled."""
        logarithm = (self._filters @ power).clamp(min=1e-10).log10()
        scaled = (torch.maximum(logarithm, logarithm.max() - 8.0) + 4.0) / 4.0
        return pad(scaled, (0, -power.shape[1] % CHUNK_FRAMES))
