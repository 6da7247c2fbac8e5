"""Turn the newest training checkpoint into `deployments/checkpoints/demo`, at any time during training.

python -m benchmarks.demo_checkpoint.export
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoProcessor

from benchmarks.demo_checkpoint.model import build_model
from benchmarks.demo_checkpoint.training import publish

_ROOT = Path(__file__).resolve().parents[2]
WORK = _ROOT / ".work" / "demo_checkpoint"
TRAINED = WORK / "training.pt"
EXPORTED = _ROOT / "deployments" / "checkpoints" / "demo"


def export() -> int:
    """Write the averaged weights in bfloat16 with config and processor; returns the training step they are from."""
    state = torch.load(TRAINED, weights_only=True)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    model = build_model(processor.tokenizer)
    missing = model.load_state_dict(state["average"], strict=False)
    # The output layer is the embedding, so the average holds it once.
    if missing.unexpected_keys or missing.missing_keys != ["lm_head.weight"]:
        raise RuntimeError(f"{TRAINED} is of another model: {missing}")
    model.tie_weights()
    fresh = WORK / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    publish(model, processor, fresh, EXPORTED)
    return int(state["step"])


if __name__ == "__main__":
    print(f"exported step {export()} to {EXPORTED}")
