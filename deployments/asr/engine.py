"""The engine: utterances join the running batch between two decode steps, and leave it the moment they end."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence as Items
from typing import Self

import numpy as np
import torch

from deployments.asr.answer import AnswerReader
from deployments.asr.arrivals import Arrivals
from deployments.asr.checkpoint import Checkpoint
from deployments.asr.loops import LoopDetector
from deployments.asr.prompt import Prompt
from deployments.asr.request import Request
from deployments.asr.result import fail, finish, finish_reason, result_of
from deployments.asr.runner import ModelRunner
from deployments.asr.sampling import generator_for, sample
from deployments.asr.sequence import Sequence
from deployments.asr.statistics import Group, Load, Statistics
from deployments.audio.waveform import SAMPLE_RATE
from deployments.budget import token_budget
from deployments.exceptions import InvalidAudio, InvalidRequest, ServiceError
from deployments.model_health import ModelHealth
from deployments.transcription.options import DecodingOptions
from deployments.transcription.utterance import Transcription, Utterance

MUCH_SHORTER = 4
"""An utterance on its way in lets the running ones pass where it is so many times as long as one of them."""
PATIENCE = 1.5
"""Decode steps, for each second of its audio, for which it does so in all. Answers have some four tokens a second."""
ALONE_TOKENS = 160
"""Tokens of prompts that a step reads where nobody runs, who would wait for them: so many that a pass over the weights
is worth it, so few that a short one that arrives meanwhile does not wait for long."""

Choice = tuple[int, float] | Exception
"""A row's next token and its log probability, or why it has none."""


