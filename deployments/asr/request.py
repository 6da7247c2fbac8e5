"""What is handed to the engine. Free of torch: the event loop makes these."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from deployments.transcription.utterance import Delta, Transcription, Utterance


@dataclass(frozen=True, eq=False)
class Request:
    """An utterance, and where its result shall go."""

    utterance: Utterance
    future: "Future[Transcription]" = field(default_factory=Future)
    """Gets the `Transcription` or a `ServiceError`. Cancelling it takes the utterance out of the engine."""
    on_delta: Callable[[Delta], None] | None = None
    """Called with each piece of the text as it is decoded, in the engine's thread."""
    arrived_at: float = field(default_factory=time.monotonic)
