"""The one exception tree of the service. `ingress/errors.py` is the one place that turns it into HTTP.

Every exception says what went wrong and what to do about it, and names the request field it is about (`param`) and
a machine-readable `code`, both as in OpenAI's error envelope. They cross process borders, so they pickle.
"""


class ServiceError(Exception):
    """Base of all errors this service raises on purpose.

    Attributes:
        message: one or two sentences for the caller; never a traceback, path or internal name.
        param: the request field at fault, or None.
        code: a stable identifier clients can branch on, or None.
    """

    default_code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code


class InvalidRequest(ServiceError):
    """The request as a whole, or one field of it, cannot be honoured as it was sent."""

    default_code = "invalid_value"


class InvalidAudio(InvalidRequest):
    """The uploaded file holds no audio that can be transcribed."""

    def __init__(self, message: str, *, param: str | None = "file", code: str | None = None):
        super().__init__(message, param=param, code=code)


class UnalignableLanguage(InvalidRequest):
    """Times of words were asked for in a language that the aligner cannot give them in."""

    default_code = "unsupported_language"

    def __init__(self, message: str, *, param: str | None = "timestamp_granularities", code: str | None = None):
        super().__init__(message, param=param, code=code)


class UploadTooLarge(ServiceError):
    """The request body has more bytes than the service takes."""

    default_code = "upload_too_large"


class UploadTimeout(ServiceError):
    """The request body does not come, or comes too slowly."""

    default_code = "upload_timeout"


class UnknownModel(ServiceError):
    """The requested model is not the one (or one of the aliases) this service serves."""

    default_code = "model_not_found"


class Unauthenticated(ServiceError):
    """The request has no API key, or one that is not configured."""


class EngineFailure(ServiceError):
    """The model could not transcribe this utterance although the request was valid."""

    default_code = "transcription_failed"


class ServiceUnavailable(ServiceError):
    """No replica can take the request now; the same request may succeed later.

    Attributes:
        retry_after_s: seconds after which the caller should try again.
    """

    default_code = "server_is_overloaded"

    def __init__(self, message: str, *, retry_after_s: int = 1, param: str | None = None, code: str | None = None):
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s


class ReplicaLost(ServiceUnavailable):
    """The replica that had the utterance has died or will not transcribe any more, and so has the one after it.

    An utterance that does this to every replica is not sent to more of them.
    """


class TooManyRequests(ServiceUnavailable):
    """As its base, where there are more requests than the service takes: fewer at a time would be answered."""

    default_code = "rate_limit_exceeded"


class DeadlineExceeded(ServiceError):
    """The request took longer than the service's deadline."""

    default_code = "deadline_exceeded"


class CheckpointError(Exception):
    """The configured model cannot be served. Stops the start; its text is one sentence for the operator."""
