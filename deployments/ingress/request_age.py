"""How long a request has been on its way when a second ingress replica gets it: its deadline is the first one's."""

import re

from starlette.datastructures import Headers

AGE_HEADER = "x-asr-request-age-seconds"
"""Written by our part of Serve's proxy. A client that sends it shortens its own deadline, and nobody else's."""
_SECONDS = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")


def age_of(headers: Headers) -> float:
    """Seconds; 0 where nothing, or nonsense, is said."""
    told = headers.get(AGE_HEADER, "")
    return float(told) if _SECONDS.fullmatch(told) else 0.0
