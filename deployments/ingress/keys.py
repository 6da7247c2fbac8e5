"""API keys: who may use the routes under `/v1`."""

import hmac
import json
import uuid
from collections.abc import Sequence
from hashlib import sha256

from fastapi import Request
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api_keys import ApiKey
from deployments.exceptions import Unauthenticated
from deployments.ingress.errors import INVALID_REQUEST, answer_error, envelope

PROTECTED = "/v1"
_CLOSE_CODE = 3000
"""What OpenAI closes a WebSocket with that has no valid key; IANA calls it "unauthorized"."""
_SUBPROTOCOL = "realtime"
"""What browsers offer; those of OpenAI's clients offer the key as another one, which is never repeated."""
_MIN_CHARS_TO_SHOW = 16


class ApiKeyMiddleware:
    """Refuses requests under `/v1` that do not carry one of `keys` as a bearer token, before their body is read."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[ApiKey]) -> None:
        self.app = app
        self._digests = [(key.name, _digest(key.secret.get_secret_value())) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not _is_protected(scope):
            await self.app(scope, receive, send)
            return
        try:
            name = self._authenticate(Headers(scope=scope).get("authorization"))
        except Unauthenticated as error:
            if scope["type"] == "websocket":
                await _refuse_websocket(scope, receive, send, error)
                return
            response = await answer_error(Request(scope), error)
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["api_key_name"] = name
        await self.app(scope, receive, send)

    def _authenticate(self, authorization: str | None) -> str:
        """Return the name of the key in an `Authorization` header.

        Raises:
            Unauthenticated: there is no key in it, or another one.
        """
        scheme, _, sent = (authorization or "").partition(" ")
        sent = sent.strip()
        if scheme.lower() != "bearer" or not sent:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
            )
        digest = _digest(sent)
        # Digests have one length, and all are compared: the time tells neither how much of a key is right nor whose.
        names = [name for name, known in self._digests if hmac.compare_digest(known, digest)]
        if not names:
            raise Unauthenticated(f"Incorrect API key provided: {_masked(sent)}.", code="invalid_api_key")
        return names[0]


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send, error: Unauthenticated) -> None:
    """As OpenAI does: a client library shows what it was told and why it was closed, but hides a failed handshake."""
    await receive()  # that it wants to connect
    await send(
        {"type": "websocket.accept", "subprotocol": _SUBPROTOCOL if _SUBPROTOCOL in scope["subprotocols"] else None}
    )
    told = envelope(error.message, type=INVALID_REQUEST, code=error.code)["error"] | {"event_id": None}
    event = {"type": "error", "event_id": f"event_{uuid.uuid4().hex}", "error": told}
    await send({"type": "websocket.send", "text": json.dumps(event, separators=(",", ":"))})
    reason = f"{INVALID_REQUEST}.{error.code}" if error.code else INVALID_REQUEST
    await send({"type": "websocket.close", "code": _CLOSE_CODE, "reason": reason})


def _is_protected(scope: Scope) -> bool:
    path = get_route_path(scope)  # as the router sees it, whatever prefix the application is served under
    return path == PROTECTED or path.startswith(f"{PROTECTED}/")


def _digest(key: str) -> bytes:
    return sha256(key.encode()).digest()


def _masked(key: str) -> str:
    """Enough of a wrong key to recognise it by; nothing of a short one."""
    if len(key) < _MIN_CHARS_TO_SHOW or not (key.isascii() and key.isprintable()):
        return "****"
    return f"{key[:3]}****{key[-4:]}"
