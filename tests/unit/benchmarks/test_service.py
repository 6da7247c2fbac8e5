"""A service that will not end is ended; and its metrics are read."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import service
from benchmarks.service import Service, totals

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
print("started", flush=True)
time.sleep(60)
"""


def test_what_does_not_end_is_killed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def start_stubborn(_: object, **arguments: object) -> "subprocess.Popen[bytes]":
        return start([sys.executable, "-c", STUBBORN], **arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(service.subprocess, "Popen", start_stubborn)
    monkeypatch.setattr(service, "STOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr(service, "END_TIMEOUT_S", 0.2)
    running = Service(tmp_path / "log")
    while len(psutil.Process(running.process.pid).children()) < 1 or "started" not in running.log.read_text():
        time.sleep(0.01)
    time.sleep(0.3)  # until the child ignores the signal as well
    family = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children()]
    alive = running.stop(signal.SIGTERM)
    assert {process.pid for process in alive} == {process.pid for process in family}
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert running.stop() == [], "once more does no harm"


EXPOSITION = """
# HELP ray_asr_decode_steps_total Steps.
ray_asr_decode_steps_total{application="asr",replica="a"} 12.0
ray_asr_decode_steps_total{application="asr",replica="b"} 30.0
ray_asr_stage_seconds_total{replica="a",stage="encode"} 1.5
ray_asr_stage_seconds_total{replica="a",stage="decode"} 2.5
ray_asr_stage_seconds_total{replica="b",stage="decode"} 0.25
ray_asr_stage_seconds{replica="b",stage="decode"} 100.0
"""


def test_counters_are_summed_over_replicas_and_told_apart_by_labels() -> None:
    names = ("ray_asr_decode_steps_total", 'ray_asr_stage_seconds_total{stage="decode"}', "ray_asr_no_such_total")
    assert list(totals(EXPOSITION, names).values()) == [42.0, 2.75, 0.0]
