"""What the fault benchmark starts, and how it counts."""

import pytest

from benchmarks import datasets
from benchmarks.faults.__main__ import COLUMNS, NAMES, Outcome
from benchmarks.faults.load import Call, End, failed_tries, is_right, longest_silence
from benchmarks.faults.scenarios import FAULTS, Fault
from tests import serve_config

RECORDING = datasets.read(datasets.DEMO)[0]


def call(sent_at: float, ended_at: float, end: End = "right", tries: tuple[str, ...] = ()) -> Call:
    return Call(RECORDING, stream=False, sent_at=sent_at, ended_at=ended_at, end=end, tries=list(tries), said="so")


CALLS = [
    call(0, 1),
    call(1, 5, tries=("503", "ConnectError")),
    call(2, 14.5),
    call(3, 9, "lost", ("503", "503", "503")),
    call(4, 15, "wrong"),
    call(5, 95, "hung"),
]


def test_the_row_of_an_outcome() -> None:
    outcome = Outcome("bad-luck", "the moon falls down", CALLS, hurt_at=2.5, whole_after_s=8.0)
    row = dict(zip(COLUMNS, outcome.row(), strict=True))
    assert row == {
        "fault": "bad-luck",
        "what happens": "the moon falls down",
        "requests": 6,
        "tries that failed": "4 × 503, 1 × ConnectError",
        "lost after the SDK's retries": 1,
        "wrong or hung": 2,
        "longest without an answer s": 9.5,
        "slowest answer s": 90,
        "whole again after s": 8.0,
    }
    assert [line.split(",")[1].split(" after")[0] for line in outcome.problems()] == [" lost", " wrong", " hung"]


def test_silence_begins_with_the_fault_and_ends_with_a_right_answer() -> None:
    assert longest_silence(CALLS, since=4.0) == 9.5
    assert longest_silence(CALLS, since=5.0) == 9.5
    assert longest_silence(CALLS[:1], since=5.0) == 0
    assert failed_tries(CALLS)["503"] == 4


def test_a_text_is_right_if_it_has_the_words() -> None:
    assert is_right(RECORDING, RECORDING.text.upper().rstrip("."))
    assert not is_right(RECORDING, RECORDING.text.replace(" ", " not ", 1))


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES) == len(FAULTS) + 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_is_done_to_a_service_that_can_be_deployed(fault: Fault) -> None:
    config = fault.config()
    serve_config.check(config)
    (application,) = config["applications"]
    replicas = {deployment["name"]: deployment["num_replicas"] for deployment in application["deployments"]}
    assert replicas == {"ASR": fault.asr, "Ingress": fault.ingress}
