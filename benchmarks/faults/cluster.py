"""A real Ray cluster on this machine, one raylet and its workers for each node, and the service deployed on it."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import psutil
import requests
import yaml

from benchmarks.service import ROOT, serve_environment

START_TIMEOUT_S = 120
_MARK = "FAULTS_NODE"
"""Environment variable that every process of a node inherits: some outlive their parents."""
_BIN = Path(sys.executable).parent
_STARTED = "Ray runtime started"
"""What `ray start` says once its node belongs to the cluster."""


class Node:
    """One raylet, on the head with the cluster's own services; with all workers that it starts."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path):
        self.name = name
        self._arguments = [str(_BIN / "ray"), "start", "--block", "--disable-usage-stats", *arguments]
        self._environment = os.environ | environment | {_MARK: f"{name}-{secrets.token_hex(8)}"}
        self._log = log
        self.start()

    def start(self) -> None:
        """Start it, again after `kill`."""
        self._process = subprocess.Popen(
            self._arguments,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Its living processes whose command lines hold `title`."""
        return [process for process in psutil.process_iter() if self._owns(process) and title in _title(process)]

    def kill(self) -> None:
        """SIGKILL to all of it, as when the machine goes."""
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)
        self._process.wait(10)

    def _owns(self, process: psutil.Process) -> bool:
        try:
            is_ours = process.environ().get(_MARK) == self._environment[_MARK]
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return False


class Cluster:
    """A head and any number of workers, which start and end with it as a context manager.

    Args:
        config: as `serve_config.yaml`; its `http_options` are replaced.
        head_cpus: what the head has for replicas.
        workers: CPUs of each further node; each also has the resource `worker`.
        keeps_state: the head keeps the cluster's state in a Redis of its own, and can be started again.
    """

    def __init__(
        self, config: dict[str, Any], *, head_cpus: float = 8, workers: Sequence[float] = (), keeps_state: bool = False
    ):
        self._head_cpus = head_cpus
        self._workers = workers
        self._folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self._token = secrets.token_hex(16)
        self._gcs, self._dashboard, self._port, self._redis_port = (free_port() for _ in range(4))
        self._worker_ports = [free_port() for _ in workers]
        self._keeps_state = keeps_state
        self._redis: subprocess.Popen[bytes] | None = None
        self._environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Its own: a head that was killed leaves a note there that the next Ray would take for a living cluster.
            "RAY_TMPDIR": str(self._folder),
            "RAY_raylet_start_wait_time_s": f"{START_TIMEOUT_S}",
            **serve_environment(),
        }
        self.config = config | {"http_options": {"host": "127.0.0.1", "port": self._port}}
        self.nodes: list[Node] = []
        """The head first."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        here = ["--node-ip-address", "127.0.0.1", "--object-store-memory", "200000000"]
        head = ["--head", "--port", str(self._gcs), "--num-cpus", f"{self._head_cpus:g}", *here]
        head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(self._dashboard)]
        state = {}
        if self._keeps_state:
            self._redis = _start_redis(self._redis_port, self._folder)
            state = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis_port}"}
        self._add("head", head, state)
        for i, cpus in enumerate(self._workers):
            worker = ["--address", f"127.0.0.1:{self._gcs}", "--num-cpus", f"{cpus:g}", *here]
            worker += ["--resources", json.dumps({"worker": 1})]
            self._add(f"worker-{i}", worker, {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self._worker_ports[i])})

    def _add(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        arguments = [*arguments, "--dashboard-agent-listen-port", str(free_port())]
        self.nodes.append(Node(name, arguments, self._environment | environment, self.log(name)))
        # One after the other: two that start at once on one machine may take each other's ports.
        self._wait_for(lambda: _STARTED in self.log(name).read_text(), name)

    def _stop(self) -> None:
        for node in self.nodes:
            node.kill()
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def head(self) -> Node:
        """The node with the cluster's own services, and Serve's controller."""
        return self.nodes[0]

    def start_head_again(self) -> None:
        """After it was killed, as a machine that comes back."""
        # Ray's note of a cluster that lives on this machine, which a new start would not go against.
        (self._folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        self.head.start()

    def log(self, name: str) -> Path:
        """Where a process of that name writes what it has to say."""
        return self._folder / f"{name}.log"

    def deploy(self, config: dict[str, Any] | None = None) -> None:
        """`serve deploy`; returns once the config is accepted.

        Raises:
            subprocess.CalledProcessError: it is not.
        """
        file = self._folder / "serve_config.yaml"
        file.write_text(yaml.safe_dump(config or self.config))
        subprocess.run(
            [_BIN / "serve", "deploy", "-a", f"http://127.0.0.1:{self._dashboard}", file],
            check=True,
            cwd=ROOT,
            env=os.environ | self._environment,
            capture_output=True,
            timeout=60,
        )

    def wait_until_running(self) -> None:
        """Return when every replica of the application runs."""
        self._wait_for(lambda: self.status("asr") == "RUNNING", "the application")

    def status(self, application: str) -> str:
        """What Serve says of the application; empty where it cannot be asked."""
        return str(self._applications().get(application, {}).get("status", ""))

    def replicas(self, deployment: str) -> list[int]:
        """Process ids of the running replicas of a deployment, as the controller sees them."""
        details = self._applications().get("asr", {}).get("deployments", {}).get(deployment, {})
        return [replica["pid"] for replica in details.get("replicas", ()) if replica["state"] == "RUNNING"]

    def node_of(self, pid: int) -> Node:
        """The node that a process runs on."""
        return next(node for node in self.nodes if any(process.pid == pid for process in node.processes()))

    def proxy_port(self, where: Literal["head", "worker"]) -> int:
        """Where the proxy of the head listens, or that of the first worker."""
        return self._port if where == "head" else self._worker_ports[0]

    def is_listening(self) -> bool:
        """Whether the head's proxy answers."""
        try:
            return requests.get(f"http://127.0.0.1:{self._port}/-/healthz", timeout=5).ok
        except requests.RequestException:
            return False

    def _applications(self) -> dict[str, Any]:
        applications: dict[str, Any] = (self._get("/api/serve/applications/") or {}).get("applications", {})
        return applications

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            response = requests.get(
                f"http://127.0.0.1:{self._dashboard}{path}",
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=5,
            )
            return response.json() if response.ok else None
        except (requests.RequestException, ValueError):
            return None

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                said = "\n".join(self.log(node.name).read_text()[-2000:] for node in self.nodes)
                raise TimeoutError(f"{what} did not start:\n{said}")
            time.sleep(0.5)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start_redis(port: int, folder: Path) -> "subprocess.Popen[bytes]":
    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("this fault needs redis-server (Debian: apt install redis-server)")
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=(folder / "redis.log").open("wb"),
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return process
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    raise TimeoutError("redis-server did not start")


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""
