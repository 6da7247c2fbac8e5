"""Answers are checked before they are believed: loops, answers that never ended, and context taken for speech.

What is wrong is asked again once, under other conditions. Whatever was done is told in a warning and in the log.
"""

import logging
import re
from dataclasses import replace
from difflib import SequenceMatcher

from deployments.audio.cutting import Piece, halve
from deployments.audio.decode import within_full_scale
from deployments.transcription.options import DecodingOptions
from deployments.transcription.part import Heard, Part
from deployments.transcription.transcript import TranscriptWarning, WarningCode
from deployments.transcription.utterance import Recognizer, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")

LOOP_REPEATS = 20
"""So often in a row is said by nobody: the threshold of the `qwen-asr` package."""
PENALTY = 0.15
"""Added to the repetition penalty of an utterance that went round in circles."""
MIN_CUT_S = 1.0
"""A shorter utterance is not cut again."""

_LOOP_CHARS = 60  # longest pattern that is looked for: a sentence
_LOOP = re.compile(rf"(\S.{{0,{_LOOP_CHARS - 1}}}?)\1{{{LOOP_REPEATS - 1},}}", re.DOTALL)
_MIN_ECHO_LETTERS = 4  # shorter ones occur in any prompt by chance
_LIKE_ENOUGH = 0.5


def has_loop(text: str) -> bool:
    """Whether something is said `LOOP_REPEATS` times in a row."""
    return _LOOP.search(text) is not None


def without_loops(text: str) -> str:
    """The text with everything that is repeated so often said once; the rest of a last repetition goes with it."""
    while (loop := _LOOP.search(text)) is not None:
        pattern, rest = loop[1], text[loop.end() :]
        if pattern.startswith(rest) or pattern.strip().startswith(rest.strip()):
            rest = ""
        text = (text[: loop.start()] + pattern + rest).strip()
    return text


def is_echo(text: str, prompt: str) -> bool:
    """Whether the text is nothing but a part of the prompt; false of a few letters."""
    said = _letters(text)
    return len(said) >= _MIN_ECHO_LETTERS and said in _letters(prompt)


def may_become_echo(text: str, prompt: str) -> bool:
    """Whether a text that goes on may turn out to be nothing but a part of the prompt."""
    return bool(prompt) and _letters(text) in _letters(prompt)


class Guard:
    """Transcribes pieces with a recognizer, and checks what it answers."""

    def __init__(self, recognizer: Recognizer):
        self._recognizer = recognizer

    async def hear(self, piece: Piece, options: DecodingOptions) -> Heard:
        """Transcribe one piece.

        Raises:
            ServiceError: whatever the recognizer raises.
        """
        return await self.check(piece, options, await self._ask(piece, options))

    async def check(self, piece: Piece, options: DecodingOptions, answer: Transcription) -> Heard:
        """Return what to believe of an answer; the recognizer is asked again where it cannot be believed.

        Raises:
            ServiceError: whatever the recognizer raises.
        """
        warnings: list[TranscriptWarning] = []
        if has_loop(answer.text):
            answer = await self._out_of_loop(piece, options, answer)
            warnings.append(_warning("repetition", piece, "The model repeated itself; it was asked again."))
        if is_echo(answer.text, options.prompt):
            answer, was_dropped = await self._without_echo(piece, options, answer)
            if was_dropped:
                warnings.append(_warning("prompt_echo", piece, "The model took the prompt for speech; it was ignored."))
        if _ran_out(answer, options) and piece.end - piece.start >= MIN_CUT_S:
            heard = await self._in_halves(piece, options)
            return Heard(heard.parts, (*warnings, *heard.warnings))
        return Heard((Part.of(piece, answer),), (*warnings, *exhausted(piece, answer)))

    async def _ask(self, piece: Piece, options: DecodingOptions) -> Transcription:
        return await self._recognizer.transcribe(utterance_of(piece, options))

    async def _out_of_loop(self, piece: Piece, options: DecodingOptions, answer: Transcription) -> Transcription:
        """The answer under a penalty for repetition; where that loops as well, either with its loops said once."""
        again = await self._ask(piece, replace(options, repetition_penalty=options.repetition_penalty + PENALTY))
        return again if not has_loop(again.text) else _collapsed(again)

    async def _without_echo(
        self, piece: Piece, options: DecodingOptions, answer: Transcription
    ) -> tuple[Transcription, bool]:
        """The answer, if without the prompt the like of it is heard too; else what is heard then.

        Who says what the prompt says is heard without it as well, if perhaps in another spelling.
        """
        again = await self._ask(piece, replace(options, prompt=""))
        matcher = SequenceMatcher(None, _letters(answer.text), _letters(again.text), autojunk=False)
        if matcher.ratio() >= _LIKE_ENOUGH:
            return answer, False
        return again, True

    async def _in_halves(self, piece: Piece, options: DecodingOptions) -> Heard:
        """The answers to the two halves of a piece whose own answer did not end."""
        parts: list[Part] = []
        warnings = [_warning("utterance_cut", piece, "The answer did not end; the piece was cut in two.")]
        for half in halve(piece):
            if not half.speech:
                continue
            answer = await self._ask(half, options)
            parts.append(Part.of(half, _collapsed(answer) if has_loop(answer.text) else answer))
            warnings += exhausted(half, answer)
        return Heard(tuple(parts), tuple(warnings))


def utterance_of(piece: Piece, options: DecodingOptions) -> Utterance:
    """What the recognizer is asked to transcribe."""
    return Utterance(within_full_scale(piece.waveform), options)


def exhausted(piece: Piece, answer: Transcription) -> tuple[TranscriptWarning, ...]:
    """The warning that an answer has no end, if it has none."""
    if answer.finish_reason == "stop":
        return ()
    warning = _warning(
        "token_budget_exhausted",
        piece,
        f"The text may be cut short: its budget of {answer.output_tokens} tokens ran out before it ended. "
        "Send a larger max_new_tokens or a shorter recording.",
    )
    return (warning,)


def stopped(piece: Piece) -> TranscriptWarning:
    """The warning that no more of a looping answer was told than had been told already."""
    return _warning("repetition", piece, "The model repeated itself; the text is cut short there.")


def _ran_out(answer: Transcription, options: DecodingOptions) -> bool:
    """Whether an answer was longer than any speech: not where the caller wanted it short."""
    return answer.finish_reason == "length" and options.max_new_tokens is None


def _collapsed(answer: Transcription) -> Transcription:
    """The answer with its loops said once. The tokens it was made of are not its text any more."""
    return replace(answer, text=without_loops(answer.text), finish_reason="stop", tokens=())


def _warning(code: WarningCode, piece: Piece, message: str) -> TranscriptWarning:
    told = f"{message} (From {piece.start:.1f} s to {piece.end:.1f} s.)"
    logger.warning("guard %s: %s", code, told)
    return TranscriptWarning(code, told)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
