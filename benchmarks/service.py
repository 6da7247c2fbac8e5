"""Runs `make serve` as a user does, for benchmarks and end-to-end tests."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import requests

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180


class Service:
    """`make serve PORT=...` as a child process, its output in `log`."""

    def __init__(self, log: Path, **environment: str):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.process = subprocess.Popen(
            ["make", "serve", f"PORT={port}"],
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Return when HTTP answers. The model may still be loading; a transcription then waits for it."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if requests.get(f"{self.url}/v1/models", timeout=5).ok:
                    return
            except requests.ConnectionError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"the service did not start:\n{self.log.read_text()[-4000:]}")

    @property
    def dashboard_url(self) -> str:
        """Where `serve deploy` finds this service's cluster."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text().split("View the dashboard at", 1)[1])
        assert found
        return found[0]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> list[psutil.Process]:
        """End it; return what it had started and is still alive afterwards.

        SIGTERM goes to make alone, as a supervisor sends it; SIGINT to its process group, as a terminal's Ctrl-C does.
        """
        started = psutil.Process(self.process.pid).children(recursive=True)
        if how == signal.SIGINT:
            os.killpg(self.process.pid, how)
        else:
            self.process.send_signal(how)
        self.process.wait(60)
        _, alive = psutil.wait_procs(started, timeout=30)
        return alive
