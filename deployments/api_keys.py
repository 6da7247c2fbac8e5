"""The keys that clients must send, as the operator writes them down."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

_COMMENT = re.compile(r"(?:^|\s)#[^\n]*")
_ENTRY = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64}):)?(?P<secret>[!-+\--9;-~]+)")  # what an HTTP header can carry


@dataclass(frozen=True)
class ApiKey:
    """One key. Its name is what log lines call it."""

    name: str
    secret: SecretStr


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Read `name:key` or bare `key` entries, separated by commas, blanks or line ends; `#` begins a comment.

    A bare key is called `key-1`, `key-2`, ... by its place. Keys hold no colon. Nothing but blanks and
    comments is no key.

    Raises:
        ValueError: an entry is no key. The message holds no part of it.
    """
    text = _COMMENT.sub("", text).strip()
    if not text:
        return ()
    entries = re.split(r"\s*,\s*|\s+", text.removesuffix(","))
    keys = []
    for number, entry in enumerate(entries, start=1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise ValueError(f"entry {number} is no API key: write `key` or `name:key`, in printable ASCII")
        keys.append(ApiKey(match["name"] or f"key-{number}", SecretStr(match["secret"])))
    return tuple(keys)


def read_api_keys(file: Path) -> tuple[ApiKey, ...]:
    """Read the keys in a file, written as for `parse_api_keys`.

    Raises:
        ValueError: as `parse_api_keys`, or the file cannot be read or holds no key.
    """
    try:
        keys = parse_api_keys(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ValueError(f"cannot read {file}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not keys:
        raise ValueError(f"{file} holds no API key")
    return keys
