"""A `multipart/form-data` body as named parts: what was sent under which name, not yet what it means."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from deployments.exceptions import InvalidRequest

MAX_FIELDS = 1000
"""Each value of an array is a field: hundreds of `keywords[]` are no attack."""
MAX_FILES = 8
"""One file is used; the others are let in so that the refusal can name them."""
MAX_FIELD_BYTES = 1024 * 1024
MAX_TEXT_CHARS = 256
"""Longest value of a field that is not free text. Values are quoted in error messages, so they are bounded."""
_MAX_QUOTED_CHARS = 64
_ARRAY_BRACKETS = re.compile(r"\[[0-9]{0,4}\]\Z")


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator["Form"]:
    """Read the whole body; files over 1 MiB are spooled to disk, all are closed when the context ends.

    Raises:
        InvalidRequest: the body is not a complete, well-formed multipart form.
        UploadTooLarge, UploadTimeout: from `UploadLimitMiddleware`.
        ClientDisconnect: the client has gone.
    """
    boundary = _require_multipart(request.headers.get("content-type"))
    body = _TailKeeper(request.receive)
    try:
        form = await Request(request.scope, body.receive).form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
    except HTTPException as error:
        raise InvalidRequest(f"Could not parse multipart form: {error.detail}") from None
    try:
        # The parser takes a body that was cut off for one that is complete, and what was cut off would be lost.
        if b"--" + boundary + b"--" not in body.tail:
            raise InvalidRequest("Could not parse multipart form: its end is missing. Send the whole body.")
        yield Form(form)
    finally:
        await form.close()


class _TailKeeper:
    """Passes a body through and keeps its last bytes."""

    _BYTES = 1024  # a boundary has at most 70; the rest is room for an epilogue

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.tail = b""

    async def receive(self) -> Message:
        message = await self._receive()
        self.tail = (self.tail + message.get("body", b"")[-self._BYTES :])[-self._BYTES :]
        return message


def _require_multipart(content_type: str | None) -> bytes:
    """Return the boundary between the parts."""
    kind, parameters = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        sent = f"not {quoted(content_type)}" if content_type else "and the request has no Content-Type"
        raise InvalidRequest(f"The request body must be multipart/form-data, {sent}.")
    # RFC 7578 fixes UTF-8. Other codecs of Python's would be tried, of which some fail and some make lone surrogates.
    if parameters.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8", b"us-ascii"):
        raise InvalidRequest("Could not parse multipart form: the charset must be utf-8.")
    return parameters.get(b"boundary", b"")


class Form:
    """The parts of a form by name. Every accessor refuses parts of the wrong kind or number."""

    def __init__(self, form: FormData) -> None:
        self._form = form

    async def close(self) -> None:
        """Close the files before the context ends; their spooled content is deleted."""
        await self._form.close()

    @property
    def names(self) -> list[str]:
        """Each name once, in the order of first appearance."""
        return list(dict.fromkeys(name for name, _ in self._form.multi_items()))

    def text(self, name: str, *, max_chars: int = MAX_TEXT_CHARS) -> str | None:
        """Return the value of a text field, or None where it was not sent.

        Raises:
            InvalidRequest: it was sent twice, as a file, or is too long.
        """
        part = self._single(name)
        return None if part is None else _text(name, part, max_chars)

    def texts(self, name: str, *, max_chars: int = MAX_TEXT_CHARS) -> list[str]:
        """Return the values of an array field, each value its own part, however `array_name` finds it spelt."""
        parts = [part for key, part in self._form.multi_items() if array_name(key) == name]
        return [_text(name, part, max_chars) for part in parts]

    def file(self, name: str) -> BinaryIO | None:
        """Return the content of an uploaded file, at its start and not empty, or None where it was not sent.

        Raises:
            InvalidRequest: it was sent twice, as text, or holds no bytes.
        """
        part = self._single(name)
        if part is None:
            return None
        if not isinstance(part, UploadFile):
            raise InvalidRequest(f"'{name}' must be an uploaded file: a form part with a filename.", param=name)
        if not part.size:
            raise InvalidRequest("The uploaded file is empty.", param=name)
        return part.file

    def _single(self, name: str) -> str | UploadFile | None:
        parts = self._form.getlist(name)
        if len(parts) > 1:
            raise InvalidRequest(f"'{name}' was sent {len(parts)} times; send it once.", param=name)
        return parts[0] if parts else None


def array_name(name: str) -> str:
    """The array that a part belongs to: sent as `name[]` (the SDKs), as `name`, or as `name[0]`, `name[1]`."""
    return _ARRAY_BRACKETS.sub("", name)


def _text(name: str, part: str | UploadFile, max_chars: int) -> str:
    if isinstance(part, UploadFile):
        raise InvalidRequest(f"'{name}' must be a text field, not an uploaded file.", param=name)
    if len(part) > max_chars:
        raise InvalidRequest(
            f"'{name}' is too long: {len(part)} characters, at most {max_chars} are allowed.", param=name
        )
    return part


def quoted(value: str) -> str:
    """The value as a message shows it: in quotes, control characters escaped, shortened."""
    return repr(value if len(value) <= _MAX_QUOTED_CHARS else value[:_MAX_QUOTED_CHARS] + "…")
