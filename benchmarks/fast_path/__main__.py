"""What the service costs beside the model: added latency, and requests a second per core.

    python -m benchmarks.fast_path
    python -m benchmarks.fast_path --ways bare haproxy --seconds 3 30
    python -m benchmarks.fast_path parts

An engine that answers at once stands behind the real ingress and the real ASR deployment: by uvicorn alone in one
process (`bare`), through Ray Serve's proxy, and through HAProxy. *Added* is the latency beyond that of the first. The
processor time is that of all processes of the service, Ray's included, and not that of the client, which shares the
machine: requests a second per core are those for which one core would be busy all the time.

`parts` measures where the time of one request goes, by OpenTelemetry spans, which cost some of it themselves.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from benchmarks import clips, machine, results
from benchmarks.client import percentile
from benchmarks.fast_path import client, spans
from benchmarks.results import Cell
from benchmarks.service import ROOT, START_TIMEOUT_S, Service, free_port, haproxy

COLUMNS = [
    "way",
    "audio s",
    "p50 ms",
    "p95 ms",
    "added p50 ms",
    "added p95 ms",
    "requests/s, 16 at once",
    "CPU ms a request",
    "requests/s per core",
]
PART_COLUMNS = ["part", "audio s", "uvicorn alone ms", "Serve's proxy ms", "HAProxy ms"]
CONNECTIONS = 16
WARM_UP_S = 3.0
PARTS = {
    "proxy_http_request Ingress POST /v1/audio/transcriptions": "Serve's proxy and all that follows",
    "replica_handle_request Ingress __call__": "the ingress replica, all of it",
    "receive": "reading and checking the form",
    "recognise": "from audio to transcript, all of it",
    "decode": "of that: decoding the file",
    "find speech, join": "of that: finding speech, cutting, joining",
    "call": "of that: the call of the model",
    "to the model and back": "of the call: the way there and back",
    "render": "rendering the answer",
}
"""Spans in the order of the table, and what they are called there."""

HAPROXY = haproxy()
SETTINGS = {"ASR_MAX_UTTERANCE_S": "30"}
"""As for every released model: a clip is one utterance, and so one call of the engine."""


@dataclass(frozen=True)
class Way:
    """One way to run the application."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """What differs from serve_config.yaml."""
    batching: dict[str, Any] = field(default_factory=dict)
    """The `user_config` of ASR, where it differs."""


WAYS = {
    "bare": Way("uvicorn alone"),
    "proxy": Way("Serve's proxy"),
    "haproxy": Way("HAProxy", HAPROXY),
    "no-access-log": Way("HAProxy, no access log", HAPROXY, {"logging_config": {"enable_access_log": False}}),
    "text-log": Way("HAProxy, text in place of JSON", HAPROXY, {"logging_config": {"encoding": "TEXT"}}),
    "no-log": Way(
        "HAProxy, warnings only",
        HAPROXY | {"RAY_SERVE_LOG_TO_STDERR": "0"},
        {"logging_config": {"enable_access_log": False, "log_level": "WARNING"}},
    ),
    "wait": Way("HAProxy, batch_wait_timeout_s: 0.01", HAPROXY, batching={"batch_wait_timeout_s": 0.01}),
}


def main() -> None:
    """Measure, print a table, and save it where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fast_path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("latency", "parts"), default="latency")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["bare", "proxy", "haproxy"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0], help="of audio")
    parser.add_argument("--measure-s", type=float, default=10.0, help="each figure takes so long")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    columns, rows = (PART_COLUMNS, _parts(arguments)) if arguments.what == "parts" else (COLUMNS, _latency(arguments))
    print(results.table(columns, rows))
    if arguments.save:
        print(results.save(arguments.save, results.command_line("benchmarks.fast_path"), {**SETTINGS}, columns, rows))


