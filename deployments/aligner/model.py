"""The forced aligner: waveforms with their texts in, words with their times out, a batch in one forward pass.

The released prompt has no turns: `<|audio_start|><|audio_pad|>*N<|audio_end|>` and then every word followed by two
`<timestamp>`, at which the model classifies when it starts and ends, in steps of 80 ms.
"""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from deployments.aligner.checkpoint import AUDIO, AUDIO_END, AUDIO_START, TIMESTAMP, AlignerCheckpoint
from deployments.aligner.words import split
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.encoder import AudioEncoder
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import EngineFailure, ServiceError
from deployments.settings import LONGEST_ALIGNED_S
from deployments.transcription.words import Reading, Word


class AlignerModel:
    """One loaded forced aligner on one device. Not thread-safe: one call at a time."""

    def __init__(self, loaded: AlignerCheckpoint):
        checkpoint = loaded.checkpoint
        self._processor = loaded.processor
        self._model = checkpoint.model
        self._tokenizer = checkpoint.tokenizer
        # What the recognizer's encoder needs of its model, the aligner has one floor below its head.
        self._encoder = AudioEncoder(Checkpoint(self._model.model, checkpoint.feature_extractor, checkpoint.tokenizer))
        ids = checkpoint.tokenizer.get_added_vocab()
        self._audio_start, self._audio, self._audio_end = ids[AUDIO_START], ids[AUDIO], ids[AUDIO_END]
        self._timestamp: int = ids[TIMESTAMP]

    @property
    def longest_s(self) -> float:
        """Seconds of the longest waveform it has times for."""
        classes: int = self._model.config.num_labels
        return min(LONGEST_ALIGNED_S, (classes - 1) * self._processor.timestamp_segment_time / 1000)

    @torch.inference_mode()
    def align(self, readings: Sequence[Reading]) -> list[tuple[Word, ...] | ServiceError]:
        """The words of each reading with their times, or why there are none.

        Every reading is aligned as if it were alone; times never go back and end within the waveform.
        """
        answers: list[tuple[Word, ...] | ServiceError] = []
        spoken: list[tuple[int, list[str]]] = []
        for index, reading in enumerate(readings):
            words = self._words(reading)
            answers.append(words if isinstance(words, ServiceError) else ())
            if isinstance(words, list) and words:
                spoken.append((index, words))
        if spoken:
            logits = self._classify([readings[index] for index, _ in spoken], [words for _, words in spoken])
            for (index, words), scores in zip(spoken, logits, strict=True):
                answers[index] = self._read(scores, words, readings[index].duration)
        return answers

    def warm_up(self) -> None:
        """Align a second of silence, so that the first caller does not pay for what is set up on first use."""
        silence = torch.zeros(SAMPLE_RATE).numpy()
        self.align([Reading(silence, "word", "English")])

    def _words(self, reading: Reading) -> list[str] | ServiceError:
        if reading.duration > self.longest_s:
            return EngineFailure(
                f"There are no word times in {reading.duration:.1f} seconds at once: {self.longest_s:g} is the most."
            )
        try:
            return split(self._processor, reading.text, reading.language)
        except ServiceError as error:
            return error

    def _classify(self, readings: Sequence[Reading], words: Sequence[list[str]]) -> list[torch.Tensor]:
        """Scores of every class of time at the two timestamps of every word, (2 * words, classes) for each reading."""
        encoded = self._encoder.encode([reading.waveform for reading in readings])
        prompts = [self._prompt(len(audio), each) for audio, each in zip(encoded, words, strict=True)]
        embed = self._model.get_input_embeddings()
        rows = []
        for audio, prompt in zip(encoded, prompts, strict=True):
            row = embed(prompt)
            row[prompt == self._audio] = audio.to(row.dtype)
            rows.append(row)
        # Padded on the right, where causality hides it: no mask, and every position is that of the row alone.
        batch = pad_sequence(rows, batch_first=True)
        hidden = self._model.model.language_model(inputs_embeds=batch, use_cache=False).last_hidden_state
        # The head is wide; only the timestamps are of interest.
        return [
            self._model.score(states[: len(prompt)][prompt == self._timestamp])
            for states, prompt in zip(hidden, prompts, strict=True)
        ]

    def _prompt(self, audio_tokens: int, words: list[str]) -> torch.Tensor:
        """Token ids, (length,). Words hold letters, digits and apostrophes only: no control token can be among them."""
        text = "".join(f"{word}{TIMESTAMP}{TIMESTAMP}" for word in words)
        ids = [self._audio_start, *[self._audio] * audio_tokens, self._audio_end]
        ids += self._tokenizer.encode(text, add_special_tokens=False)
        return torch.tensor(ids, device=self._model.device)

    def _read(self, logits: torch.Tensor, words: list[str], duration: float) -> tuple[Word, ...]:
        """The released decoding, which repairs times that go back; none is let past the end of the waveform."""
        marks = torch.full((1, len(logits)), self._timestamp, device=logits.device)
        (items,) = self._processor.decode_forced_alignment(logits.unsqueeze(0), marks, [words], self._timestamp)
        return tuple(
            Word(item["text"], min(item["start_time"], duration), min(item["end_time"], duration)) for item in items
        )
