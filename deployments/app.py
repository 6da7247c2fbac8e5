"""The application: the only place where deployments are wired together."""

from typing import Any

import ray
from ray.serve import Application

from deployments.aligner.deployment import Aligner
from deployments.asr.checkpoint_files import check_files
from deployments.asr.deployment import ASR
from deployments.ingress.deployment import Ingress
from deployments.served_model import ServedModel, aligner_checkpoint
from deployments.settings import MAX_AUTO_SLOTS, Settings


def build(args: Settings) -> Application:
    """Build the application from `args:` of the config file; `serve run` calls this.

    Raises:
        CheckpointError: the configured model cannot be served; nothing is deployed.
    """
    return wire(args, ASR)


def wire(settings: Settings, asr: Any, aligner: Any = Aligner) -> Application:
    """Put the ingress in front of an ASR deployment, and of an Aligner where word times are on.

    Args:
        settings: the application's.
        asr: `ASR`, or another deployment that is constructed and called as it is.
        aligner: `Aligner`, or another such deployment.

    Raises:
        CheckpointError: the configured model cannot be served.
    """
    served_model = ServedModel.of(settings)
    check_files(served_model.checkpoint)
    num_gpus = _gpus_per_replica(settings)
    asr = asr.options(
        ray_actor_options={"num_cpus": settings.num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=_utterances_per_replica(settings, num_gpus),
    )
    # The application answers what is too much, in the shape that clients know. Beyond this bound Serve's proxy would
    # let requests wait unseen, so it is out of reach: there is room for refusals and health checks.
    ingress = Ingress.options(max_ongoing_requests=settings.max_concurrent_requests + 1000)  # type: ignore[attr-defined]
    without_secrets = settings.model_copy(update={"api_keys": ()})
    bound: Application = ingress.bind(
        settings,
        served_model,
        asr.bind(without_secrets, served_model, num_gpus),
        _bind_aligner(without_secrets, aligner),
    )
    return bound


def _bind_aligner(settings: Settings, aligner: Any) -> Application | None:
    """The Aligner, on resources of its own; None where word times are off."""
    checkpoint = aligner_checkpoint(settings)
    if checkpoint is None:
        return None
    check_files(checkpoint, "aligner")
    resources = {"num_cpus": settings.aligner_num_cpus, "num_gpus": settings.aligner_num_gpus}
    bound: Application = aligner.options(ray_actor_options=resources).bind(settings, checkpoint)
    return bound


def _utterances_per_replica(settings: Settings, num_gpus: float) -> int:
    """As many as a replica decodes together at most, and some that wait to join them.

    Where `slots` is `auto` a replica with little memory has fewer, and more wait in it. The others wait in the ingress,
    where a replica that is added, or has nothing to do, takes them at once.
    """
    slots = MAX_AUTO_SLOTS["cuda" if num_gpus else "cpu"] if settings.slots == "auto" else settings.slots
    return slots + max(8, slots // 2)


def _gpus_per_replica(settings: Settings) -> float:
    if settings.num_gpus != "auto":
        return settings.num_gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
