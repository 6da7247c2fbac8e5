"""From a recording to its transcript: the single place where audio becomes text."""

from deployments.exceptions import InvalidAudio
from deployments.transcription.options import DecodingOptions
from deployments.transcription.transcript import Segment, Transcript, TranscriptWarning, Usage
from deployments.transcription.utterance import SAMPLE_RATE, Recognizer, Transcription, Utterance, Waveform


class Transcriber:
    """Transcribes recordings with a recognizer of single utterances."""

    def __init__(self, recognizer: Recognizer, *, max_utterance_s: float):
        self._recognizer = recognizer
        self._max_utterance_s = max_utterance_s

    async def transcribe(self, waveform: Waveform, options: DecodingOptions) -> Transcript:
        """Transcribe one recording.

        Raises:
            InvalidAudio: the recording is longer than one utterance may be.
            ServiceError: whatever the recognizer raises.
        """
        duration = len(waveform) / SAMPLE_RATE
        if duration > self._max_utterance_s:
            raise InvalidAudio(
                f"audio duration {duration:.1f} seconds is longer than {self._max_utterance_s:g} seconds "
                "which is the maximum for this model. Send it in shorter pieces."
            )
        transcription = await self._recognizer.transcribe(Utterance(waveform, options))
        return Transcript(
            text=transcription.text,
            language=transcription.language,
            duration=duration,
            segments=_segments(transcription, duration, options.temperature),
            usage=Usage(
                seconds=duration,
                audio_tokens=transcription.audio_tokens,
                text_tokens=transcription.text_tokens,
                output_tokens=transcription.output_tokens,
            ),
            warnings=_warnings(transcription),
        )


def _segments(transcription: Transcription, duration: float, temperature: float) -> tuple[Segment, ...]:
    """One segment over the whole utterance, none where nothing was said."""
    if not transcription.text:
        return ()
    return (
        Segment(
            start=0.0,
            end=duration,
            text=transcription.text,
            language=transcription.language,
            temperature=temperature,
            avg_logprob=transcription.avg_logprob,
        ),
    )


def _warnings(transcription: Transcription) -> tuple[TranscriptWarning, ...]:
    if transcription.finish_reason == "stop":
        return ()
    return (
        TranscriptWarning(
            "token_budget_exhausted",
            f"The text may be cut short: its budget of {transcription.output_tokens} tokens ran out before it ended. "
            "Send a larger max_new_tokens or a shorter recording.",
        ),
    )
