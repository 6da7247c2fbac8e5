"""What a real service tells of itself: JSON logs, spans that arrive at a collector, and an autoscaler that decides."""

import gzip
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.service import ROOT, Service, haproxy
from tests.speech import ENGLISH

MODEL = "qwen3-asr-demo"
RECORDING = ENGLISH[0]
PATIENCE_S = 60.0
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.raw += body
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def of(self, trace: str, names: set[str]) -> dict[str, Span]:
        """The spans of a trace by name, once these are there."""
        ends_at = time.monotonic() + PATIENCE_S
        while True:
            found = {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace}
            if names <= found.keys():
                return found
            assert time.monotonic() < ends_at, f"missing: {names - found.keys()}; there are: {sorted(found)}"
            time.sleep(0.2)


@dataclass
class Observed:
    service: Service
    collector: Collector

    def ask(self, trace: str, **fields: str) -> requests.Response:
        answer = requests.post(
            f"{self.service.url}/v1/audio/transcriptions",
            files={"file": ("a-secret-name.flac", RECORDING.path.read_bytes())},
            data={"model": MODEL, "prompt": "a secret prompt"} | fields,
            headers={"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01", "x-request-id": f"id-of-{trace}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return answer

    @property
    def logs(self) -> Path:
        """The session's folder for the logs of Serve."""
        for process in self.service.processes():
            for file in process.open_files():
                if "replica_asr_Ingress" in file.path:
                    return Path(file.path).parent
        raise AssertionError("no replica writes a log")


@pytest.fixture(scope="module", params=["Serve's proxy", "HAProxy"])
def observed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    (autoscaled,) = yaml.safe_load(_block(SCALING, "yaml", "      - name: ASR"))
    ingress, _ = config["applications"][0]["deployments"]
    config["applications"][0]["deployments"] = [ingress, autoscaled]
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    collector = Collector()
    environment = dict(
        re.findall(r"^export (\w+)=(\S+)", _block(OPERATIONS, "sh", "export RAY_SERVE_TRACING"), re.MULTILINE)
    )
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": "0",  # the caller's own decision goes before it
    }
    assert "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH" in environment
    proxy = haproxy() if request.param == "HAProxy" else {}
    service = Service(
        folder / "log",
        "serve",
        folder / "config.yaml",
        **environment,
        **proxy,
    )
    try:
        service.wait_until_ready()
        yield Observed(service, collector)
    finally:
        service.stop()
        collector.close()


def _block(page: str, language: str, start: str) -> str:
    found = re.search(rf"```{language}\n({re.escape(start)}.*?)```", page, re.DOTALL)
    assert found
    return found[1]


def test_every_stage_has_its_span_in_the_callers_trace(observed: Observed) -> None:
    section = OPERATIONS[OPERATIONS.index("| span | where |") : OPERATIONS.index("export RAY_SERVE_TRACING")]
    names = {name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall("`(.*?)`", row)}
    assert len(names) > 8
    trace = secrets.token_hex(16)
    observed.ask(trace)
    serves_name = "replica_handle_request ASR transcribe"  # ends after its stages, so it may be sent a batch later
    spans = observed.collector.of(trace, names | {serves_name})
    serves = spans[serves_name]

    def parent(name: str) -> bytes:
        return spans[name].parent_span_id

    assert {parent(name) for name in ("queue", "encode", "prefill", "decode")} == {serves.span_id}
    assert parent("decode media") == parent("call") == spans["recognise"].span_id
    assert parent("receive") == parent("recognise") == parent("render")
    assert {a.key for a in serves.attributes} >= {"asr.audio_seconds", "asr.output_tokens"}
    assert spans["recognise"].start_time_unix_nano <= spans["call"].start_time_unix_nano <= serves.start_time_unix_nano


def test_a_stream_has_its_spans_too(observed: Observed) -> None:
    trace = secrets.token_hex(16)
    observed.ask(trace, stream="true")
    observed.collector.of(trace, {"receive", "recognise", "decode media", "call", "queue", "decode"})


def test_what_nobody_traces_is_not_sent(observed: Observed) -> None:
    requests.get(f"{observed.service.url}/v1/models", timeout=60)
    traced = secrets.token_hex(16)
    observed.ask(traced)
    observed.collector.of(traced, {"render"})
    assert {name for name in (span.name for span in observed.collector.spans) if "models" in name} == set()


def test_spans_hold_nothing_that_was_said(observed: Observed) -> None:
    trace = secrets.token_hex(16)
    text = observed.ask(trace, response_format="text").text.strip()
    observed.collector.of(trace, {"render", "decode"})
    assert text
    for secret in (text, "a secret prompt", "a-secret-name"):
        assert secret.encode() not in observed.collector.raw


def _lines(logs: Path, request_id: str) -> list[dict[str, Any]]:
    """The lines about a request in the log files, which are written as the requests end."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        found = [
            line
            for path in logs.glob("replica_asr_Ingress*.log")
            for line in map(json.loads, path.read_text(encoding="utf-8").splitlines())
            if line.get("request_id") == request_id
        ]
        if any(line["message"].startswith("transcription ") for line in found):
            return found
        assert time.monotonic() < ends_at, found
        time.sleep(0.2)


def test_the_log_has_a_json_line_for_each_request(observed: Observed) -> None:
    trace = secrets.token_hex(16)
    text = observed.ask(trace, response_format="text").text.strip()
    lines = _lines(observed.logs, f"id-of-{trace}")
    (ours,) = [line for line in lines if line["message"].startswith("transcription 200 text, ")]
    table = OPERATIONS[OPERATIONS.index("## Logs") : OPERATIONS.index("## Tracing")]
    keys = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall("`(.*?)`", row)}
    assert len(keys) > 15
    assert keys - ours.keys() == {"key", "transcript"}, "there are no API keys, and what was said stays out"
    assert (ours["model"], ours["status"], ours["language"]) == (MODEL, 200, "English")
    assert ours["total_seconds"] >= ours["recognise_seconds"] > 0
    for secret in (text, "a secret prompt", "a-secret-name"):
        assert secret not in json.dumps(lines)
        assert secret not in observed.service.log.read_text()


def test_the_autoscaler_runs_the_documented_policy(observed: Observed) -> None:
    """Ray Serve falls back to nothing: a policy that it cannot run leaves this without a value."""
    ports = json.loads((observed.logs.parents[1] / "prom_metrics_service_discovery.json").read_text())
    targets = {target for entry in ports for target in entry["targets"]}
    ends_at = time.monotonic() + PATIENCE_S
    name = "ray_serve_autoscaling_policy_execution_time_ms{"
    while True:
        series = [
            line
            for target in targets
            for line in requests.get(f"http://{target}/metrics", timeout=10).text.splitlines()
            if line.startswith(name) and 'deployment="ASR"' in line
        ]
        if series:
            break
        assert time.monotonic() < ends_at
        time.sleep(1)
    controller = "".join(path.read_text() for path in observed.logs.glob("controller_*.log"))
    assert "Using custom autoscaling policy 'deployments.autoscaling:AudioSecondsPolicy'" in controller
