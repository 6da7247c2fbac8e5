"""The soak sends what it says, and knows right answers from wrong ones."""

import io
import mmap
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import benchmarks.soak.__main__ as soak
from benchmarks.fast_path.__main__ import bare
from benchmarks.fast_path.null_engine import TEXT, NullRecognizer
from benchmarks.soak import memory
from benchmarks.soak.cases import FORMS, Case, Form, Recording, make_case, recordings
from benchmarks.soak.client import HUNG_UP, REFUSED, RIGHT, WRONG, Client
from benchmarks.soak.memory import Growth, Memory
from deployments.audio.decode import decode
from deployments.exceptions import InvalidAudio
from deployments.ingress.api import create_app
from deployments.transcription.transcriber import Transcriber
from tests.api.fakes import Service, served


@pytest.fixture(scope="module")
def known() -> list[Recording]:
    return recordings(many=8)


class Refusing:
    """The application behind something that first refuses `times` requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.times = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.times == 0:
            await self.app(scope, receive, send)
            return
        self.times -= 1
        error = {"message": "Not now.", "type": "service_unavailable_error", "param": None, "code": None}
        await JSONResponse({"error": error}, 503, {"retry-after-ms": "1"})(scope, receive, send)


@pytest.fixture
async def service() -> AsyncIterator[tuple[Client, Refusing]]:
    """The real application around an engine that always says the same."""
    fakes = Service()
    transcriber = Transcriber(NullRecognizer(), max_utterance_s=60, window=8)
    refusing = Refusing(create_app(transcriber, fakes.settings, fakes.model))
    fakes.app = refusing  # type: ignore[assignment]
    async with served(fakes) as port:
        client = Client(f"http://127.0.0.1:{port}/v1")
        yield client, refusing
        await client.close()


def test_cases_follow_from_their_number(known: list[Recording]) -> None:
    assert recordings(many=8) == known
    cases = [make_case(number, known) for number in range(2000)]
    assert cases == [make_case(number, known) for number in range(2000)]
    bad = sum(case.recording is None for case in cases) / len(cases)
    hung_up = sum(case.hangs_up_after_s is not None for case in cases) / len(cases)
    assert 0.03 < bad < 0.07
    assert 0.05 < hung_up < 0.09
    assert Counter(case.form for case in cases).keys() == FORMS.keys()
    smooth = [make_case(number, known, smooth=True) for number in range(200)]
    assert all(case.recording is not None and case.hangs_up_after_s is None for case in smooth)


def test_recordings_are_as_long_as_they_say(known: list[Recording]) -> None:
    for recording in known:
        assert len(decode(io.BytesIO(recording.upload), max_duration_s=60)) / 16_000 == pytest.approx(recording.seconds)


def test_bad_files_are_bad(known: list[Recording]) -> None:
    files = [case.upload for case in (make_case(number, known) for number in range(600)) if case.recording is None]
    assert len(files) > 10
    for file in files:
        with pytest.raises(InvalidAudio):
            decode(io.BytesIO(file), max_duration_s=60)


@pytest.mark.parametrize("form", FORMS)
async def test_an_answer_in_any_form_is_found_right(
    service: tuple[Client, Refusing], known: list[Recording], form: Form
) -> None:
    client, _ = service
    case = Case(1, known[0], known[0].upload, form, None)
    client.alone[known[0].name] = TEXT
    assert (await client.send(case)).kind == RIGHT
    client.alone[known[0].name] = known[0].text
    assert (await client.send(case)).kind == WRONG, "another's"
    assert client.tries == {"200": 2, "no answer": 0}


async def test_what_is_refused_by_right_and_what_is_lost(
    service: tuple[Client, Refusing], known: list[Recording]
) -> None:
    client, refusing = service
    client.alone[known[0].name] = TEXT
    good = Case(1, known[0], known[0].upload, "json", None)
    assert (await client.send(Case(2, None, b"no audio" * 100, "json", None))).kind == REFUSED
    refusing.times = 2
    assert (await client.send(good)).kind == RIGHT, "by the SDK's own retries"
    refusing.times = 3
    assert (await client.send(good)).kind == "503"
    assert client.tries == {"400": 1, "503": 5, "200": 1, "no answer": 0}
    assert (await client.send(Case(3, known[0], known[0].upload, "json", 0.0))).kind == HUNG_UP
    assert (await client.send(Case(4, known[0], b"no audio" * 100, "json", None))).kind == "400"


async def test_only_what_is_understood_is_sent_again(service: tuple[Client, Refusing], known: list[Recording]) -> None:
    client, _ = service
    assert await client.learn(known) == []
    right = Recording("right", known[0].upload, known[0].seconds, TEXT, "English")
    assert await client.learn([right, known[1]]) == [right]
    assert client.alone == {"right": TEXT}


GROWING = """
import os, sys
held = []
for _ in sys.stdin:
    held.append(os.urandom(4_000_000))
    print(flush=True)
