"""How an utterance ends: with its transcription, or with an error that its caller can act on."""

import contextlib
import logging
import time
from concurrent.futures import Future, InvalidStateError

from deployments.asr.prompt import Prompt
from deployments.asr.sequence import Sequence
from deployments.exceptions import EngineFailure, ServiceError
from deployments.transcription.utterance import FinishReason, Timings, Token, Transcription, Utterance

logger = logging.getLogger("ray.serve.asr")


def finish_reason(sequence: Sequence, prompt: Prompt) -> FinishReason | None:
    """Why the answer has ended; None where it goes on."""
    if sequence.answer[-1] in prompt.stop_ids:
        return "stop"
    if len(sequence.answer) == sequence.budget:
        return "length"
    return "repetition" if sequence.loops is not None and sequence.loops.found(sequence.answer) else None


def finish(sequence: Sequence, prompt: Prompt, reason: FinishReason) -> None:
    """Give an utterance its transcription."""
    options, answer = sequence.utterance.options, sequence.answer
    language, text = prompt.read_answer(answer, forced_language=options.language)
    transcription = Transcription(
        text=text,
        language=language,
        finish_reason=reason,
        audio_tokens=sequence.audio_tokens,
        text_tokens=len(sequence.prompt_ids) - sequence.audio_tokens,
        output_tokens=len(answer),
        avg_logprob=sum(sequence.logprobs) / len(answer),
        tokens=_tokens(sequence, prompt) if options.logprobs and text else (),
        timings=_timings(sequence),
    )
    if sequence.request.on_delta is not None and (rest := sequence.reader.finish(text)):
        sequence.request.on_delta(rest)
    with contextlib.suppress(InvalidStateError):  # cancelled this very moment
        sequence.future.set_result(transcription)


def _timings(sequence: Sequence) -> Timings:
    now = time.monotonic()
    began_at = now if sequence.first_token_at is None else sequence.first_token_at
    return Timings(
        queue_s=sequence.admitted_at - sequence.request.arrived_at,
        encode_s=sequence.encode_s,
        prefill_s=began_at - sequence.admitted_at - sequence.encode_s,
        decode_s=now - began_at,
    )


def _tokens(sequence: Sequence, prompt: Prompt) -> tuple[Token, ...]:
    """The tokens of the text, which are the last ones of the answer but for control tokens."""
    forced_language = sequence.utterance.options.language
    begins = prompt.text_begins(sequence.answer, forced_language=forced_language)
    pairs = zip(sequence.answer[begins:], sequence.logprobs[begins:], strict=True)
    tokens = (Token(prompt.token_bytes(token), logprob) for token, logprob in pairs)
    return tuple(token for token in tokens if token.data)


def fail(future: "Future[Transcription]", error: Exception, utterance: Utterance) -> None:
    """Give an utterance an error; one that is no `ServiceError` is logged and told as an `EngineFailure`."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(_service_error(error, utterance))


def result_of(future: "Future[Transcription]") -> Transcription | ServiceError:
    """Wait for either."""
    try:
        return future.result()
    except ServiceError as error:
        return error


def _service_error(error: Exception, utterance: Utterance) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    logger.error("an utterance of %.2f s could not be transcribed", utterance.duration, exc_info=error)
    return EngineFailure("The model failed on this recording; the failure has been logged. Try another recording.")
