"""Turn the newest training state into `deployments/checkpoints/demo_aligner`, at any time during training.

python -m benchmarks.demo_aligner.export
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoProcessor

from benchmarks.demo_aligner.model import build_model
from benchmarks.demo_checkpoint.training import publish

_ROOT = Path(__file__).resolve().parents[2]
WORK = _ROOT / ".work" / "demo_aligner"
TRAINED = WORK / "training.pt"
EXPORTED = _ROOT / "deployments" / "checkpoints" / "demo_aligner"


def export() -> int:
    """Write the averaged weights in bfloat16 with config and processor; returns the training step they are from."""
    state = torch.load(TRAINED, weights_only=True)
    processor = AutoProcessor.from_pretrained(WORK / "processor")
    model = build_model()
    model.load_state_dict(state["average"])
    fresh = WORK / "export"
    shutil.rmtree(fresh, ignore_errors=True)
    publish(model, processor, fresh, EXPORTED)
    return int(state["step"])


if __name__ == "__main__":
    print(f"exported step {export()} to {EXPORTED}")
