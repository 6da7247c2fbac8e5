"""What `make serve` starts, changes in place and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from benchmarks.random_checkpoint import write_native
from benchmarks.service import ROOT, Service
from tests.speech import RECORDINGS


def _asr_replicas(service: Service) -> set[int]:
    processes = psutil.Process(service.process.pid).children(recursive=True)
    return {p.pid for p in processes if "ServeReplica:asr:ASR" in " ".join(p.cmdline())}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_everything_it_started_after_its_last_answer(tmp_path: Path, how: signal.Signals) -> None:
    # Another model by the environment alone, as a GPU owner does it.
    folder = write_native(tmp_path / "my-model", "tiny")
    service = Service(tmp_path / "log", ASR_MODEL=str(folder))
    url = f"{service.url}/v1/audio/transcriptions"
    upload = requests.Request(
        "POST", url, data={"model": "my-model"}, files={"file": RECORDINGS[0].path.read_bytes()}
    ).prepare()
    assert isinstance(upload.body, bytes)
    first, rest = upload.body[:5000], upload.body[5000:]
    begun = threading.Event()

    def body() -> Iterator[bytes]:
        yield first
        begun.set()
        while requests.post(url, data={"model": "no such"}, timeout=10).status_code != 503:  # until it takes nobody
            time.sleep(0.1)
        yield rest

    with ThreadPoolExecutor() as threads:
        try:
            service.wait_until_ready()
            assert f"Serving my-model from {folder}" in service.log.read_text()
            kind = {"content-type": upload.headers["content-type"]}
            answer = threads.submit(requests.post, url, data=body(), headers=kind, timeout=60)
            assert begun.wait(30)
            time.sleep(1)  # for the first bytes to get to the replica, which nothing tells
        finally:
            alive = service.stop(how)
        assert answer.result().status_code == 200
    assert alive == []


def test_batching_changes_in_place(service: Service, tmp_path: Path) -> None:
    replicas = _asr_replicas(service)
    assert len(replicas) == 1
    port = service.url.rsplit(":", 1)[1]
    config = yaml.safe_load((ROOT / ".build" / f"serve_config.{port}.yaml").read_text())
    (asr,) = [d for d in config["applications"][0]["deployments"] if d["name"] == "ASR"]
    asr["user_config"] = {"max_batch_size": 3, "batch_wait_timeout_s": 0.02}
    changed = tmp_path / "serve_config.yaml"
    changed.write_text(yaml.safe_dump(config))
    serve = Path(sys.executable).with_name("serve")
    subprocess.run(
        [serve, "deploy", "-a", service.dashboard_url, changed],
        check=True,
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "token"},  # of the local cluster, which `serve run` has made
        timeout=60,
    )
    service.wait_until_ready()
    assert _asr_replicas(service) == replicas


def test_a_model_that_is_not_there_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    service = Service(tmp_path / "log", ASR_MODEL=str(tmp_path))
    assert service.process.wait(60) != 0
    assert f"The folder '{tmp_path}' holds no checkpoint: it has no config.json." in service.log.read_text()
    assert "Traceback" not in service.log.read_text()


def test_a_port_in_use_is_told_in_one_sentence(service: Service, tmp_path: Path) -> None:
    port = service.url.rsplit(":", 1)[1]
    config = tmp_path / "serve_config.yaml"
    config.write_text((ROOT / "serve_config.yaml").read_text().replace("port: 8000", f"port: {port}"))
    second = subprocess.run(
        [sys.executable, "-m", "deployments.check", config],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert second.returncode == 1
    assert f":{port}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr
