"""The metrics as Prometheus finds them, on the endpoint of a real node; and when the service says that it is ready."""

import os
import re
import signal
import time
from collections.abc import Callable, Set

import psutil
import pytest
import ray
import requests
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from benchmarks.random_checkpoint import write_native
from deployments.app import build
from deployments.observation.metrics import ENGINE_METRICS, INGRESS_METRICS, RAY_METRICS, Metric
from deployments.observation.recorders import IngressMetrics
from deployments.observation.requests import RequestRecord
from deployments.settings import Settings
from tests.serve.test_application import _wav

Deploy = Callable[[Application], DeploymentHandle]
Labels = dict[str, str]

PATIENCE_S = 60.0
BY_SERVE = {"application", "deployment", "replica"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = write_native(tmp_path_factory.mktemp("models") / "random-asr", "tiny")
    return Settings(model=str(folder), max_utterance_s=10, max_duration_s=20, default_language="en")


def _scrape() -> dict[str, list[Labels]]:
    """Labels of every series of this node, by name."""
    (node,) = ray.nodes()
    text = requests.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10).text
    found: dict[str, list[Labels]] = {}
    for line in text.splitlines():
        if (series := re.match(r"(\w+)(?:\{(.*)\})? ", line)) and not line.startswith("#"):
            found.setdefault(series[1], []).append(dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', series[2] or "")))
    return found


def _wait_for(names: set[str], asked: Set[tuple[str, str, str]] = frozenset()) -> dict[str, list[Labels]]:
    """Scrape until all of these are there: each process hands over what it counted every ten seconds.

    Args:
        names: of series.
        asked: status, response format and streaming of requests that were counted.
    """
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        found = _scrape()
        counted = found.get("ray_asr_requests_total", [])
        missing_requests = asked - {(each["status"], each["response_format"], each["stream"]) for each in counted}
        missing = sorted(names - found.keys()), sorted(missing_requests)
        if not any(missing):
            return found
        assert time.monotonic() < ends_at, f"missing: {missing}; there are: {sorted(found)}"
        time.sleep(1.0)


def _series(metric: Metric) -> str:
    return metric.exported_name + ("_bucket" if metric.kind == "histogram" else "")


def test_what_is_exported_is_what_is_documented(deploy: Deploy, base_url: str, settings: Settings) -> None:
    deploy(build(settings))
    url = f"{base_url}/v1/audio/transcriptions"
    fields = {"model": "random-asr", "max_new_tokens": "8", "chunking_strategy": '{"type":"server_vad","threshold":0}'}
    for more, status in (({}, 200), ({"response_format": "srt"}, 200), ({"stream": "true"}, 200), ({"seed": "x"}, 400)):
        answer = requests.post(url, files={"file": _wav(2.0)}, data=fields | more, timeout=60)
        assert answer.status_code == status

    # Retries and guards act in no healthy request: what counts them is called below.
    quiet = {"asr_piece_retries_total", "asr_guard_actions_total"}
    metrics = [metric for metric in (*INGRESS_METRICS, *ENGINE_METRICS) if metric.name not in quiet]
    histograms = {"ray_serve_http_request_latency_ms", "ray_serve_actual_batch_size"}
    histograms |= {"ray_serve_event_loop_scheduling_latency_ms"}
    rays = {name + ("_bucket" if name in histograms else ""): labels for name, labels in RAY_METRICS.items()}
    asked = {
        ("200", "json", "false"),
        ("200", "srt", "false"),
        ("200", "json", "true"),
        ("400", "none", "false"),
    }
    found = _wait_for({_series(metric) for metric in metrics} | rays.keys(), asked)
    for metric in metrics:
        deployment = "ASR" if metric in ENGINE_METRICS else "Ingress"
        labels = [labels for labels in found[_series(metric)] if labels.get("application") == "test"]
        assert {each["deployment"] for each in labels} == {deployment}, metric.name
        assert all({*metric.labels, *BY_SERVE} <= each.keys() for each in labels), metric.name
    for name, names in rays.items():
        assert any(set(names) <= each.keys() for each in found[name]), f"{name} has {found[name][:1]}"
    routes = {each["route"] for each in found["ray_serve_num_http_requests_total"]}
    assert "/v1/audio/transcriptions" in routes


class Counting:
    """Counts what happens seldom."""

    def __init__(self) -> None:
        self._metrics = IngressMetrics()

    def count(self) -> None:
        self._metrics.guard_acted("repetition")
        self._metrics.piece_retried("replica_died")
        self._metrics.request_ended(RequestRecord(status=200, audio_s=2.0, total_s=1.0))


def test_what_happens_seldom_is_exported_too(deploy: Deploy) -> None:
    deploy(serve.deployment(Counting).bind()).count.remote().result(timeout_s=30)
    found = _wait_for({"ray_asr_guard_actions_total", "ray_asr_piece_retries_total"})
    assert {each["guard"] for each in found["ray_asr_guard_actions_total"]} >= {"repetition"}
    assert {each["reason"] for each in found["ray_asr_piece_retries_total"]} >= {"replica_died"}


def test_ready_only_while_the_model_is_there(deploy: Deploy, base_url: str, settings: Settings) -> None:
    deploy(build(settings))
    assert requests.get(f"{base_url}/ready", timeout=10).status_code == 200
    ours = psutil.Process().children(recursive=True)  # there may be other clusters on this machine
    (asr,) = [process for process in ours if "ServeReplica:test:ASR" in " ".join(process.cmdline())]
    os.kill(asr.pid, signal.SIGKILL)
    statuses: list[int] = []
    ends_at = time.monotonic() + PATIENCE_S
    while statuses[-1:] != [200] or 503 not in statuses:
        assert time.monotonic() < ends_at, statuses
        answer = requests.get(f"{base_url}/ready", timeout=10)
        statuses.append(answer.status_code)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "server_is_overloaded"
        assert requests.get(f"{base_url}/health", timeout=10).status_code == 200, "the HTTP side lives on"
        time.sleep(0.3)
    assert set(statuses) == {200, 503}
