"""Plain `generate` on padded batches: the obvious way, to compare the engine with.

Every batch runs until its longest row is done, and nobody joins meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.prompt import Prompt
from deployments.audio.waveform import SAMPLE_RATE
from deployments.budget import token_budget
from deployments.exceptions import InvalidRequest
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Transcription, Utterance


def check_options(options: DecodingOptions) -> None:
    """Raise InvalidRequest for what one call of `generate` cannot do for each row apart."""
    if replace(options, language=None, prompt="", max_new_tokens=None, loop_detection=True) != DecodingOptions():
        raise InvalidRequest(
            "The baseline only decodes greedily. Leave out everything but language, prompt and max_new_tokens."
        )


def until_stop(token_ids: list[int], stop_ids: Collection[int]) -> list[int]:
    """An answer up to and with its first stop token; all of it if there is none."""
    ends = (i for i, token in enumerate(token_ids, start=1) if token in stop_ids)
    return token_ids[: next(ends, len(token_ids))]


@dataclass(frozen=True)
class _Row:
    """The model's inputs for one utterance."""

    features: torch.Tensor
    """(mel bins, frames)"""
    features_mask: torch.Tensor
    """(frames,)"""
    prompt_ids: list[int]
    audio_tokens: int
    budget: int
    """Tokens its answer may have."""


class StaticBatch:
    """Transcribes batches of utterances with the model's own `generate`."""

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        self._feature_extractor = checkpoint.feature_extractor
        self._prompt = Prompt(checkpoint.tokenizer)

    @torch.inference_mode()
    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription]:
        """Transcribe all of them; the results come together, in order. `avg_logprob` is not computed: 0."""
        rows = [self._row(utterance) for utterance in utterances]
        prompt_length = max(len(row.prompt_ids) for row in rows)
        output = self._model.generate(
            **self._pad(rows, prompt_length),
            max_new_tokens=max(row.budget for row in rows),
            do_sample=False,
            eos_token_id=list(self._prompt.stop_ids),
            pad_token_id=self._prompt.stop_ids[-1],
        )
        answers = output[:, prompt_length:].tolist()
        return [self._transcription(*each) for each in zip(utterances, rows, answers, strict=True)]

    def _row(self, utterance: Utterance) -> _Row:
        # Each on its own: extracting several at once pads them before the Fourier transform, which changes their ends.
        extracted = self._feature_extractor(
            utterance.waveform,
            sampling_rate=SAMPLE_RATE,
            padding="longest",
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = extracted["attention_mask"][0]
        chunks, rest = divmod(int(mask.sum()), 100)
        audio_tokens = 13 * chunks + -(-rest // 8)
        options = utterance.options
        prompt_ids = self._prompt.token_ids(
            audio_tokens=audio_tokens, context=options.prompt, language=options.language
        )
        budget = options.max_new_tokens or token_budget(utterance.duration)
        return _Row(extracted["input_features"][0], mask, prompt_ids, audio_tokens, budget)

    def _pad(self, rows: Sequence[_Row], prompt_length: int) -> dict[str, torch.Tensor]:
        """Prompts padded on the left, so that all answers begin together; audio on the right."""
        frames = max(row.features.shape[1] for row in rows)
        ids, mask, features, features_mask = [], [], [], []
        for row in rows:
            missing = prompt_length - len(row.prompt_ids)
            ids.append([self._prompt.stop_ids[-1]] * missing + row.prompt_ids)
            mask.append([0] * missing + [1] * len(row.prompt_ids))
            features.append(pad(row.features, (0, frames - row.features.shape[1])))
            features_mask.append(pad(row.features_mask, (0, frames - len(row.features_mask))))
        device = self._model.device
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
            "input_features": torch.stack(features).to(device, self._model.dtype),
            "input_features_mask": torch.stack(features_mask).to(device),
        }

    def _transcription(self, utterance: Utterance, row: _Row, answer: list[int]) -> Transcription:
        own = until_stop(answer[: row.budget], self._prompt.stop_ids)
        language, text = self._prompt.read_answer(own, forced_language=utterance.options.language)
        return Transcription(
            text=text,
            language=language,
            finish_reason="stop" if own[-1] in self._prompt.stop_ids else "length",
            audio_tokens=row.audio_tokens,
            text_tokens=len(row.prompt_ids) - row.audio_tokens,
            output_tokens=len(own),
            avg_logprob=0.0,
        )
