"""Runs the model: prompts in, whole or in pieces, and one token a row out."""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as Items
from itertools import accumulate

import torch

from deployments.asr.attention import PromptPiece, Step
from deployments.asr.cache import SlotCache
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.decoder import Decoder
from deployments.asr.encoder import AudioEncoder
from deployments.asr.graphs import DecodeGraphs
from deployments.asr.native.decoder import NativeDecoder
from deployments.asr.packed import Packed
from deployments.asr.prefixes import Prefixes
from deployments.asr.prompt import Prompt
from deployments.asr.sequence import Sequence
from deployments.asr.stopwatch import Stopwatch

logger = logging.getLogger("ray.serve.asr")


class ModelRunner:
    """The language model over a `SlotCache`, with the audio encoder in front.

    Args:
        checkpoint: the loaded model; from now on its language model is a `Decoder`.
        prompt: of the same checkpoint.
        slots: rows that run together at most.
        slot_tokens: tokens that one row may need.
        graphs: replay decode steps as CUDA graphs.
        compiled: compile what lies between the matrix products.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompt: Prompt,
        *,
        slots: int,
        slot_tokens: int,
        graphs: bool = False,
        compiled: bool = False,
    ):
        model = checkpoint.model
        self._decoder = Decoder.of(model)
        self._head = model.lm_head
        self._audio_id = prompt.audio_id
        self._device = model.device
        self._slots = torch.arange(slots, device=model.device)
        self.encoder = AudioEncoder(checkpoint)
        self.cache = SlotCache(
            model.config.text_config, slots=slots, slot_tokens=slot_tokens, dtype=model.dtype, device=model.device
        )
        self._encoding = Stopwatch(self._device)
        self._encoded_before_s = 0.0
        """In the stretches before the last one, of an utterance that was encoded in several."""
        if compiled:
            self._compile()
        self._graphs = self._record_graphs() if graphs else None
        self._native = NativeDecoder.of(self._decoder, self._head, self.cache)
        self._prefixes = Prefixes(self.cache, audio_id=prompt.audio_id) if self._native is not None else None

    @property
    def runs_in_c(self) -> bool:
        """Whether the language model is the library in C."""
        return self._native is not None

    @property
    def encode_s(self) -> float:
        """Seconds that encoding last took; on a GPU to be read when the host has waited for what came after it."""
        return self._encoded_before_s + self._encoding.seconds

    def encode(self, sequences: Items[Sequence]) -> None:
        """Encode the audio of new rows and give each its `prompt`: (tokens, hidden)."""
        waveforms = [sequence.utterance.waveform for sequence in sequences]
        ids = [token for sequence in sequences for token in sequence.prompt_ids]
        embeddings = self._embed_tokens(self._on_device(torch.tensor(ids)))
        prompts = embeddings.split([len(sequence.prompt_ids) for sequence in sequences])
        self._encoded_before_s = 0.0
        with self._encoding:
            encoded = self.encoder.encode(waveforms)
        for sequence, prompt, audio in zip(sequences, prompts, encoded, strict=True):
            self._fill_in(sequence, prompt, audio)

    def encode_stretches(self, sequence: Sequence, seconds: float) -> Iterator[None]:
        """As `encode` of one row; yields where so many seconds of its audio are encoded and there are more."""
        prompt = self._embed_tokens(self._on_device(torch.tensor(sequence.prompt_ids)))
        parts: list[torch.Tensor] = []
        before_s = 0.0
        stretches = self.encoder.encode_stretches(sequence.utterance.waveform, seconds)
        while sum(map(len, parts)) < sequence.audio_tokens:
            if parts:
                before_s += self._encoding.seconds
                yield
            with self._encoding:
                parts.append(next(stretches))
        self._encoded_before_s = before_s
        self._fill_in(sequence, prompt, torch.cat(parts))

    def _fill_in(self, sequence: Sequence, prompt: torch.Tensor, audio: torch.Tensor) -> None:
        audio_start = sequence.prompt_ids.index(self._audio_id)
        prompt[audio_start : audio_start + len(audio)] = audio
        sequence.prompt = prompt

    def prefill(self, sequences: Items[Sequence], first_slot: int) -> torch.Tensor:
        """Read the whole prompts of encoded rows into the slots from `first_slot` on.

        Returns logits of the first token of each answer, (rows, vocabulary) float32.
        """
        if self._native is not None:
            return self._prefill_in_c(self._native, sequences, first_slot)
        lengths = [len(sequence.prompt_ids) for sequence in sequences]
        # Built on the CPU: a GPU would have to be asked how long the result is.
        slots = torch.arange(first_slot, first_slot + len(lengths)).repeat_interleave(torch.tensor(lengths))
        positions = self._on_device(torch.cat([torch.arange(length) for length in lengths]))
        prompts = Packed(lengths, self._device)
        self.cache.begin(self._on_device(slots), positions)
        embeddings = torch.cat([sequence.prompt for sequence in sequences])
        return self._head(self._decoder(embeddings, positions, self.cache, prompts, prompts.bounds[1:] - 1)).float()

    def _prefill_in_c(self, native: NativeDecoder, sequences: Items[Sequence], first_slot: int) -> torch.Tensor:
        slots = range(first_slot, first_slot + len(sequences))
        pieces = [
            PromptPiece(slot, self.recall(sequence, slot), len(sequence.prompt_ids))
            for slot, sequence in zip(slots, sequences, strict=True)
        ]
        rest = [sequence.prompt[piece.start :] for sequence, piece in zip(sequences, pieces, strict=True)]
        logits = native(torch.cat(rest), torch.empty(0, dtype=torch.long), first_slot, pieces)
        for slot, sequence in zip(slots, sequences, strict=True):
            self._keep_beginning(sequence, slot)
        return logits

    def recall(self, sequence: Sequence, slot: int) -> int:
        """Put into a slot what is known already of the beginning of a prompt; returns how many tokens that is."""
        return self._prefixes.recall(sequence.prompt_ids, slot) if self._prefixes is not None else 0

    def _keep_beginning(self, sequence: Sequence, slot: int) -> None:
        if self._prefixes is not None:
            self._prefixes.keep(sequence.prompt_ids, slot)

    def decode(
        self, sequences: Items[Sequence], first_slot: int = 0, *, reading: Items[Sequence] = (), until: Items[int] = ()
    ) -> torch.Tensor:
        """Advance the rows in the slots from `first_slot` on by the last token of each answer.

        Args:
            sequences: the rows.
            first_slot: of the first one.
            reading: encoded rows whose prompts are read in the same pass, into the slots behind the last one, from
                where they were read to before, or `recall` knew them to.
            until: the tokens of each of those prompts that are read after it.

        Returns logits of the next token of each row, and of the last token read of each prompt: (rows, vocabulary)
        float32.
        """
        tokens = torch.tensor([sequence.answer[-1] for sequence in sequences], dtype=torch.long)
        positions = torch.tensor([sequence.position for sequence in sequences], dtype=torch.long)
        length = max((sequence.position for sequence in sequences), default=0) + 1
        if reading:
            pieces = [
                PromptPiece(slot, sequence.read, end)
                for slot, (sequence, end) in enumerate(
                    zip(reading, until, strict=True), start=first_slot + len(sequences)
                )
            ]
            logits = self._step_reading(tokens, positions, first_slot, length, reading, pieces)
            for sequence, piece in zip(reading, pieces, strict=True):
                if piece.end == len(sequence.prompt_ids):
                    self._keep_beginning(sequence, piece.slot)
            return logits
        if self._native is not None:
            return self._native(self._embed_tokens(tokens), positions, first_slot)
        if self._graphs is not None and first_slot == 0:
            return self._graphs.replay(tokens, positions, length)
        return self._step(self._on_device(tokens), self._on_device(positions), first_slot, length)

    def _step(self, tokens: torch.Tensor, positions: torch.Tensor, first_slot: int, length: int) -> torch.Tensor:
        """One decode step; nothing in here depends on what a tensor holds, so that it can be recorded as a graph."""
        step = Step(first_slot, positions, length)
        self.cache.begin(self._slots[step.slots], positions)
        return self._head(self._decoder(self._embed_tokens(tokens), positions, self.cache, step)).float()

    def _step_reading(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        first_slot: int,
        length: int,
        reading: Items[Sequence],
        pieces: list[PromptPiece],
    ) -> torch.Tensor:
        """A decode step that takes pieces of prompts along: their tokens share the pass over the weights."""
        prompts = [sequence.prompt[piece.start : piece.end] for sequence, piece in zip(reading, pieces, strict=True)]
        if self._native is not None:
            embeddings = torch.cat([self._embed_tokens(tokens), *prompts])
            return self._native(embeddings, positions, first_slot, pieces)
        step = Step(first_slot, self._on_device(positions), length, pieces)
        slots = [self._slots[piece.slot].expand(piece.tokens) for piece in pieces]
        own_positions = [torch.arange(piece.start, piece.end) for piece in pieces]
        positions = self._on_device(torch.cat([positions, *own_positions]))
        self.cache.begin(torch.cat([self._slots[step.slots], *slots]), positions)
        embeddings = torch.cat([self._embed_tokens(self._on_device(tokens)), *prompts])
        ends = accumulate((piece.tokens for piece in pieces), initial=step.rows)
        wanted = self._on_device(torch.tensor([*range(step.rows), *(end - 1 for end in list(ends)[1:])]))
        return self._head(self._decoder(embeddings, positions, self.cache, step, wanted)).float()

    @torch.inference_mode()
    def _compile(self) -> None:
        """Compile, and see that it works: it needs a C compiler on this machine."""
        token, position = (self._on_device(torch.tensor([number])) for number in (self._audio_id, 0))
        self._decoder.compile_pointwise(True)
        try:
            self._step(token, position, first_slot=0, length=1)
        except Exception:
            logger.exception("the language model cannot be compiled here and runs as it is")
            self._decoder.compile_pointwise(False)

    @torch.inference_mode()
    def _record_graphs(self) -> DecodeGraphs | None:
        """Graphs that were seen to compute what the step itself does; None where the device or its driver cannot."""
        try:
            graphs = DecodeGraphs(
                self._step, slots=self.cache.slots, slot_tokens=self.cache.slot_tokens, device=self._device
            )
            token, position = torch.tensor([self._audio_id]), torch.tensor([0])
            expected = self._step(self._on_device(token), self._on_device(position), first_slot=0, length=1)
            torch.testing.assert_close(graphs.replay(token, position, length=1), expected, rtol=0.05, atol=0.05)
        except Exception:
            logger.exception("the decode step cannot be replayed as CUDA graphs here and runs without them")
            return None
        return graphs

    def _embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._decoder.embed_tokens(ids)
        return embeddings

    def _on_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=True)
