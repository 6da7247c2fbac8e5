"""From settings to an engine that is ready to transcribe, in the process of a replica."""

import logging
import time

import torch

from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.device import (
    choose_admission,
    choose_device,
    choose_dtype,
    choose_piece,
    choose_slots,
    choose_threads,
    free_bytes,
    prepare_gpu,
)
from deployments.asr.engine import Engine
from deployments.asr.linear import pack
from deployments.exceptions import CheckpointError
from deployments.served_model import ServedModel
from deployments.settings import Settings

logger = logging.getLogger("ray.serve.asr")


def start_engine(settings: Settings, served_model: ServedModel, num_gpus: float) -> Engine:
    """Load the model onto this replica's device, lay out its weights, and transcribe once.

    Args:
        settings: the application's.
        served_model: which checkpoint.
        num_gpus: GPUs, or the share of one, that this replica was given.

    Raises:
        CheckpointError: the model cannot be served here; one sentence says why.
    """
    started = time.monotonic()
    device = choose_device(num_gpus)
    dtype = choose_dtype(settings.dtype, device)
    # One thread for now: every thread that computes with more gets OpenMP threads of its own, which stay. With more of
    # them than cores, OpenMP lets none spin at a barrier, and each step would wait for sleepers to wake.
    torch.set_num_threads(1)
    checkpoint = load(served_model.checkpoint, dtype=dtype, device=device)
    layout = _lay_out(checkpoint, settings)
    torch.set_num_threads(choose_threads(settings, device))
    slots = choose_slots(settings, checkpoint.model.config.text_config, dtype, device, num_gpus)
    engine = Engine(
        checkpoint,
        slots=slots,
        slot_tokens=settings.slot_tokens,
        admission_s=choose_admission(settings, device),
        piece_tokens=choose_piece(dtype, device),
        graphs=device.type == "cuda" and settings.cuda_graphs,
        compiled=device.type == "cuda" and settings.torch_compile,
    )
    engine.warm_up()
    logger.info(
        "serving %s from %s on %s in %s (%s), %d slots, %d torch threads, ready after %.1f s",
        served_model.id,
        served_model.checkpoint,
        device,
        dtype,
        layout,
        slots,
        torch.get_num_threads(),
        time.monotonic() - started,
    )
    return engine


def _lay_out(checkpoint: Checkpoint, settings: Settings) -> str:
    if checkpoint.model.device.type != "cpu":
        if settings.quantization != "none":
            raise CheckpointError(
                f"quantization {settings.quantization!r} is for replicas on a CPU; set 'none' for those on a GPU."
            )
        prepare_gpu()
        return "plain weights"
    model = checkpoint.model
    return pack(model, settings.quantization, spare_bytes=free_bytes(model.device, 0) / 2)
