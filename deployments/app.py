"""The application: the only place where deployments are wired together."""

import logging

import ray
from ray.serve import Application

from deployments.asr.checkpoint_files import check_files
from deployments.asr.deployment import ASR
from deployments.ingress.deployment import Ingress
from deployments.served_model import ServedModel
from deployments.settings import Settings

logger = logging.getLogger("ray.serve.asr")


def build(args: Settings) -> Application:
    """Build the application from `args:` of the config file; `serve run` calls this.

    Raises:
        CheckpointError: the configured model cannot be served; nothing is deployed.
    """
    served_model = ServedModel.of(args)
    check_files(served_model.checkpoint)
    num_gpus = _gpus_per_replica(args)
    # serve.deployment returns a Deployment, which a type checker cannot see through a class decorator.
    asr = ASR.options(ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": num_gpus})  # type: ignore[attr-defined]
    return Ingress.bind(args, served_model, asr.bind(args, served_model, num_gpus))  # type: ignore[attr-defined]


def _gpus_per_replica(settings: Settings) -> float:
    if settings.num_gpus != "auto":
        return settings.num_gpus
    return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0
