"""Runs `make serve` as a user does, for benchmarks and end-to-end tests."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psutil
import requests

from deployments.settings import ENVIRONMENT_PREFIX

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 60
"""For make itself."""
END_TIMEOUT_S = 30
"""For what it started, after that."""
METRICS_EVERY_S = 10
"""Ray's processes hand over what they counted so often."""

Target = Literal["serve", "baseline", "null-engine"]
"""What make starts: this project's service, what it is compared with (`benchmarks/baseline.py`), or the service without
a model (`benchmarks/fast_path/null_engine.py`)."""


def settings_in_environment() -> dict[str, str]:
    """The settings that a service started from here gets (`ASR_MODEL`, ...)."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(ENVIRONMENT_PREFIX)}


def serve_environment() -> dict[str, str]:
    """What `make serve` puts into the environment for Ray Serve (`serve.env`)."""
    lines = (ROOT / "serve.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line.startswith("RAY_"))


def free_port() -> int:
    """One that nobody listens on at 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def haproxy() -> dict[str, str]:
    """The environment of a service with HAProxy in the place of Serve's proxy, beside others on the same machine."""
    ports = ("HAPROXY_METRICS_PORT", "HAPROXY_STATS_PORT", "FALLBACK_PROXY_HTTP_PORT")
    return {"RAY_SERVE_ENABLE_HA_PROXY": "1"} | {f"RAY_SERVE_{name}": str(free_port()) for name in ports}


class Service:
    """`make serve PORT=...` (or another target) as a child process, its output in `log`.

    Keyword arguments are settings as in the environment: `ASR_MODEL="..."`. Leaving it as a context manager ends it.

    Args:
        log: file for its output.
        target: what make starts.
        config: the config file, in place of `serve_config.yaml`.
    """

    def __init__(self, log: Path, target: Target = "serve", config: Path | None = None, /, **environment: str):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.process = subprocess.Popen(
            ["make", target, f"PORT={port}", *([f"CONFIG={config}"] if config is not None else [])],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs us in the background has children ignore Ctrl-C; this one shall heed it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Return when HTTP answers. The model may still be loading; a transcription then waits for it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/v1/models", timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()[-4000:]}")

    @property
    def dashboard_url(self) -> str:
        """Where `serve deploy` finds this service's cluster."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text().split("View the dashboard at", 1)[1])
        assert found
        return found[0]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        return [process for process in self.processes() if f"ServeReplica:asr:{deployment}" in _title(process)]

    def proxy(self) -> psutil.Process:
        """The process of its HTTP proxy."""
        (proxy,) = (process for process in self.processes() if "ProxyActor" in _title(process))
        return proxy

    def processor_s(self) -> float:
        """Seconds of processor time that all its living processes have taken."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def counters(self, *names: str) -> dict[str, float]:
        """Metrics as exported now, summed over replicas; processes hand them over every `METRICS_EVERY_S`.

        Args:
            names: of series, with labels that they must have: `ray_asr_stage_seconds_total{stage="decode"}`.
        """
        return totals(self._metrics(), names)

    def _metrics(self) -> str:
        """What Prometheus is given by the node and the services of its cluster."""
        folders = [re.search(r"--session[-_]dir=(\S+)", _title(process)) for process in self.processes()]
        folder = Path(next(found[1] for found in folders if found))
        jobs = json.loads((folder / "prom_metrics_service_discovery.json").read_text())
        texts = []
        for target in [target for job in jobs for target in job["targets"]]:
            with contextlib.suppress(requests.RequestException):  # not all of them serve metrics in every version
                texts.append(requests.get(f"http://{target}/metrics", timeout=10).text)
        return "\n".join(texts)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[psutil.Process]:
        """End it; return what it had started and is still alive afterwards, which is then killed.

        SIGTERM goes to make alone, as a supervisor sends it; SIGINT to its process group, as a terminal's Ctrl-C does.
        """
        if self.process.poll() is None:
            if how == signal.SIGINT:
                os.killpg(self.process.pid, how)
            else:
                self.process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        psutil.wait_procs(self.processes(), timeout=END_TIMEOUT_S)
        alive = self.processes()
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=10)
        self.process.wait(10)
        return alive

    def processes(self) -> list[psutil.Process]:
        """Every living process of the session that make leads, also those whose parents are gone."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return False


def totals(exposition: str, names: Iterable[str]) -> dict[str, float]:
    """The sum of each counter over all series of that name in a text for Prometheus; see `Service.counters`."""
    found = dict.fromkeys(names, 0.0)
    for line in exposition.splitlines():
        series, _, value = line.rpartition(" ")
        for name in found:
            bare, _, label = name.rstrip("}").partition("{")
            if series.startswith(f"{bare}{{") and label in series:
                found[name] += float(value)
    return found


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def serving(settings: Mapping[str, str], config: Path | None = None) -> Iterator[Service]:
    """A service of its own, ready, for as long as the context lasts."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(Path(folder) / "log", "serve", config, **settings) as service,
    ):
        service.wait_until_ready()
        yield service
