"""Both released layouts load to the same model, and nothing but a whole Qwen3-ASR loads at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.checkpoint_files import check_files
from deployments.asr.encoder import AudioEncoder
from deployments.asr.features import LogMel
from deployments.exceptions import CheckpointError
from tests.unit.tiny_models import noise

CPU = torch.device("cpu")


def _load(folder: Path) -> Checkpoint:
    return load(str(folder), dtype=torch.float32, device=CPU)


@pytest.fixture
def broken(native_folder: Path, tmp_path: Path) -> Path:
    """A copy of the native checkpoint, for breaking."""
    return Path(shutil.copytree(native_folder, tmp_path / "broken"))


def test_both_layouts_give_identical_logits(native_folder: Path, original_folder: Path) -> None:
    logits = []
    for folder in (native_folder, original_folder):
        checkpoint = _load(folder)
        encoder = AudioEncoder(checkpoint)
        with torch.inference_mode():
            (audio,) = encoder.encode([noise(2.3)])
            logits.append(checkpoint.model(inputs_embeds=audio.unsqueeze(0)).logits)
    assert torch.equal(logits[0], logits[1])


def test_the_original_layout_brings_its_own_feature_extraction(native_folder: Path, original_folder: Path) -> None:
    mels = [
        LogMel(_load(folder).feature_extractor, torch.device("cpu"))([noise(1.234)])[0]
        for folder in (native_folder, original_folder)
    ]
    assert torch.equal(mels[0], mels[1])


def test_weights_load_in_the_requested_format(native_folder: Path) -> None:
    checkpoint = load(str(native_folder), dtype=torch.bfloat16, device=CPU)
    assert checkpoint.model.dtype == torch.bfloat16
    assert not checkpoint.model.training


def test_a_missing_weight_is_named(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    del weights["model.audio_tower.conv2d1.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    sentence = r"incomplete: 1 missing keys, such as model\.audio_tower\.conv2d1\.weight"
    with pytest.raises(CheckpointError, match=sentence):
        _load(broken)


def test_a_weight_of_another_size_is_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["model.audio_tower.conv_out.weight"] = torch.zeros(3, 3)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=str(broken)):
        _load(broken)


def test_a_tokenizer_of_another_model_is_refused(broken: Path) -> None:
    path = broken / "tokenizer.json"
    path.write_text(path.read_text().replace("<asr_text>", "<other>"))
    with pytest.raises(CheckpointError, match="lacks <asr_text>"):
        _load(broken)


def _remove(name: str) -> object:
    return lambda folder: (folder / name).unlink()


def _rewrite_config(**changes: object) -> object:
    def rewrite(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return rewrite


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_remove("config.json"), "it has no config.json"),
        (_remove("model.safetensors"), "incomplete: model.safetensors is missing"),
        (_remove("tokenizer.json"), "incomplete: its tokenizer is missing"),
        (_cut_weights, "damaged: model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json of .* is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json of .* is damaged"),
        (_rewrite_config(model_type="whisper"), "architecture 'whisper'; this service serves 'qwen3_asr'"),
        (_rewrite_config(architectures=["Qwen3ASRForTokenClassification"]), "forced aligner"),
    ],
)
def test_a_damaged_folder_is_refused_before_deploying(broken: Path, damage, sentence: str) -> None:  # type: ignore[no-untyped-def]
    damage(broken)
    with pytest.raises(CheckpointError, match=sentence) as raised:
        check_files(str(broken))
    assert "\n" not in str(raised.value)


def test_a_missing_shard_is_named(original_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original_folder, tmp_path / "sharded"))
    check_files(str(folder))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        check_files(str(folder))


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "Qwen/Qwen3-ASR-1.7B"])
def test_what_cannot_be_found_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=f"The model '{name}' cannot be found") as raised:
        check_files(name)
    assert "\n" not in str(raised.value)
