"""The model on its device: a batch of utterances in, one answer each out."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import GenerationConfig

from deployments.asr.checkpoint import Checkpoint
from deployments.asr.encoder import AudioEncoder, Mel
from deployments.asr.prompt import Prompt
from deployments.asr.sampling import RowBudget, RowSampler
from deployments.exceptions import EngineFailure, InvalidAudio, InvalidRequest, ServiceError
from deployments.transcription.utterance import SAMPLE_RATE, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")

BASE_TOKENS = 64
TOKENS_PER_SECOND = 12
"""Token budget of an answer is `64 + 12 per second`: fast speech stays under 8, and a repetition loop ends soon."""


@dataclass(frozen=True)
class _Row:
    """One utterance, ready for the model."""

    utterance: Utterance
    mel: Mel
    prompt_ids: list[int]
    budget: int


class Engine:
    """Owns the model. Not thread-safe: call it from one thread."""

    def __init__(self, checkpoint: Checkpoint):
        self._model = checkpoint.model
        self._encoder = AudioEncoder(checkpoint)
        self._prompt = Prompt(checkpoint.tokenizer)
        self._max_positions: int = checkpoint.model.config.text_config.max_position_embeddings
        self.device_error: Exception | None = None
        """An error after which the device answers nothing any more: only a new process mends it."""

    def transcribe(self, utterances: Sequence[Utterance]) -> list[Transcription | ServiceError]:
        """Transcribe a batch; blocking.

        Returns one result for each utterance, in order. An utterance that cannot be transcribed gets an error of its
        own and costs its neighbours nothing but time.
        """
        prepared = [self._prepare_or_refuse(utterance) for utterance in utterances]
        decoded = iter(self._decode([row for row in prepared if isinstance(row, _Row)]))
        return [next(decoded) if isinstance(row, _Row) else row for row in prepared]

    def warm_up(self) -> None:
        """Transcribe two short utterances, so that no caller pays for first-time initialisation.

        Raises:
            ServiceError: the model does not work.
        """
        noise = np.random.default_rng(0).normal(0.0, 0.01, 3 * SAMPLE_RATE).astype(np.float32)
        for result in self.transcribe([Utterance(noise, max_new_tokens=4), Utterance(noise[:8000], max_new_tokens=4)]):
            if isinstance(result, ServiceError):
                raise result

    def _prepare_or_refuse(self, utterance: Utterance) -> "_Row | ServiceError":
        try:
            return self._prepare(utterance)
        except Exception as error:
            return _service_error(error, utterance)

    def _prepare(self, utterance: Utterance) -> _Row:
        if not np.isfinite(utterance.waveform).all():
            raise InvalidAudio("The recording holds samples that are not finite numbers. Send a valid recording.")
        mel = self._encoder.mel(utterance.waveform)
        prompt_ids = self._prompt.token_ids(
            audio_tokens=mel.tokens, context=utterance.prompt, language=utterance.language
        )
        budget = utterance.max_new_tokens or BASE_TOKENS + math.ceil(TOKENS_PER_SECOND * utterance.duration)
        if len(prompt_ids) + budget > self._max_positions:
            raise InvalidRequest(
                f"The recording, its prompt and the answer need {len(prompt_ids) + budget} tokens and the model has "
                f"{self._max_positions}. Send a shorter recording or prompt."
            )
        return _Row(utterance, mel, prompt_ids, budget)

    def _decode(self, rows: Sequence[_Row]) -> list[Transcription | ServiceError]:
        if not rows:
            return []
        try:
            return list(self._decode_together(rows))
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):
                self.device_error = error
            if len(rows) == 1:
                return [_service_error(error, rows[0].utterance)]
        # One of them is to blame, or together they are too much for the memory there is.
        return [result for row in rows for result in self._decode([row])]

    @torch.inference_mode()
    def _decode_together(self, rows: Sequence[_Row]) -> list[Transcription]:
        inputs_embeds, attention_mask = self._embed(rows)
        sampler = RowSampler([row.utterance.temperature for row in rows])
        budgets = [row.budget for row in rows]
        output: torch.Tensor = self._model.generate(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max(budgets),
                eos_token_id=list(self._prompt.stop_ids),
                pad_token_id=self._prompt.stop_ids[0],
            ),
            logits_processor=[sampler],
            stopping_criteria=[RowBudget(budgets, self._model.device)],
        )
        answers = [
            self._prompt.until_stop(tokens[:budget]) for tokens, budget in zip(output.tolist(), budgets, strict=True)
        ]
        return [
            self._transcription(row, answer, sampler.mean_logprob(i, tokens=len(answer)))
            for i, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ]

    def _embed(self, rows: Sequence[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts with the encoded audio in its place, left-padded: (rows, tokens, hidden) and mask (rows, tokens)."""
        longest = max(len(row.prompt_ids) for row in rows)
        embed = self._model.get_input_embeddings()
        embeddings, masks = [], []
        for row, audio in zip(rows, self._encoder.encode([row.mel for row in rows]), strict=True):
            ids = torch.tensor(row.prompt_ids, device=audio.device)
            embedding = embed(ids)
            embedding[ids == self._prompt.audio_id] = audio
            padding = longest - len(ids)
            embeddings.append(pad(embedding, (0, 0, padding, 0)))
            masks.append(pad(torch.ones_like(ids), (padding, 0)))
        return torch.stack(embeddings), torch.stack(masks)

    def _transcription(self, row: _Row, answer: list[int], avg_logprob: float) -> Transcription:
        if not math.isfinite(avg_logprob):
            raise FloatingPointError("the model computed no finite probabilities")
        language, text = self._prompt.read_answer(answer, forced_language=row.utterance.language)
        ended = answer[-1] in self._prompt.stop_ids
        return Transcription(
            text=text,
            language=language,
            finish_reason="stop" if ended else "length",
            audio_tokens=row.mel.tokens,
            text_tokens=len(row.prompt_ids) - row.mel.tokens,
            output_tokens=len(answer),
            avg_logprob=avg_logprob,
        )


def _service_error(error: Exception, utterance: Utterance) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    logger.error("an utterance of %.2f s could not be transcribed", utterance.duration, exc_info=error)
    return EngineFailure("The model failed on this recording; the failure has been logged. Try another recording.")
