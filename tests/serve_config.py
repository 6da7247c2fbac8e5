"""Checks a Serve config more strictly than Serve, which ignores what it does not know."""

from typing import Any

from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from deployments.batching import BatchingConfig
from deployments.settings import Settings


def check(config: dict[str, Any]) -> Settings:
    """Check every key of a config with our one application; return the application's settings.

    Raises:
        ValueError: a key is unknown, or a value is wrong.
    """
    parsed = ServeDeploySchema.model_validate(config).model_dump(exclude_unset=True)
    _refuse_dropped_keys(config, parsed, "")
    (application,) = config["applications"]
    for deployment in application["deployments"]:
        autoscaling = deployment.get("autoscaling_config", {})
        if unknown := set(autoscaling) - set(AutoscalingConfig.model_fields):
            raise ValueError(f"{deployment['name']}.autoscaling_config: {unknown}")
        AutoscalingConfig.model_validate(autoscaling)
        match deployment["name"]:
            case "ASR" | "Aligner":
                BatchingConfig.model_validate(deployment["user_config"])
            case "Ingress":
                if "user_config" in deployment:
                    raise ValueError("Ingress takes no user_config")
            case name:
                raise ValueError(f"there is no deployment {name}")
    return Settings.model_validate(application["args"])


def _refuse_dropped_keys(written: object, kept: object, path: str) -> None:
    if isinstance(written, dict) and isinstance(kept, dict):
        for key, value in written.items():
            if key not in kept:
                raise ValueError(f"unknown key {path}.{key}")
            _refuse_dropped_keys(value, kept[key], f"{path}.{key}")
    elif isinstance(written, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(written, kept, strict=True)):
            _refuse_dropped_keys(one, other, f"{path}[{number}]")
