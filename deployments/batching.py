"""How arrivals at a model are grouped."""

from pydantic import BaseModel, ConfigDict, Field


class BatchingConfig(BaseModel):
    """A deployment's `user_config`: applied to running replicas, without a restart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch_size: int = Field(default=8, ge=1, le=1024, description="Arrivals handed to the engine together at most.")
    batch_wait_timeout_s: float = Field(
        default=0.01, ge=0, le=10, description="Seconds that an arrival waits for others to join it."
    )
