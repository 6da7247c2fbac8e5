"""Settings refuse what they do not know, and the environment beats the file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.served_model import DEMO_CHECKPOINT, ServedModel
from deployments.settings import _SERVICE_LINK, Settings


def test_the_defaults_serve_the_demo() -> None:
    model = ServedModel.of(Settings())
    assert model.ids == ("qwen3-asr-demo",)
    assert model.checkpoint == str(DEMO_CHECKPOINT)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="bogus"):
        Settings.model_validate({"bogus": 1})


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_MODEL", "Qwen/Qwen3-ASR-1.7B")
    monkeypatch.setenv("ASR_MODEL_ALIASES", "whisper-1, gpt-4o-transcribe")
    settings = Settings(model="demo")
    model = ServedModel.of(settings)
    assert model.checkpoint == "Qwen/Qwen3-ASR-1.7B"
    assert model.ids == ("Qwen/Qwen3-ASR-1.7B", "whisper-1", "gpt-4o-transcribe")
    assert model.owned_by == "qwen"


def test_a_mistyped_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_MODLE", "x")
    with pytest.raises(ValidationError, match="ASR_MODLE"):
        Settings()


def test_what_kubernetes_tells_of_services_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {
        "{}_SERVICE_HOST": "10.96.0.7",
        "{}_SERVICE_PORT": "80",
        "{}_SERVICE_PORT_HTTP_API": "80",
        "{}_PORT": "tcp://10.96.0.7:80",
        "{}_PORT_80_TCP": "tcp://10.96.0.7:80",
        "{}_PORT_80_TCP_PROTO": "tcp",
        "{}_PORT_80_TCP_PORT": "80",
        "{}_PORT_80_TCP_ADDR": "10.96.0.7",
        "{}_PORT_53_UDP": "udp://10.96.0.7:53",
    }
    for service in ("ASR", "ASR_MODEL", "ASR_DEMO_HEAD_SVC"):
        for name, value in links.items():
            monkeypatch.setenv(name.format(service), value)
    assert Settings().model == "demo"
    for name in Settings.model_fields:
        assert not _SERVICE_LINK.match(f"ASR_{name.upper()}=tcp://10.96.0.7:80")


@pytest.mark.parametrize("name", ["ASR_PORT", "ASR_HTTP_PORT", "ASR_SERVICE_NAME", "ASR_PORT_80_TCP_PORTS"])
def test_what_only_looks_like_a_service_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "8123")
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_a_folder_is_served_under_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-finetune"
    folder.mkdir()
    model = ServedModel.of(Settings(model=str(folder)))
    assert (model.id, model.checkpoint) == ("my-finetune", str(folder))


def test_a_name_of_its_own() -> None:
    assert ServedModel.of(Settings(model="Qwen/Qwen3-ASR-0.6B", served_model_name="asr")).id == "asr"


def test_a_slot_must_hold_the_longest_utterance() -> None:
    with pytest.raises(ValidationError, match="slot_tokens must be at least"):
        Settings(max_utterance_s=300)
    assert Settings(max_utterance_s=300, slot_tokens=8192).slot_tokens == 8192


@pytest.mark.parametrize(("value", "name"), [("en", "English"), ("zh-CN", "Chinese"), ("auto", None), (None, None)])
def test_the_default_language_is_any_spelling(value: str | None, name: str | None) -> None:
    assert Settings(default_language=value).default_language == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_language": "xx"},
        {"max_utterance_s": 0},
        {"num_gpus": -1},
        {"num_gpus": 2},
        {"aligner_num_gpus": 1.5},
        {"torch_threads": 0},
        {"dtype": "int8"},
    ],
)
def test_impossible_values_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings.model_validate(wrong)


def test_the_demo_model_gets_shorter_utterances() -> None:
    assert Settings().utterance_limit_s == 12
    assert Settings(model="Qwen/Qwen3-ASR-0.6B").utterance_limit_s == 30
    assert Settings(max_utterance_s=20).utterance_limit_s == 20
