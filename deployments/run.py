"""`serve run` that lets requests end before it does: `python -m deployments.run serve_config.yaml`.

`serve run` itself cuts them: at SIGTERM and SIGINT the proxy goes first. Here the first of these signals has new
requests refused (503, with `Retry-After`), and Serve is stopped when those in hand have been answered, or after a
minute. A second signal stops it at once.
"""

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import ray
from ray import serve
from ray.serve.scripts import cli

from deployments.ingress.deployment import Ingress

logger = logging.getLogger("ray.serve.asr")

DRAIN_S = float(Ingress._deployment_config.graceful_shutdown_timeout_s)  # type: ignore[attr-defined]
SERVE_NAMESPACE = "serve"


def main() -> None:
    """Run the config file named on the command line until a signal comes."""
    # Before `serve run` does it: Ray puts a handler of its own in place of that for SIGTERM. A Ray of its own, unless
    # told otherwise: a cluster that was killed leaves its address behind, which would be waited for in vain.
    ray.init(os.environ.get("RAY_ADDRESS", "local"), namespace=SERVE_NAMESPACE)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _drain_and_stop)
    cli(["run", *sys.argv[1:]])


def _drain_and_stop(_: int, __: FrameType | None) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        drain(DRAIN_S)
    except Exception:  # it must stop, whatever state it is in
        logger.exception("requests may be cut: draining failed")
    raise KeyboardInterrupt  # at which `serve run` stops Serve and itself


def drain(timeout_s: float) -> None:
    """Have every ingress replica refuse what is new, and wait for what it has; also while others are still starting.

    Raises:
        TimeoutError: it did not end in time.
    """
    applications = serve.status().applications
    for name, application in applications.items():
        ingress = application.deployments.get(Ingress.name)  # type: ignore[attr-defined]
        if ingress is None or not ingress.replica_states.get("RUNNING"):
            continue
        serve.get_app_handle(name).broadcast("drain").results(timeout_s=timeout_s)


if __name__ == "__main__":
    main()
