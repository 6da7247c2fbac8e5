"""The application as `build` wires it, with a small random model, over HTTP."""

import io
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from benchmarks.random_checkpoint import write_native
from deployments.app import build
from deployments.exceptions import CheckpointError
from deployments.settings import Settings

Deploy = Callable[[Application], DeploymentHandle]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = write_native(tmp_path_factory.mktemp("models") / "random-asr", "tiny")
    return Settings(model=str(folder), max_utterance_s=10, max_duration_s=20, default_language="en")


@pytest.fixture(scope="module")
def aligned(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """With a small random aligner."""
    folder = write_native(tmp_path_factory.mktemp("models") / "random-aligner", "aligner-tiny")
    return settings.model_copy(update={"aligner": str(folder)})


def _wav(seconds: float) -> bytes:
    samples = np.random.default_rng(0).normal(0, 3000, round(seconds * 16_000)).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def test_a_request_goes_all_the_way(deploy: Deploy, base_url: str, settings: Settings) -> None:
    deploy(build(settings))
    url = f"{base_url}/v1/audio/transcriptions"

    def post(seconds: float = 2.0, **fields: str) -> requests.Response:
        all_is_speech = '{"type":"server_vad","threshold":0}'
        fields = {"model": "random-asr", "max_new_tokens": "8", "chunking_strategy": all_is_speech, **fields}
        return requests.post(url, files={"file": _wav(seconds)}, data=fields, timeout=60)

    answer = post(response_format="verbose_json")
    assert answer.status_code == 200
    assert answer.json()["language"] == "english"
    assert answer.json()["duration"] == 2.0
    assert answer.json()["text"]
    plain = post().json()
    assert plain["text"] == answer.json()["text"]
    assert plain["usage"] == {"type": "duration", "seconds": 2}

    in_two_pieces = post(seconds=10.5, response_format="verbose_json").json()
    assert in_two_pieces["duration"] == 10.5
    assert in_two_pieces["segments"][-1]["end"] == 10.5
    assert post(chunking_strategy="auto").json()["text"] == "", "nobody speaks"

    too_long = post(seconds=20.5)
    assert too_long.status_code == 400
    assert "20.5 seconds is longer than 20 seconds" in too_long.json()["error"]["message"]

    # One id, the client's own, although Serve's proxy writes it too.
    tagged = requests.get(f"{base_url}/v1/models", headers={"x-request-id": "abc-123"}, timeout=60)
    assert tagged.headers["x-request-id"] == "abc-123"
    assert [card["id"] for card in tagged.json()["data"]] == ["random-asr"]

    assert requests.get(f"{base_url}/nowhere", timeout=60).json()["error"]["message"] == "Invalid URL (GET /nowhere)"


def test_words_come_from_the_aligner(deploy: Deploy, base_url: str, aligned: Settings) -> None:
    deploy(build(aligned))
    url = f"{base_url}/v1/audio/transcriptions"
    all_is_speech = '{"type":"server_vad","threshold":0}'
    common = {"model": "random-asr", "max_new_tokens": "40", "chunking_strategy": all_is_speech}

    def post(**fields: object) -> requests.Response:
        return requests.post(url, files={"file": _wav(12.5)}, data=common | fields, timeout=60)

    both = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    answer = post(**both)
    assert answer.status_code == 200
    body = answer.json()
    assert {warning["code"] for warning in body["warnings"]} == {"token_budget_exhausted"}
    times = [time for word in body["words"] for time in (word["start"], word["end"])]
    assert len(times) > 2
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= body["duration"] == 12.5
    assert all(word["word"] in body["text"] for word in body["words"])
    assert body["segments"][0]["start"] == times[0]
    assert post(response_format="vtt").text.startswith("WEBVTT\n\n00:00:")
    assert post(**both, language="fi").json()["error"]["code"] == "unsupported_language"
    (card,) = requests.get(f"{base_url}/v1/models", timeout=60).json()["data"]
    assert card["aligner"] is True


def test_the_aligner_has_resources_of_its_own(base_url: str, aligned: Settings) -> None:
    def bound(settings: Settings) -> Any:
        return build(settings)._bound_deployment.init_args[3]

    assert bound(aligned.model_copy(update={"aligner": None})) is None
    aligner = bound(aligned.model_copy(update={"aligner_num_cpus": 0.5, "aligner_num_gpus": 0.25}))._bound_deployment
    assert aligner.name == "Aligner"
    assert (aligner.ray_actor_options["num_cpus"], aligner.ray_actor_options["num_gpus"]) == (0.5, 0.25)


def test_a_recognizer_is_no_aligner(base_url: str, settings: Settings) -> None:
    with pytest.raises(CheckpointError, match="cannot align"):
        build(settings.model_copy(update={"aligner": settings.model}))


def test_the_ingress_never_loads_torch(deploy: Deploy, base_url: str, settings: Settings) -> None:
    deploy(build(settings))
    replicas = {
        name: process
        for process in psutil.process_iter(["cmdline"])
        for name in ("Ingress", "ASR")
        if f"ServeReplica:test:{name}" in " ".join(process.info["cmdline"] or ())
    }
    loaded = {
        name: any("libtorch" in mapping.path for mapping in process.memory_maps()) for name, process in replicas.items()
    }
    assert loaded == {"Ingress": False, "ASR": True}


def test_gpus_are_reserved_as_set(base_url: str, settings: Settings) -> None:
    def gpus(**changes: object) -> float:
        application = build(settings.model_copy(update=changes))
        asr = application._bound_deployment.init_args[2]._bound_deployment
        return float(asr.ray_actor_options["num_gpus"])

    assert gpus() == 0, "this cluster has none"
    assert gpus(num_gpus=1.0) == 1.0
    assert gpus(num_gpus=0.25) == 0.25


def test_a_model_that_cannot_be_served_is_never_deployed(base_url: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        build(Settings(model=str(tmp_path)))
