"""From a recording to its transcript: the single place where audio becomes text."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TypeVar

from deployments.audio.cutting import Cutter, Piece
from deployments.audio.silero import SileroVad
from deployments.audio.speech import Listener, SpeechOptions
from deployments.audio.waveform import Waveform
from deployments.exceptions import ReplicaLost, ServiceUnavailable
from deployments.transcription.alignment import Alignment
from deployments.transcription.guards import Guard, OnGuard, has_loop, is_looping, may_become_echo, utterance_of
from deployments.transcription.join import join_parts
from deployments.transcription.options import DecodingOptions
from deployments.transcription.part import Heard, Part
from deployments.transcription.telling import Telling, Turn
from deployments.transcription.transcript import Transcript, TranscriptWarning
from deployments.transcription.utterance import Delta, Recognizer, Transcription, Utterance
from deployments.transcription.words import Aligns, WordTimes

logger = logging.getLogger("ray.serve.asr")

_LOOP_CHECK_CHARS = 40  # looking for loops after every token would take longer than the token

Item = TypeVar("Item")


class Transcriber:
    """Transcribes recordings of any length with a recognizer of single utterances.

    Args:
        recognizer: transcribes one piece of a recording.
        max_utterance_s: longest piece, in seconds.
        window: pieces of one recording that are with the recognizer at the same time. It bounds what a recording takes
            of memory here, and of the recognizer's capacity there.
        aligner: finds the words of a piece; None for no times of words.
        listen: makes what finds the speech in one recording.
        on_retry: is told why a piece is sent to the recognizer once more.
        on_guard: is told what was done about answers that cannot be believed.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        max_utterance_s: float,
        window: int,
        aligner: Aligns | None = None,
        listen: Callable[[], Listener] = SileroVad,
        on_retry: Callable[[str], None] = lambda _: None,
        on_guard: OnGuard = lambda _: None,
    ):
        self._recognizer = recognizer
        self._guard_at_once = Guard(recognizer.transcribe, on_guard)
        self._guard_patiently = Guard(self._transcribe_patiently, on_guard)
        self._alignment = Alignment(aligner)
        self._max_utterance_s = max_utterance_s
        self._window = window
        self._listen = listen
        self._on_retry = on_retry
        listen()  # what it loads is loaded now, and not while the first caller waits

    async def transcribe(
        self,
        recording: AsyncIterator[Waveform],
        options: DecodingOptions,
        speech: SpeechOptions,
        *,
        words: WordTimes = WordTimes.UNUSED,
    ) -> Transcript:
        """Transcribe one recording.

        Args:
            recording: its waveform in blocks of any length; drawn only as fast as it is transcribed, never closed.
            options: for each of its utterances.
            speech: what is speech in it.
            words: whether the times of its words are wanted, for which there must be an aligner.

        Raises:
            ServiceError: whatever the recording or the recognizer raises, or the aligner where words are required.
        """
        return await self._transcribe(recording, options, speech, words=words)

    async def stream(
        self, recording: AsyncIterator[Waveform], options: DecodingOptions, speech: SpeechOptions
    ) -> AsyncGenerator[Delta | Transcript, None]:
        """Transcribe one recording and tell its text as it is decoded.

        Yields any number of `Delta`, and last the `Transcript`, whose text is all of theirs joined; it has no times of
        words. Closing the generator early stops the recognizer.

        Raises:
            ServiceError: as `transcribe`.
        """
        told: asyncio.Queue[Delta | None] = asyncio.Queue()
        # A task of its own: a generator may be drawn from by a different task each time, which no task group survives.
        work = asyncio.create_task(self._transcribe(recording, options, speech, telling=Telling(told.put_nowait)))
        work.add_done_callback(lambda _: told.put_nowait(None))
        try:
            while (delta := await told.get()) is not None:
                yield delta
            yield work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _transcribe(
        self,
        recording: AsyncIterator[Waveform],
        options: DecodingOptions,
        speech: SpeechOptions,
        *,
        telling: Telling | None = None,
        words: WordTimes = WordTimes.UNUSED,
    ) -> Transcript:
        cutter = Cutter(self._listen(), limit_s=self._max_utterance_s, options=speech)
        window = asyncio.Semaphore(self._window)
        hearing: list[asyncio.Task[Heard]] = []

        async def hear(piece: Piece, turn: Turn | None, number: int) -> Heard:
            own, is_first = options.of_utterance(number), number == 0
            try:
                if turn is not None:
                    return await self._tell(piece, own, turn, is_first=is_first)
                heard = await self._guard(is_first).hear(piece, own)
                if is_first:
                    return await self._alignment.find_words(piece, heard, words)
                return await self._patiently(lambda: self._alignment.find_words(piece, heard, words))
            finally:
                window.release()

        with _plain_errors():
            async with asyncio.TaskGroup() as group, aclosing(_pieces(recording, cutter)) as pieces:
                async for piece in pieces:
                    await window.acquire()
                    turn = telling.turn() if telling is not None else None
                    hearing.append(group.create_task(hear(piece, turn, len(hearing))))
        return await asyncio.to_thread(  # that of hours takes half a second
            join_parts,
            [task.result() for task in hearing] or [_nothing_heard(speech)],
            duration=cutter.duration,
            temperature=options.temperature,
            forced=options.language,
        )

    def _guard(self, is_first: bool) -> Guard:
        """The guard of a piece: each question about a further one waits for its place.

        The first piece is refused at once, so that callers learn soon that the service is full.
        """
        return self._guard_at_once if is_first else self._guard_patiently

    async def _transcribe_patiently(self, utterance: Utterance) -> Transcription:
        return await self._patiently(lambda: self._recognizer.transcribe(utterance))

    async def _patiently(self, ask: Callable[[], Awaitable[Item]]) -> Item:
        """Ask again where there is no place for a piece now: what was heard of its recording shall not be lost.

        It waits until there is a place, or until the caller gives up, which a request does at its deadline. A piece
        that replicas die of is not asked for again: it may be to blame.
        """
        while True:
            try:
                return await ask()
            except ReplicaLost:
                raise
            except ServiceUnavailable as error:
                await self._wait_for_a_place(error)

    async def _wait_for_a_place(self, refusal: ServiceUnavailable) -> None:
        self._on_retry("no_place")
        logger.warning("no place for a piece of a long recording, waiting %d s", refusal.retry_after_s)
        await asyncio.sleep(refusal.retry_after_s)

    async def _tell(self, piece: Piece, options: DecodingOptions, turn: Turn, *, is_first: bool) -> Heard:
        """Transcribe one piece and say in its turn what it says; what was told stands, whatever turns out later."""
        guard = self._guard(is_first)
        try:
            answer, has_stopped = await self._say(piece, options, turn)
        except ServiceUnavailable as error:
            if is_first or isinstance(error, ReplicaLost) or not turn.take_back():
                raise
            await self._wait_for_a_place(error)
            heard = await guard.hear(piece, options)
        else:
            if turn.take_back():
                heard = await guard.check(piece, options, answer)
            elif has_stopped or is_looping(answer, options):
                kept = replace(answer, text=turn.told, tokens=turn.tokens, finish_reason="stop")
                heard = Heard((Part.of(piece, kept),), guard.stopped(piece))
            else:
                heard = Heard((Part.of(piece, answer),), guard.doubts(piece, answer))
        turn.end(part.transcription for part in heard.parts)
        return heard

    async def _say(self, piece: Piece, options: DecodingOptions, turn: Turn) -> tuple[Transcription, bool]:
        """Pass on what the recognizer says until it goes round in circles; return its answer, and whether it did."""
        text, checked, has_stopped = "", 0, False
        unsure: list[Delta] = []
        may_echo = True  # it may be the prompt that is heard
        async with _closing(self._recognizer.stream(utterance_of(piece, options))) as items:
            async for item in items:
                if isinstance(item, Transcription):
                    return item, has_stopped
                text += item.text
                unsure.append(item)
                if options.loop_detection and len(text) >= checked + _LOOP_CHECK_CHARS:
                    has_stopped, checked = has_stopped or has_loop(text), len(text)
                may_echo = may_echo and may_become_echo(text, options.prompt)
                if not has_stopped and not may_echo:
                    turn.say(unsure)
                    unsure = []
        raise RuntimeError("the recognizer's stream ended without an answer")


async def _pieces(recording: AsyncIterator[Waveform], cutter: Cutter) -> AsyncGenerator[Piece, None]:
    """Cut the recording, in threads, as it comes."""
    async for block in recording:
        for piece in await asyncio.to_thread(cutter.push, block):
            yield piece
    for piece in await asyncio.to_thread(cutter.finish):
        yield piece


def _nothing_heard(speech: SpeechOptions) -> Heard:
    """What is known of a recording in which nobody speaks: why that may not be so, where a caller asked for it."""
    if speech.threshold <= SpeechOptions.threshold:
        return Heard(())
    message = (
        f"Nothing in the recording is speech at a threshold of {speech.threshold:g}. If somebody speaks in it, send a "
        f"lower one, or none for {SpeechOptions.threshold:g}."
    )
    return Heard((), (TranscriptWarning("no_speech_found", message),))


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the first error of a task group as it is."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


@asynccontextmanager
async def _closing(items: AsyncIterator[Item]) -> AsyncIterator[AsyncIterator[Item]]:
    """Close an iterator that can be closed, as generators can, whenever the context ends."""
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()
