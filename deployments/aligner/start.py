"""From settings to a forced aligner that is ready, in the process of a replica."""

import logging
import time

import torch

from deployments.aligner.checkpoint import load_aligner
from deployments.aligner.model import AlignerModel
from deployments.asr.device import choose_device, choose_dtype, choose_threads, prepare_gpu
from deployments.exceptions import CheckpointError
from deployments.settings import Settings

logger = logging.getLogger("ray.serve.asr")


def start_aligner(settings: Settings, checkpoint: str) -> AlignerModel:
    """Load the forced aligner onto this replica's device and align once.

    Args:
        settings: the application's.
        checkpoint: hub id or folder.

    Raises:
        CheckpointError: it cannot be served here; one sentence says why.
    """
    started = time.monotonic()
    device = choose_device(settings.aligner_num_gpus)
    dtype = choose_dtype(settings.dtype, device)
    torch.set_num_threads(choose_threads(settings, device))
    if device.type == "cuda":
        prepare_gpu()
    model = AlignerModel(load_aligner(checkpoint, dtype=dtype, device=device))
    if settings.utterance_limit_s > model.longest_s:
        raise CheckpointError(
            f"The aligner {checkpoint!r} tells times up to {model.longest_s:g} s; set max_utterance_s to no more."
        )
    model.warm_up()
    logger.info(
        "aligning with %s on %s in %s, %d torch threads, ready after %.1f s",
        checkpoint,
        device,
        dtype,
        torch.get_num_threads(),
        time.monotonic() - started,
    )
    return model