"""
"""A process that holds more with every line. The tests' own gives back what earlier ones have held, at any time."""


def test_memory_is_flat_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    seen = Memory()
    with subprocess.Popen([sys.executable, "-c", GROWING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for step in range(20):
            now = float(step)
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
            seen.sample([psutil.Process(process.pid)])
        process.stdin.close()
    (growth,) = seen.growth(settle_s=5)
    assert growth.held[-1] - growth.held[0] > 30_000_000
    assert list(growth.held) == sorted(growth.held)
    assert seen.growth(settle_s=15) == [], "too short a life"


def test_memory_that_others_map_as_well_is_not_its_own() -> None:
    before = memory.held_by(psutil.Process())
    with mmap.mmap(-1, 40_000_000) as shared:  # as Ray's object store is
        shared.write(bytes(range(250)) * 160_000)
        assert memory.held_by(psutil.Process()) - before < 10_000_000
    with mmap.mmap(-1, 40_000_000, flags=mmap.MAP_PRIVATE) as own:
        own.write(bytes(range(250)) * 160_000)
        assert memory.held_by(psutil.Process()) - before > 30_000_000


@pytest.mark.parametrize(
    ("held", "kept", "is_flat"),
    [
        ((100e6, 104e6), 0.0, True),
        ((100e6, 140e6), 0.0, False),
        ((10e6, 14e6), 0.0, True),
        ((1000e6, 1060e6), 0.0, False),
        ((84e6, 90e6), 0.0, False),
        ((84e6, 90e6), 6e6, True),
    ],
)
def test_what_is_flat(held: Sequence[float], kept: float, is_flat: bool) -> None:
    assert Growth("x", 1, 1.0, held, kept).is_flat is is_flat


class Bare:
    """Stands in for a running service: the same application in a process of its own."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url
        self.pid = pid

    def processes(self) -> list[psutil.Process]:
        return [psutil.Process(self.pid)]


@pytest.mark.parametrize("answer", [TEXT, "another text altogether"])
def test_a_run_from_its_first_request_to_its_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: list[Recording], answer: str
) -> None:
    @contextmanager
    def running(_: object) -> Iterator[Bare]:
        with bare({}) as (url, pid):
            yield Bare(url, pid)

    async def learn(client: Client, recordings: list[Recording]) -> list[Recording]:
        client.alone = {recording.name: answer for recording in recordings}
        return recordings

    monkeypatch.setattr(soak, "_service", running)
    monkeypatch.setattr(soak, "recordings", lambda: [replace(one, text=answer) for one in known])
    monkeypatch.setattr(Client, "learn", learn)
    options = "--minutes 0.05 --capacity-s 0.5 --share 0.3 --sample-s 0.1 --settle-s 0.5 --seed 3"
    monkeypatch.setattr("sys.argv", ["soak", *options.split()])
    if answer == TEXT:
        soak.main()
    else:
        with pytest.raises((SystemExit, RuntimeError)):
            soak.main()
        return
    said = capsys.readouterr().out
    assert "capacity " in said
    last = next(line for line in said.splitlines() if line.startswith("| all |"))
    _, _, requests, right, refused, hung_up, lost, kills, *_ = (cell.strip() for cell in last.split("|"))
    assert int(requests) == int(right) + int(refused) + int(hung_up) > 0
    assert (lost, kills) == ("0", "0")
    assert "tries, by status: " in said
    assert "python | " in said, "the memory of the process"
