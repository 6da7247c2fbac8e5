"""The fields of a transcription request: what OpenAI's contract allows, checked before any audio is touched.

A field is honoured, or refused with a message that names it; a field that no contract knows is ignored, as OpenAI's
API does, and named in a warning. Of several errors the first in this order is reported: model, file, fields that are
not supported, then the fields in the order of the contract.
"""

from dataclasses import dataclass
from typing import BinaryIO, Literal, get_args

from deployments.audio.speech import SpeechOptions
from deployments.exceptions import InvalidRequest, UnalignableLanguage, UnknownModel
from deployments.ingress import chunking
from deployments.ingress.fields import check_choice, read_boolean, read_integer, read_number
from deployments.ingress.multipart import Form, array_name, quoted
from deployments.served_model import ServedModel
from deployments.settings import Settings
from deployments.transcription.languages import resolve_language
from deployments.transcription.options import MAX_SEED, DecodingOptions
from deployments.transcription.transcript import TranscriptWarning
from deployments.transcription.words import WordTimes, check_alignable

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
RESPONSE_FORMATS: tuple[ResponseFormat, ...] = get_args(ResponseFormat)
STREAMED_FORMATS: tuple[ResponseFormat, ...] = ("json", "text")
TIMED_FORMATS: tuple[ResponseFormat, ...] = ("srt", "verbose_json", "vtt")

Granularity = Literal["segment", "word"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)

MAX_PROMPT_CHARS = 4000
"""Bounds the system turn of the model's prompt to some 1,000 tokens of English; OpenAI's models read 224 tokens."""
MAX_URL_CHARS = 2048
MAX_TEMPERATURE = 1.0
MAX_NEW_TOKENS = 4096
MAX_TOP_K = 1_000_000
MIN_REPETITION_PENALTY = 0.1
MAX_REPETITION_PENALTY = 2.0

UNSUPPORTED_ARRAYS = ("known_speaker_names", "known_speaker_references")
_KEYWORDS = ("keywords", "hotwords")
_ARRAYS = (*UNSUPPORTED_ARRAYS, *_KEYWORDS, "languages", "include", "timestamp_granularities")
_TOKEN_BUDGETS = ("max_new_tokens", "max_completion_tokens")
_TEXT_FIELDS = ("model", "url", "language", "prompt", "response_format", "temperature", "stream")
_SAMPLING = ("top_p", "top_k", "seed", "repetition_penalty")
KNOWN_FIELDS = {"file", *_TEXT_FIELDS, *_SAMPLING, *_TOKEN_BUDGETS, *_ARRAYS}
_MAX_UNKNOWN_NAMED = 8


@dataclass(frozen=True)
class TranscriptionRequest:
    """A valid request."""

    source: BinaryIO | str
    """The recording, open only as long as the form it came from, or the URL where it is."""
    options: DecodingOptions
    speech: SpeechOptions
    response_format: ResponseFormat
    granularities: frozenset[Granularity]
    """What verbose_json shall list."""
    stream: bool
    warnings: tuple[TranscriptWarning, ...]

    @property
    def word_times(self) -> WordTimes:
        """What the answer needs of them."""
        if "word" in self.granularities:
            return WordTimes.REQUIRED
        return WordTimes.WELCOME if self.response_format in TIMED_FORMATS else WordTimes.UNUSED