def _latency(arguments: argparse.Namespace) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    alone: dict[float, tuple[float, float]] = {}
    for key in arguments.ways:
        with _running(WAYS[key]) as (url, pid):
            for seconds in arguments.seconds:
                measured = asyncio.run(_measure(url, pid, seconds, arguments.measure_s))
                p50, p95, *rest = measured
                if key == "bare":
                    alone[seconds] = p50, p95
                base = alone.get(seconds)
                added: list[Cell] = [p50 - base[0], p95 - base[1]] if base and key != "bare" else [None, None]
                rows.append([WAYS[key].name, seconds, p50, p95, *added, *rest])
                print(*rows[-1], flush=True)
    return rows


async def _measure(url: str, pid: int, seconds: float, measure_s: float) -> tuple[float, float, float, float, float]:
    """p50 and p95 in ms of one request at a time; then, of many, requests a second, CPU ms for each, and per core."""
    request = client.request_bytes(url, clips.spoken(seconds).upload)
    await client.load(url, request, connections=CONNECTIONS, seconds=WARM_UP_S)
    await client.load(url, request, connections=1, seconds=WARM_UP_S)
    alone = await client.load(url, request, connections=1, seconds=measure_s)
    used = _processor_seconds(pid)
    crowd = await client.load(url, request, connections=CONNECTIONS, seconds=measure_s)
    used = _processor_seconds(pid) - used
    p50, p95 = percentile(alone.latencies_s, 50), percentile(alone.latencies_s, 95)
    if p50 is None or p95 is None:
        raise RuntimeError(f"{measure_s} s are too few for one request")
    answered = len(crowd.latencies_s)
    return 1000 * p50, 1000 * p95, answered / crowd.took_s, 1000 * used / answered, answered / used


def _processor_seconds(session: int) -> float:
    """Of every process of the session that `session` leads."""
    spent = 0.0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getsid(process.pid) == session:
                times = process.cpu_times()
                spent += times.user + times.system
    return spent


def _parts(arguments: argparse.Namespace) -> list[list[Cell]]:
    """Median lengths of the spans of one request at a time."""
    found: dict[tuple[str, float], dict[str, float]] = {}
    for key in ("bare", "proxy", "haproxy"):
        with tempfile.TemporaryDirectory() as folder:
            # In the environment, since Serve's proxies do not get the config file's `tracing_config`.
            tracing = {
                "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "benchmarks.fast_path.spans:write_spans",
                "RAY_SERVE_TRACING_SAMPLING_RATIO": "1",
                spans.FOLDER: folder,
            }
            way = Way(WAYS[key].name, WAYS[key].environment | tracing)
            with _running(way, alone=key == "bare") as (url, _):
                for seconds in arguments.seconds:
                    request = client.request_bytes(url, clips.spoken(seconds).upload)
                    asyncio.run(client.load(url, request, connections=1, seconds=WARM_UP_S))
                    load = asyncio.run(client.load(url, request, connections=1, seconds=arguments.measure_s))
                    time.sleep(1)  # the last spans end after their answer
                    found[key, seconds] = spans.milliseconds(Path(folder), len(load.latencies_s))
                    print(WAYS[key].name, seconds, found[key, seconds], flush=True)
    return [
        [called, seconds, *(found[key, seconds].get(name) for key in ("bare", "proxy", "haproxy"))]
        for seconds in arguments.seconds
        for name, called in PARTS.items()
    ]


@contextlib.contextmanager
def _running(way: Way, *, alone: bool = False) -> Iterator[tuple[str, int]]:
    """The application, its URL and the process that leads all of its processes."""
    environment = SETTINGS | way.environment
    if alone or way == WAYS["bare"]:
        with bare(environment) as running:
            yield running
        return
    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        for section, changes in way.config.items():
            config[section] = config.get(section, {}) | changes
        for deployment in config["applications"][0]["deployments"]:
            if deployment["name"] == "ASR":
                deployment["user_config"] |= way.batching
        file = Path(folder) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        with Service(Path(folder) / "log", "null-engine", file, **environment) as service:
            service.wait_until_ready()
            yield service.url, service.process.pid


@contextlib.contextmanager
def bare(environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """The application by uvicorn alone: its URL and its process."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fast_path.null_engine", str(port)],
        cwd=ROOT,
        env=os.environ | environment,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{url}/health", timeout=5)
                break
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
