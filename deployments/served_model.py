"""The model as clients see it: its id, its aliases, where its weights are."""

import time
from dataclasses import dataclass
from pathlib import Path

from deployments.settings import DEMO, Settings

DEMO_CHECKPOINT = Path(__file__).parent / "checkpoints" / "demo"
DEMO_ALIGNER_CHECKPOINT = DEMO_CHECKPOINT.with_name("demo_aligner")
DEMO_MODEL_ID = "qwen3-asr-demo"


def aligner_checkpoint(settings: Settings) -> str | None:
    """Hub id or folder of the forced aligner that `settings.aligner` means, None where word times are off."""
    return str(DEMO_ALIGNER_CHECKPOINT) if settings.aligner == DEMO else settings.aligner


@dataclass(frozen=True)
class ServedModel:
    """What `/v1/models` lists and what the `model` field of a request may name."""

    id: str
    aliases: tuple[str, ...]
    checkpoint: str
    """Hub id or folder."""
    created: int
    """Unix seconds at which the application was built."""
    owned_by: str

    @property
    def ids(self) -> tuple[str, ...]:
        """Every accepted id, the canonical one first."""
        return (self.id, *self.aliases)

    @classmethod
    def of(cls, settings: Settings) -> "ServedModel":
        """Work out what `settings.model` means."""
        folder = Path(settings.model)
        if settings.model == DEMO:
            name, owner, checkpoint = DEMO_MODEL_ID, "demo", str(DEMO_CHECKPOINT)
        elif folder.is_dir():
            name, owner, checkpoint = folder.resolve().name, "local", str(folder.resolve())
        else:
            name, checkpoint = settings.model, settings.model
            owner = settings.model.split("/", 1)[0].lower()
        return cls(
            id=settings.served_model_name or name,
            aliases=settings.model_aliases,
            checkpoint=checkpoint,
            created=int(time.time()),
            owned_by=owner,
        )