def transcription_request(form: Form, served: ServedModel, settings: Settings) -> TranscriptionRequest:
    """Check every field of `form`.

    Args:
        form: the parts of the request.
        served: the model that requests may name.
        settings: the language to force where the request names none, whether a URL may be sent, whether there is an
            aligner, and whether loops are stopped.

    Raises:
        InvalidRequest: a field is missing, invalid or not supported; `param` names it.
        UnknownModel: `model` is not served here.
    """
    requested_model(form, served)
    source = _source(form, url_input=settings.url_input)
    _refuse_unsupported(form)
    language, languages = _languages(form, settings.default_language)
    prompt = _context(form)
    response_format = _response_format(form)
    temperature = read_number(form, "temperature", low=0, high=MAX_TEMPERATURE)
    logprobs = _logprobs(form, response_format)
    granularities = _granularities(form, response_format, has_aligner=settings.aligner is not None)
    if "word" in granularities:
        _check_word_times(language, languages)
    stream = _stream(form, response_format)
    speech = chunking.read_chunking(form)
    top_p = read_number(form, "top_p", low=0, high=1, above_low=True)
    top_k = read_integer(form, "top_k", low=-1, high=MAX_TOP_K)
    seed = read_integer(form, "seed", low=0, high=MAX_SEED)
    penalty = read_number(form, "repetition_penalty", low=MIN_REPETITION_PENALTY, high=MAX_REPETITION_PENALTY)
    options = DecodingOptions(
        language=language,
        languages=languages,
        prompt=prompt,
        temperature=temperature or 0.0,
        top_p=1.0 if top_p is None else top_p,
        top_k=max(top_k or 0, 0),  # vLLM's -1 is 0 here
        seed=seed,
        repetition_penalty=1.0 if penalty is None else penalty,
        max_new_tokens=_token_budget(form),
        logprobs=logprobs,
        loop_detection=settings.loop_detection,
    )
    return TranscriptionRequest(source, options, speech, response_format, granularities, stream, _unknown_fields(form))


def requested_model(form: Form, served: ServedModel) -> str:
    """Return the id the client sent as `model`.

    Raises:
        InvalidRequest: it sent none.
        UnknownModel: it is not served here.
    """
    model = form.text("model")
    if not model:
        raise InvalidRequest("you must provide a model parameter", param="model", code="missing_required_parameter")
    if model not in served.ids:
        raise UnknownModel(
            f"The model `{quoted(model)[1:-1]}` does not exist or you do not have access to it.", param="model"
        )
    return model


def _source(form: Form, *, url_input: bool) -> BinaryIO | str:
    file = form.file("file")
    url = form.text("url", max_chars=MAX_URL_CHARS)
    if url is None:
        if file is None:
            raise InvalidRequest(
                "you must provide a file: the recording to transcribe",
                param="file",
                code="missing_required_parameter",
            )
        return file
    if not url_input:
        raise InvalidRequest(
            "'url' is not enabled on this server; send the recording as 'file'.", param="url", code="unsupported_value"
        )
    if file is not None:
        raise InvalidRequest("Send either 'file' or 'url', not both.", param="url")
    return url


def _refuse_unsupported(form: Form) -> None:
    for name in form.names:
        base = array_name(name)
        if base in UNSUPPORTED_ARRAYS:
            raise InvalidRequest(
                f"'{base}' is not supported by this service, which does not tell speakers apart; leave it out.",
                param=base,
                code="unsupported_value",
            )


