"""The words of what was heard get their times, from an aligner if there is one."""

import logging
from dataclasses import replace

from deployments.audio.cutting import Piece
from deployments.audio.decode import for_model
from deployments.audio.levels import evened
from deployments.audio.pauses import without_long_pauses
from deployments.audio.speech import Span
from deployments.audio.waveform import SAMPLE_RATE
from deployments.exceptions import ServiceUnavailable, UnalignableLanguage
from deployments.transcription.lost_words import in_their_time
from deployments.transcription.part import Heard, Part
from deployments.transcription.transcript import TranscriptWarning
from deployments.transcription.words import Aligns, Word, WordTimes, check_alignable, spans_of

logger = logging.getLogger("ray.serve.asr")


class Alignment:
    """Asks an aligner for the words of one piece at a time.

    Args:
        aligner: None where there is none: then no word has times.
    """

    def __init__(self, aligner: Aligns | None):
        self._aligner = aligner

    async def find_words(self, piece: Piece, heard: Heard, wanted: WordTimes) -> Heard:
        """What was heard in a piece, with its words where they are wanted and can be had.

        A language that words cannot be had in is no error, and neither is a broken aligner where the words are not
        required. Warnings tell what the caller would miss.

        Raises:
            ServiceError: they are required, and the aligner failed.
        """
        if self._aligner is None or wanted is WordTimes.UNUSED:
            return heard
        parts: list[Part] = []
        warnings = list(heard.warnings)
        for part in heard.parts:
            try:
                words = await _words(self._aligner, piece, part)
            except UnalignableLanguage as error:
                words = ()
                if wanted is WordTimes.REQUIRED:
                    warnings.append(TranscriptWarning("word_times_unavailable", error.message))
            except Exception as error:
                if wanted is WordTimes.REQUIRED:
                    raise
                words = ()
                warnings.append(_estimates(error, part))
            parts.append(replace(part, words=words))
        return Heard(tuple(parts), tuple(warnings))


def _estimates(error: Exception, part: Part) -> TranscriptWarning:
    """What is told, and logged, where times of words would have been welcome."""
    where = part.start, part.end
    if isinstance(error, ServiceUnavailable):
        logger.warning("no aligner for the words from %.1f s to %.1f s: %s", *where, error)
        return TranscriptWarning("word_times_unavailable", "The aligner has no time now: some times are estimates.")
    logger.error("words were not found from %.1f s to %.1f s", *where, exc_info=error)
    return TranscriptWarning("word_times_unavailable", "The aligner failed: some times are estimates.")


async def _words(aligner: Aligns, piece: Piece, part: Part) -> tuple[Word, ...]:
    """The words of one part of a piece, spelled as in its text, in seconds from the start of the recording.

    Raises:
        UnalignableLanguage: they cannot be had in its language.
        ServiceError: the aligner failed.
    """
    text, language = part.transcription.text, part.transcription.language
    if not text:
        return ()
    if language is None:
        raise UnalignableLanguage("There are no word times where the language is not known.")
    check_alignable(language)
    begin, end = (round((time - piece.start) * SAMPLE_RATE) for time in (part.start, part.end))
    speech = [Span(span.start - part.start, span.end - part.start) for span in part.speech]
    spoken = without_long_pauses(evened(piece.waveform[begin:end], speech), speech)
    found = await aligner.align(for_model(spoken.waveform), text, language)
    words = in_their_time([Word(word.text, *spoken.original(word.start, word.end)) for word in found], speech)
    timed = []
    for word, (first, last) in zip(words, spans_of(words, text), strict=True):
        times = (min(round(part.start + time, 3), part.end) for time in (word.start, word.end))
        timed.append(Word(text[first:last] or word.text, *times))
    return tuple(timed)