class Engine:
    """Owns the model and its cache; whoever submits is in other threads than the one that it runs in.

    Args:
        checkpoint: the loaded model.
        slots: utterances that are decoded together at most; more wait.
        slot_tokens: tokens of prompt and answer that one utterance may need.
        longest_s: seconds of the longest utterance to be expected. A prompt or a budget that it has no room for is
            refused with a shorter one too, so that no recording is refused when its beginning has been transcribed.
        admission_s: seconds of audio that are encoded between two decode steps at most (but one attention window of the
            encoder always is). The running utterances wait for them, so it bounds how long the others may stall them.
        piece_tokens: tokens of prompts that are read along with one decode step at most; 0 reads whole prompts between
            two steps.
        graphs: replay decode steps as CUDA graphs.
        compiled: compile what lies between the model's matrix products.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int,
        slot_tokens: int,
        admission_s: float,
        longest_s: float = 0.0,
        piece_tokens: int = 0,
        graphs: bool = False,
        compiled: bool = False,
    ):
        self._prompt = Prompt(checkpoint.tokenizer)
        self._runner = ModelRunner(
            checkpoint, self._prompt, slots=slots, slot_tokens=slot_tokens, graphs=graphs, compiled=compiled
        )
        self._admission_s = admission_s
        self._longest_s = longest_s
        self._piece_tokens = piece_tokens
        self._arrivals = Arrivals(admission_s)
        self._running: list[Sequence] = []
        """Row `i` holds slot `i`."""
        self._reading: deque[Sequence] = deque()
        """Encoded, their prompts not read yet. The first one holds the slot behind the last running row."""
        self.statistics = Statistics()
        self._health = ModelHealth()
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Run in a new thread."""
        self._thread = threading.Thread(target=self.run, name="engine", daemon=True)
        self._thread.start()
        return self

    @torch.inference_mode()
    def run(self) -> None:
        """Transcribe what is submitted, in the thread that calls this, until `stop` is called from another."""
        self._thread = threading.current_thread()
        while self._arrivals.wait(busy=bool(self._reading or self._running)):
            try:
                self.step()
            except Exception as error:  # nothing below lets one through; should it, nobody may wait for ever
                self._note(error)
                _, joining = self._arrivals.here()
                for sequence in (*joining, *self._reading, *self._running):
                    self._fail(sequence.request, error)
                self._arrivals.joined(joining)
                self._running.clear()
                self._reading.clear()
        waiting, _ = self._arrivals.here()
        for sequence in (*waiting, *self._reading, *self._running):
            sequence.future.cancel()

    def submit(self, requests: "Items[Request]") -> None:
        """Queue utterances; from any thread. Returns when they are prepared, long before they are transcribed."""
        for request in requests:
            self.statistics.watch(request)
        prepared = [self._prepare(request) for request in requests]
        self._arrivals.add([sequence for sequence in prepared if sequence is not None])

    def transcribe(self, utterances: Items[Utterance]) -> list[Transcription | ServiceError]:
        """Transcribe utterances together; blocking. Returns one result for each, in order."""
        requests = [Request(utterance) for utterance in utterances]
        self.submit(requests)
        return [result_of(request.future) for request in requests]

    def warm_up(self) -> None:
        """Transcribe two short utterances, so that no caller pays for first-time initialisation.

        Raises:
            ServiceError: the model does not work.
        """
        noise = np.random.default_rng(0).normal(0.0, 0.01, 3 * SAMPLE_RATE).astype(np.float32)
        options = DecodingOptions(max_new_tokens=4)
        for result in self.transcribe([Utterance(noise, options), Utterance(noise[:8000], options)]):
            if isinstance(result, ServiceError):
                raise result

    @property
    def load(self) -> Load:
        """What there is to do at this moment; from any thread."""
        waiting, joining = self._arrivals.here()
        waiting = [sequence for sequence in waiting if not sequence.future.done()]
        # In the order in which they go on, so that none is missed; one may be seen twice.
        running = {*joining, *list(self._reading), *list(self._running)}
        return Load(
            slots=self._runner.cache.slots,
            running=len(running),
            waiting=len(waiting),
            running_audio_seconds=sum(sequence.utterance.duration for sequence in running),
            waiting_audio_seconds=sum(sequence.utterance.duration for sequence in waiting),
        )

    def check(self) -> None:
        """Raise RuntimeError if nothing will be transcribed here any more."""
        self._health.check()
        if self._thread is None or not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")

    def stop(self) -> None:
        """End the thread; what is still in the engine is cancelled."""
        self._arrivals.close()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> None:
        """Let the cancelled leave, let waiting ones join, and advance every running row by one token."""
        self._drop_cancelled()
        group = self._next_group()
        with self._health.working(sum(sequence.length_s for sequence in (*group, *self._reading))):
            self._admit(group, at_once=bool(self._reading))
            self._arrivals.joined(group)
            if group and self._reading:
                self._admit_overtaking()
            self._decode()

    def _drop_cancelled(self) -> None:
        self._remove([sequence for sequence in self._running if sequence.future.cancelled()])
        if self._reading and self._reading[0].future.cancelled():
            self._runner.cache.clear(len(self._running), self._reading[0].read)
        self._reading = deque(sequence for sequence in self._reading if not sequence.future.cancelled())

    def _next_group(self) -> list[Sequence]:
        return self._arrivals.take(self._runner.cache.slots - len(self._running), self._reading)

    def _admit(self, group: list[Sequence], *, at_once: bool = False) -> None:
        """Encode utterances, and let their prompts be read: whole and now, or in the steps that follow.

        Args:
            group: the utterances.
            at_once: now, for the new ones overtake those that are being read.
        """
        if not group:
            return
        began_at = time.monotonic()
        room = 0
        failed = False
        try:
            meanwhile_s = self._encode(group)
            group = [sequence for sequence in group if not sequence.future.cancelled()]
            if not group:
                return
            whole = at_once or not self._piece_tokens
            if whole:
                room = self._make_room(len(group))
            logits = self._runner.prefill(group, first_slot=len(self._running)) if whole else None
        except Exception as error:
            self._make_room(-room)
            self._note(error)
            if len(group) == 1:
                self._fail(group[0].request, error)
                return
            failed = True
        if failed:
            # One of them is to blame, or together they are too much for the memory there is: what the failed pass had
            # computed is let go of, now that its error is.
            for sequence in group:
                self._admit([sequence], at_once=at_once)
        elif logits is None:
            self._note_admission(group, began_at)
            self._reading.extend(group)
        else:
            for sequence in group:
                sequence.forget_prompt()
            self._running.extend(group)
            choices = self._choose(group, logits)
            self._note_admission(group, began_at)
            self._hand_out(group, choices)
            self.statistics.prefilled(time.monotonic() - began_at - meanwhile_s - group[0].encode_s)

    def _admit_overtaking(self) -> None:
        """Let those join that came while others were on their way in, and go before them."""
        overtaking = self._next_group()
        self._admit(overtaking, at_once=True)
        self._arrivals.joined(overtaking)

    def _encode(self, group: list[Sequence]) -> float:
        """Encode utterances; a long one in stretches, between which the others go on, as long as it is not cancelled.

        Returns the seconds that the others took meanwhile.
        """
        if len(group) > 1 or group[0].utterance.duration <= self._admission_s:
            self._runner.encode(group)
            return 0.0
        meanwhile_s = 0.0
        for _ in self._runner.encode_stretches(group[0], self._admission_s):
            began_at = time.monotonic()
            self._go_on_meanwhile()
            while self._lets_pass(group[0]):
                self._go_on_meanwhile()
            meanwhile_s += time.monotonic() - began_at
            if group[0].future.cancelled():
                break
        return meanwhile_s

    def _go_on_meanwhile(self) -> None:
        """A step of the others while one is encoded: short ones that came meanwhile overtake it."""
        self._drop_cancelled()
        self._admit_overtaking()
        self._decode()

    def _lets_pass(self, joining: Sequence) -> bool:
        """Whether one on its way in waits for another step of those that run, since one is much shorter; counts it.

        A stretch of its audio, or a piece of its prompt, takes as long as many steps: with one before each step, the
        short one would end when the long one does. The more wait behind it, the fewer steps there are for that; once it
        is due there are none.
        """
        length_s = joining.length_s
        waiting, _ = self._arrivals.here()
        waits = (
            joining.let_pass < PATIENCE * length_s / (1 + len(waiting))
            and any(MUCH_SHORTER * sequence.utterance.duration <= length_s for sequence in self._running)
            and time.monotonic() < joining.due_at
            and not joining.future.cancelled()
        )
        joining.let_pass += waits
        return waits

    def _make_room(self, rows: int) -> int:
        """Move the prompt that is being read so many slots further, or back where they are negative."""
        if rows and self._reading and (read := self._reading[0].read):
            slot = len(self._running) + max(0, -rows)
            self._runner.cache.move(slot, slot + rows, read)
        return rows

    def _decode(self) -> None:
        rows = list(self._running)
        if not rows and not self._reading:
            return
        others = len(rows)
        began_at = time.monotonic()
        reading, until = list(self._reading)[:1], list[int]()
        logits = None
        try:
            reading, until = self._next_pieces()
            logits = self._runner.decode(rows, reading=reading, until=until)
        except Exception as error:
            self._note(error)
        if logits is None:
            self._decode_one_by_one(rows)
            self._note_step(others, time.monotonic() - began_at)
            self._read_one_by_one(reading)
            return
        for sequence, end in zip(reading, until, strict=True):
            sequence.read = end
            if end == len(sequence.prompt_ids):
                sequence.forget_prompt()
                self._running.append(self._reading.popleft())
                rows.append(sequence)
        self._hand_out(rows, self._choose(rows, logits[: len(rows)]))
        self._note_step(others, time.monotonic() - began_at)

    def _next_pieces(self) -> tuple[list[Sequence], list[int]]:
        """Whose prompts are read along with the next step, and how far.

        What goes on in the first one, and behind it the whole prompts that fit: a pass over more tokens takes less for
        each. Only the first may be left half read. Nobody's where it lets others pass.
        """
        reading: list[Sequence] = []
        until: list[int] = []
        if self._reading and self._lets_pass(self._reading[0]):
            return reading, until
        room = self._piece_limit
        for place, sequence in enumerate(self._reading):
            is_first = place == 0
            if not is_first and len(sequence.prompt_ids) > room:
                break
            sequence.read = sequence.read or self._runner.recall(sequence, len(self._running) + place)
            end = self._piece_end(sequence) if is_first else len(sequence.prompt_ids)
            reading.append(sequence)
            until.append(end)
            if end < len(sequence.prompt_ids):
                break
            room -= end - sequence.read
        return reading, until

    @property
    def _piece_limit(self) -> int:
        """Tokens of prompts that a step reads at most."""
        return self._piece_tokens if self._running else max(self._piece_tokens, ALONE_TOKENS)

    def _piece_end(self, reading: Sequence) -> int:
        """Where the next piece of a prompt ends. Pieces are of one size, for a short one costs nearly as much."""
        rest = len(reading.prompt_ids) - reading.read
        pieces = math.ceil(rest / self._piece_limit)
        return reading.read + math.ceil(rest / pieces)

    def _read_one_by_one(self, reading: Items[Sequence]) -> None:
        """Read prompts alone that could not be read together, so that an error takes only the one that causes it."""
        for _ in reading:
            self._arrivals.join_again(self._reading.popleft())
        for sequence in reading:
            self._admit([sequence], at_once=True)
            self._arrivals.joined([sequence])

    def _decode_one_by_one(self, rows: list[Sequence]) -> None:
        """Advance each row alone, so that an error takes only the row with it that causes it."""
        advanced, logits, failed = [], [], []
        for slot, sequence in enumerate(rows):
            try:
                logits.append(self._runner.decode([sequence], first_slot=slot))
                advanced.append(sequence)
            except Exception as error:
                self._note(error)
                self._fail(sequence.request, error)
                failed.append(sequence)
        if advanced:
            self._hand_out(advanced, self._choose(advanced, torch.cat(logits)))
        self._remove(failed)

    def _note_admission(self, group: list[Sequence], began_at: float) -> None:
        encode_s = self._runner.encode_s
        for sequence in group:
            sequence.admitted_at, sequence.encode_s = began_at, encode_s
        self.statistics.admitted(
            Group(len(group), encode_s), [began_at - sequence.request.arrived_at for sequence in group]
        )

    def _note_step(self, rows: int, seconds: float) -> None:
        """Count a step that has advanced so many rows; without any, it has read a prompt."""
        if rows:
            self.statistics.decoded(seconds)
        else:
            self.statistics.prefilled(seconds)

    def _hand_out(self, rows: list[Sequence], choices: list[Choice]) -> None:
        """Give each row its next token; those that ended get their result, and leave when all have theirs."""
        now = time.monotonic()
        self.statistics.generated(len(rows))
        ended = []
        for sequence, choice in zip(rows, choices, strict=True):
            if sequence.first_token_at is None:
                sequence.first_token_at = now
                self.statistics.began(now - sequence.admitted_at - sequence.encode_s)
            try:
                if isinstance(choice, Exception):
                    raise choice
                sequence.append(*choice)
                if (reason := finish_reason(sequence, self._prompt)) is not None:
                    finish(sequence, self._prompt, reason)
                    self._health.succeeded()
                    ended.append(sequence)
            except Exception as error:
                self._fail(sequence.request, error)
                ended.append(sequence)
        self._remove(ended)

    def _choose(self, rows: list[Sequence], logits: torch.Tensor) -> list[Choice]:
        """Token and log probability for each row, or the error that it alone caused."""
        try:
            return list(zip(*sample(logits, rows), strict=True))
        except Exception as error:
            self._note(error)
            if len(rows) == 1:
                return [error]
        return [choice for i, row in enumerate(rows) for choice in self._choose([row], logits[i : i + 1])]

    def _remove(self, sequences: Items[Sequence]) -> None:
        """Free the slots of these rows; the last row moves into each hole, so that slots stay without gaps."""
        rows = len(self._running)
        for sequence in sequences:
            hole = self._running.index(sequence)
            if not sequence.is_answered:
                self._runner.cache.clear(hole, sequence.position + 1)
            last = self._running.pop()
            if last is not sequence:
                self._runner.cache.move(len(self._running), hole, last.position)
                self._running[hole] = last
        if sequences and self._reading and self._reading[0].read:
            self._runner.cache.move(rows, len(self._running), self._reading[0].read)

    def _prepare(self, request: Request) -> Sequence | None:
        """Everything that can be done outside the engine's thread; None where the utterance is refused."""
        try:
            return self._sequence(request)
        except Exception as error:
            self._fail(request, error)
            return None

    def _sequence(self, request: Request) -> Sequence:
        utterance, options = request.utterance, request.utterance.options
        if not np.isfinite(utterance.waveform).all():
            raise InvalidAudio("The recording holds samples that are not finite numbers. Send a valid recording.")
        audio_tokens = self._runner.encoder.tokens(len(utterance.waveform))
        prompt_ids = self._prompt.token_ids(
            audio_tokens=audio_tokens, context=options.prompt, language=options.language
        )
        self._require_room(utterance, len(prompt_ids) - audio_tokens)
        return Sequence(
            request,
            prompt_ids,
            audio_tokens,
            budget=options.max_new_tokens or token_budget(utterance.duration),
            reader=AnswerReader(self._prompt, options),
            loops=LoopDetector(utterance.duration) if options.loop_detection else None,
            generator=generator_for(options),
            openings=self._prompt.openings(options.languages) if options.languages and not options.language else [],
        )

    def _require_room(self, utterance: Utterance, text_tokens: int) -> None:
        """Raise InvalidRequest if the longest utterance, with this one's prompt, would have no room for its answer."""
        options = utterance.options
        samples = max(len(utterance.waveform), round(self._longest_s * SAMPLE_RATE))
        audio = f"{samples / SAMPLE_RATE:g} seconds of audio"
        usual_budget = token_budget(samples / SAMPLE_RATE)
        budget = options.max_new_tokens or usual_budget
        room = self._runner.cache.slot_tokens - self._runner.encoder.tokens(samples) - text_tokens
        if room >= budget:
            return
        if options.max_new_tokens is not None and room > 0:
            raise InvalidRequest(
                f"The service has room for an answer of {room} tokens beside {audio} and the prompt, and "
                f"max_new_tokens is {budget}. Send a smaller one.",
                param="max_new_tokens",
            )
        prompt_tokens = text_tokens - len(self._prompt.token_ids(audio_tokens=0, language=options.language))
        fitting = max(0, prompt_tokens + room - min(budget, usual_budget))
        raise InvalidRequest(
            f"The service has room for a prompt of {fitting} tokens beside {audio} and the answer, and this one has "
            f"{prompt_tokens}. Send a shorter prompt.",
            param="prompt",
        )

    def _fail(self, request: Request, error: Exception) -> None:
        if not isinstance(error, ServiceError):
            self._health.failed()
        fail(request.future, error, request.utterance)

    def _note(self, error: Exception) -> None:
        if isinstance(error, torch.AcceleratorError):
            self._health.device_failed(error)