def _languages(form: Form, default: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The language to force, and those that may be detected where none is forced."""
    language = resolve_language(form.text("language"))
    allowed = []
    for value in form.texts("languages"):
        name = resolve_language(value, param="languages", code="invalid_value")
        if name is None:
            raise InvalidRequest(
                f"Invalid languages[] {quoted(value)}: name a language, or leave the field out for all.",
                param="languages",
            )
        allowed.append(name)
    if language is not None and allowed and language not in allowed:
        raise InvalidRequest(f"'language' asks for {language}, which 'languages' does not list.", param="languages")
    if language is None and not allowed:
        language = default
    return language, tuple(dict.fromkeys(allowed))


def _check_word_times(language: str | None, languages: tuple[str, ...]) -> None:
    """Raise `UnalignableLanguage` where it is certain that there can be no word times: in all that may be heard."""
    candidates = (language,) if language is not None else languages
    refusals: list[UnalignableLanguage] = []
    for candidate in candidates:
        try:
            check_alignable(candidate)
        except UnalignableLanguage as error:
            refusals.append(error)
    if refusals and len(refusals) == len(candidates):
        raise refusals[0]


def _context(form: Form) -> str:
    """The prompt, and under it the terms to expect: one line, with commas between them."""
    prompt = form.text("prompt", max_chars=MAX_PROMPT_CHARS) or ""
    terms = []
    for name in _KEYWORDS:
        terms += [" ".join(value.split()) for value in form.texts(name, max_chars=MAX_PROMPT_CHARS)]
        keywords = ", ".join(filter(None, terms))
        if len(prompt) + len(keywords) > MAX_PROMPT_CHARS:
            raise InvalidRequest(
                f"'{name}' is too long: with 'prompt' it may have {MAX_PROMPT_CHARS} characters.", param=name
            )
    return "\n".join(filter(None, (prompt, keywords)))


def _response_format(form: Form) -> ResponseFormat:
    value = form.text("response_format")
    if value is None:
        return "json"
    if value == "diarized_json":
        raise InvalidRequest(
            "response_format 'diarized_json' is not supported by this service, which does not tell speakers apart. "
            "Use 'verbose_json' instead.",
            param="response_format",
            code="unsupported_value",
        )
    return check_choice("response_format", value, RESPONSE_FORMATS)


def _logprobs(form: Form, response_format: ResponseFormat) -> bool:
    included = [check_choice("include[]", value, ("logprobs",)) for value in form.texts("include")]
    if included and response_format != "json":
        raise InvalidRequest("include[] 'logprobs' requires response_format 'json'.", param="include")
    return bool(included)


def _granularities(form: Form, response_format: ResponseFormat, *, has_aligner: bool) -> frozenset[Granularity]:
    """What to list in verbose_json. Words need an aligner: no time is ever invented."""
    name = "timestamp_granularities"
    granularities = [check_choice(f"{name}[]", value, GRANULARITIES) for value in form.texts(name)]
    if "word" in granularities and not has_aligner:
        raise InvalidRequest(
            "timestamp_granularities[] 'word' needs an aligner, and this server was started without one. "
            "Use 'segment' instead.",
            param=name,
            code="word_times_unavailable",
        )
    if granularities and response_format != "verbose_json":
        raise InvalidRequest("timestamp_granularities[] requires response_format 'verbose_json'.", param=name)
    return frozenset(granularities or ("segment",))


def _stream(form: Form, response_format: ResponseFormat) -> bool:
    stream = read_boolean(form, "stream")
    if stream and response_format not in STREAMED_FORMATS:
        raise InvalidRequest(
            f"response_format '{response_format}' cannot be streamed. Use 'json' or 'text' with stream=true.",
            param="response_format",
            code="unsupported_value",
        )
    return stream


def _token_budget(form: Form) -> int | None:
    budgets = {name: read_integer(form, name, low=1, high=MAX_NEW_TOKENS) for name in _TOKEN_BUDGETS}
    sent = {name: budget for name, budget in budgets.items() if budget is not None}
    if len(sent) > 1:
        raise InvalidRequest(
            "'max_new_tokens' and 'max_completion_tokens' mean the same; send one.", param="max_completion_tokens"
        )
    return next(iter(sent.values()), None)


def _is_known(name: str) -> bool:
    return name in KNOWN_FIELDS or array_name(name) in _ARRAYS or chunking.is_chunking(name)


def _unknown_fields(form: Form) -> tuple[TranscriptWarning, ...]:
    unknown = [name for name in form.names if not _is_known(name)]
    messages = [f"The unknown field {quoted(name)} was ignored." for name in unknown[:_MAX_UNKNOWN_NAMED]]
    if len(unknown) > _MAX_UNKNOWN_NAMED:
        messages.append(f"{len(unknown) - _MAX_UNKNOWN_NAMED} more unknown fields were ignored.")
    return tuple(TranscriptWarning("unknown_field", message) for message in messages)
