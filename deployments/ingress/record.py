"""Keeps the record of each transcription request from its first byte to the last of its answer."""

import time
from collections.abc import Callable

from starlette._utils import get_route_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.observation.requests import CLIENT_GONE, RequestRecord, keeping, log_request

TRANSCRIPTIONS = "/v1/audio/transcriptions"


class RecordMiddleware:
    """Keeps a record of each transcription request, logs it when it has ended, and tells `on_end`.

    Args:
        app: the application to wrap.
        model: the served model's id.
        on_end: is called once for each request, on the event loop.
        log_transcripts: whether what was said may stand in the log.
    """

    def __init__(
        self, app: ASGIApp, *, model: str, on_end: Callable[[RequestRecord], None], log_transcripts: bool = False
    ) -> None:
        self.app = app
        self._model = model
        self._on_end = on_end
        self._log_transcripts = log_transcripts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or get_route_path(scope) != TRANSCRIPTIONS:
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        record = RequestRecord(request_id=state.get("request_id", "-"), model=self._model)
        status = CLIENT_GONE

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            # Noted before it is sent: a server ends those it has an early refusal for while that goes out.
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    record.status = status
            elif not message.get("more_body", False) and record.status == CLIENT_GONE:
                record.status = status
            await send(message)

        began_at = time.monotonic()
        try:
            with keeping(record):
                await self.app(scope, receive, send_noting_status)
        except Exception:
            record.status = 500
            raise
        finally:
            record.total_s = time.monotonic() - began_at
            record.key = state.get("api_key_name")
            log_request(record, with_transcript=self._log_transcripts)
            self._on_end(record)
