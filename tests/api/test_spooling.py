"""Uploads over a megabyte lie on the disk, under no name, and are gone whatever becomes of the request."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from deployments.exceptions import EngineFailure, InvalidAudio
from tests.api.fakes import Service

LARGE = b"x" * 3_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def open_files(folder: Path) -> list[str]:
    """Return the files in `folder` that this process holds open, deleted ones too."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # the one of the listing
        if target.startswith(str(folder)):
            found.append(target)
    return found


async def test_an_upload_has_no_name_on_the_disk(service: Service, folder: Path) -> None:
    """So that it is gone even when the process is killed."""
    seen: list[tuple[list[str], list[str]]] = []
    decode = service.decoder

    def look(source: object, *, max_duration_s: float) -> object:
        seen.append((os.listdir(folder), open_files(folder)))
        return decode(source, max_duration_s=max_duration_s)  # type: ignore[arg-type]

    service.decoder = look  # type: ignore[assignment]
    service.app = service.build()
    response = await service.transcribe(file=("a.wav", LARGE))
    assert response.status_code == 200
    assert decode.contents == [LARGE]
    ((names, opened),) = seen
    assert names == []
    assert len(opened) == 1
    assert opened[0].endswith("(deleted)")


@pytest.mark.parametrize(
    "what", ["answered", "no model", "wrong field", "bad audio", "failed", "streamed", "cut off", "twice"]
)
async def test_nothing_is_left(service: Service, folder: Path, what: str) -> None:
    fields: dict[str, str] = {}
    match what:
        case "no model":
            fields["model"] = "nobody"
        case "wrong field":
            fields["temperature"] = "hot"
        case "bad audio":
            service.decoder.error = InvalidAudio("No.")
        case "failed":
            service.transcriber.answer = EngineFailure("No.")
        case "streamed":
            fields["stream"] = "true"
        case "cut off":
            body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + LARGE
            headers = {"content-type": "multipart/form-data; boundary=x"}
            await service.request("POST", "/v1/audio/transcriptions", content=body, headers=headers)
        case "twice":
            await service.post_form({"model": "qwen3-asr-demo"}, {"file": ("a", LARGE), "other": ("b", LARGE)})
    await service.transcribe(file=("a.wav", LARGE), **fields)
    assert os.listdir(folder) == []
    assert open_files(folder) == []


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_nothing_is_left_of_a_caller_who_goes_away(service: Service, folder: Path, stream: str) -> None:
    service.transcriber.hang = True
    service.transcriber.said = ()
    call = asyncio.create_task(service.transcribe(file=("a.wav", LARGE), stream=stream))
    await service.transcriber.started.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert service.transcriber.cancelled
    assert os.listdir(folder) == []
    for _ in range(100):  # a thread of the pool closes it
        if not open_files(folder):
            break
        await asyncio.sleep(0.05)
    assert open_files(folder) == []
