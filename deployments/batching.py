"""How arrivals at a model are grouped."""

from pydantic import BaseModel, ConfigDict, Field


class BatchingConfig(BaseModel):
    """A deployment's `user_config`: applied to running replicas, without a restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(default=8, ge=1, le=1024, description="Arrivals handed to the engine together at most.")
    # None at all: what arrives while a group is handed over is the next group, and the engine lets utterances join at
    # any step. 10 ms delayed every lone request by as much, and no more were answered for it (docs/performance.md).
    batch_wait_timeout_s: float = Field(
        default=0.0, ge=0, le=10, description="Seconds that an arrival waits for others to join it."
    )
