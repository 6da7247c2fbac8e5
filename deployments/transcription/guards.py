"""Answers are checked before they are believed: loops, answers without end or text, and context taken for speech.

What is wrong is asked again once, under other conditions. Whatever was done is told in a warning and in the log, and
counted by whoever observes.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from difflib import SequenceMatcher

from deployments.audio.cutting import Piece, halve
from deployments.audio.decode import for_model
from deployments.audio.speech import Span
from deployments.transcription.options import DecodingOptions
from deployments.transcription.part import Heard, Part
from deployments.transcription.transcript import TranscriptWarning, WarningCode
from deployments.transcription.utterance import Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")

LOOP_REPEATS = 20
"""So often in a row is said by nobody: the threshold of the `qwen-asr` package."""
LOOP_PENALTY = 1.15
"""Repetition penalty of an utterance that went round in circles."""
MIN_CUT_S = 1.0
"""A shorter utterance is not cut again."""
UNHEARD_S = 2.0
"""So much speech without a word in the answer is told; a cough or a laugh is shorter."""

OnGuard = Callable[[WarningCode], None]
"""Is told each thing that a guard did, by the code of its warning."""

_LOOP_CHARS = 60  # longest pattern that is looked for: a sentence
_CIRCLES = 4  # times that an answer which the engine stopped says the same: it found five of as many tokens at least
_CIRCLE_CHARS = 1000
_BLANK = re.compile(r"\s")
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


def without_circle(text: str) -> str:
    """The text with what it ends in, over and over, said once: for an answer that was stopped for that.

    Of several patterns (zeros at the end of a number that is said again and again) it is the one that goes on longest.
    """
    longest, pattern = 0, 0
    for period in range(1, min(_CIRCLE_CHARS, len(text) // _CIRCLES) + 1):
        same = (_CIRCLES - 1) * period
        if text[-same:] != text[-same - period : -period]:
            continue
        while same + period < len(text) and text[-same - 1] == text[-same - period - 1]:
            same += 1
        if same + period > longest:
            longest, pattern = same + period, period
    start = len(text) - longest
    # What stands before the first word that is repeated may look like what stands before the others.
    if start > 0 and (blank := _BLANK.search(text, start - 1, start + pattern)) is not None:
        start = blank.end()
    return text[: start + pattern].strip()


def is_echo(text: str, prompt: str) -> bool:
    """Whether the text is nothing but a part of the prompt; false of a few letters."""
    said = _letters(text)
    return len(said) >= _MIN_ECHO_LETTERS and said in _letters(prompt)


def may_become_echo(text: str, prompt: str) -> bool:
    """Whether a text that goes on may turn out to be nothing but a part of the prompt."""
    return bool(prompt) and _letters(text) in _letters(prompt)


class Guard:
    """Has pieces transcribed, and checks what is answered.

    Args:
        transcribe: transcribes one piece, as a `Recognizer` does.
        on_guard: is told what was done.
    """

    def __init__(self, transcribe: Callable[[Utterance], Awaitable[Transcription]], on_guard: OnGuard = lambda _: None):
        self._transcribe = transcribe
        self._on_guard = on_guard

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
        answer, warnings = await self._believed(piece, options, answer)
        if not _ran_out(answer, options) or piece.end - piece.start < MIN_CUT_S:
            return Heard((Part.of(piece, answer),), (*warnings, *self.doubts(piece, answer)))
        parts: list[Part] = []
        warnings.append(self._warning("utterance_cut", piece, "The answer did not end; the piece was cut in two."))
        for half in halve(piece):
            if half.speech:
                answer, more = await self._believed(half, options, await self._ask(half, options))
                parts.append(Part.of(half, answer))
                warnings += (*more, *self.doubts(half, answer))
        return Heard(tuple(parts), tuple(warnings))

    def doubts(self, piece: Piece, answer: Transcription) -> tuple[TranscriptWarning, ...]:
        """Warnings that an answer has no end, or no text although somebody seems to speak for a while."""
        if answer.finish_reason == "length":
            warning = self._warning(
                "token_budget_exhausted",
                piece,
                f"The text may be cut short: its budget of {answer.output_tokens} tokens ran out before it ended. "
                "Send a larger max_new_tokens or a shorter recording.",
            )
            return (warning,)
        if not answer.text and sum(span.end - span.start for span in piece.speech) >= UNHEARD_S:
            message = "Somebody seems to speak, and the model heard no words."
            return (self._warning("speech_without_text", piece, message),)
        return ()

    def stopped(self, piece: Piece) -> tuple[TranscriptWarning, ...]:
        """The warning that no more of a looping answer was told than had been told already."""
        return (self._warning("repetition", piece, "The model repeated itself; the text is cut short there."),)

    async def _ask(self, piece: Piece, options: DecodingOptions) -> Transcription:
        return await self._transcribe(utterance_of(piece, options))

    async def _believed(
        self, piece: Piece, options: DecodingOptions, answer: Transcription
    ) -> tuple[Transcription, list[TranscriptWarning]]:
        """An answer that neither loops nor echoes the prompt, and what was done for it."""
        warnings: list[TranscriptWarning] = []
        if is_looping(answer, options):
            answer = await self._out_of_loop(piece, options, answer)
            warnings.append(
                self._warning(
                    "repetition",
                    piece,
                    "The model went round in circles and was stopped; the text may be inaccurate there.",
                )
            )
        if is_echo(answer.text, options.prompt):
            answer, was_dropped = await self._without_echo(piece, options, answer)
            if was_dropped:
                message = "The model took the prompt for speech; it was ignored."
                warnings.append(self._warning("prompt_echo", piece, message))
        return answer, warnings

    async def _out_of_loop(self, piece: Piece, options: DecodingOptions, answer: Transcription) -> Transcription:
        """The answer under a penalty for repetition; where that loops as well, with its loops said once.

        A penalty that the caller chose stands.
        """
        if options.repetition_penalty == DecodingOptions.repetition_penalty:
            answer = await self._ask(piece, replace(options, repetition_penalty=LOOP_PENALTY))
        return _collapsed(answer) if is_looping(answer, options) else answer

    async def _without_echo(
        self, piece: Piece, options: DecodingOptions, answer: Transcription
    ) -> tuple[Transcription, bool]:
        """The answer, if without the prompt the like of it is heard too; else what is heard then.

        Who says what the prompt says is heard without it as well, if perhaps in another spelling.
        """
        again = await self._ask(piece, replace(options, prompt=""))
        if is_looping(again, options):
            again = _collapsed(again)
        matcher = SequenceMatcher(None, _letters(answer.text), _letters(again.text), autojunk=False)
        if matcher.ratio() >= _LIKE_ENOUGH:
            return answer, False
        return again, True

    def _warning(self, code: WarningCode, piece: Piece, message: str) -> TranscriptWarning:
        warning = TranscriptWarning(code, message, Span(piece.start, piece.end))
        logger.warning("guard %s: %s", code, warning)
        self._on_guard(code)
        return warning


def is_looping(answer: Transcription, options: DecodingOptions) -> bool:
    """Whether an answer was stopped for going round in circles, or should have been."""
    return options.loop_detection and (answer.finish_reason == "repetition" or has_loop(answer.text))


def utterance_of(piece: Piece, options: DecodingOptions) -> Utterance:
    """What the recognizer is asked to transcribe."""
    return Utterance(for_model(piece.waveform), options)


def _ran_out(answer: Transcription, options: DecodingOptions) -> bool:
    """Whether an answer was longer than any speech: not where the caller wanted it short."""
    return answer.finish_reason == "length" and options.max_new_tokens is None


def _collapsed(answer: Transcription) -> Transcription:
    """The answer with its loops said once. The tokens it was made of are not its text any more."""
    text = without_circle(answer.text) if answer.finish_reason == "repetition" else answer.text
    return replace(answer, text=without_loops(text), finish_reason="stop", tokens=())


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
