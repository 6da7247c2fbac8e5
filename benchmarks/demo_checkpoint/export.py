"""Turn the newest state of either training into `deployments/checkpoints/demo`, at any time while it goes on.

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
TRAINED_LONG = WORK / "training_long.pt"
EXPORTED = _ROOT / "deployments" / "checkpoints" / "demo"


def export(trained: Path) -> int:
    """Write the averaged weights in bfloat16 with config and processor; returns the training step they are from."""
    state = torch.load(trained, weights_only=True)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    model = build_model(processor.tokenizer)
    missing = model.load_state_dict(state["average"], strict=False)
    # The output layer is the embedding, so the average holds it once.
    if missing.unexpected_keys or missing.missing_keys != ["lm_head.weight"]:
        raise RuntimeError(f"{trained} is of another model: {missing}")
    model.tie_weights()
    fresh = WORK / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    publish(model, processor, fresh, EXPORTED)
    return int(state["step"])


if __name__ == "__main__":
    newest = max((path for path in (TRAINED, TRAINED_LONG) if path.exists()), key=lambda path: path.stat().st_mtime)
    print(f"exported step {export(newest)} of {newest.name} to {EXPORTED}")
