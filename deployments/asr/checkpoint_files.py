"""Looking at a checkpoint's files without loading it: cheap enough to do before anything is deployed."""

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open

from deployments.exceptions import CheckpointError

MODEL_TYPE = "qwen3_asr"

Purpose = Literal["recognizer", "aligner"]
"""What a checkpoint of Qwen3-ASR is trained for; both share one architecture, but for the head."""


def config_of(name: str, purpose: Purpose = "recognizer") -> dict[str, Any]:
    """The parsed `config.json` of the checkpoint `name` (hub id or folder).

    Raises:
        CheckpointError: there is none, or it is not one of Qwen3-ASR for this purpose.
    """
    folder = Path(name)
    if folder.is_dir():
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"The folder {name!r} holds no checkpoint: it has no config.json.")
    else:
        path = _download_config(name)
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model_type = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"The config.json of {name!r} is damaged: {error}.") from None
    if model_type != MODEL_TYPE:
        raise CheckpointError(
            f"The checkpoint {name!r} is of the architecture {model_type!r}; this service serves {MODEL_TYPE!r}."
        )
    found = _purpose_of(config)
    if (found, purpose) == ("aligner", "recognizer"):
        raise CheckpointError(f"The checkpoint {name!r} is a forced aligner, which cannot transcribe.")
    if (found, purpose) == ("recognizer", "aligner"):
        raise CheckpointError(
            f"The checkpoint {name!r} transcribes and cannot align; set `aligner` to a forced aligner such as "
            "Qwen/Qwen3-ForcedAligner-0.6B."
        )
    return config


def _purpose_of(config: dict[str, Any]) -> Purpose:
    """The native layout says it by the architecture, the original one by the type of what it wraps."""
    native = (config.get("architectures") or [""])[0].endswith("ForTokenClassification")
    original = "forced_aligner" in config.get("thinker_config", {}).get("model_type", "")
    return "aligner" if native or original else "recognizer"


def check_files(name: str, purpose: Purpose = "recognizer") -> None:
    """Raise `CheckpointError` if `name` is obviously not servable: absent, of another kind, or with files cut short.

    Weights on the hub are only looked at once they are downloaded, when the model is loaded.
    """
    config_of(name, purpose)
    folder = Path(name)
    if not folder.is_dir():
        return
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise CheckpointError(f"The checkpoint {name!r} is incomplete: its tokenizer is missing; download it again.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        if not (folder / shard).is_file():
            raise CheckpointError(f"The checkpoint {name!r} is incomplete: {shard} is missing; download it again.")
        try:
            with safe_open(folder / shard, framework="numpy"):
                pass
        except SafetensorError as error:
            raise CheckpointError(f"The checkpoint {name!r} is damaged: {shard}: {error}; download it again.") from None


def _download_config(name: str) -> Path:
    with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
        return Path(hf_hub_download(name, "config.json", local_files_only=True))
    try:
        return Path(hf_hub_download(name, "config.json"))
    except HFValidationError:
        reason = "it is neither a folder here nor a hub id such as Qwen/Qwen3-ASR-1.7B"
    except LocalEntryNotFoundError:
        reason = "it is not in the local cache and the Hugging Face hub cannot be reached"
    except EntryNotFoundError:
        reason = "it has no config.json on the Hugging Face hub"
    except (HfHubHTTPError, OSError) as error:
        reason = f"the Hugging Face hub says: {str(error).strip().splitlines()[0]}"
    raise CheckpointError(f"The model {name!r} cannot be found: {reason}.")
