"""From settings to an engine that is ready to transcribe, in the process of a replica."""

import logging
import threading
import time
from concurrent.futures import Future

import torch

from deployments.asr.cache import slot_bytes
from deployments.asr.checkpoint import Checkpoint, load
from deployments.asr.device import (
    KEPT_FOR_CACHE,
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

    All of it in one new thread, the engine's. Every thread that computes has OpenMP threads of its own, which stay;
    with more of them than cores OpenMP lets none spin at a barrier, and a decode step takes a third longer while it
    waits for sleepers to wake.

    Args:
        settings: the application's.
        served_model: which checkpoint.
        num_gpus: GPUs, or the share of one, that this replica was given.

    Raises:
        CheckpointError: the model cannot be served here; one sentence says why.
    """
    started = time.monotonic()
    built: Future[Engine] = Future()

    def work() -> None:
        try:
            engine = _build(settings, served_model, num_gpus)
        except BaseException as error:
            built.set_exception(error)
        else:
            built.set_result(engine)
            engine.run()

    threading.Thread(target=work, name="engine", daemon=True).start()
    engine = built.result()
    engine.warm_up()
    logger.info("ready after %.1f s", time.monotonic() - started)
    return engine


def _build(settings: Settings, served_model: ServedModel, num_gpus: float) -> Engine:
    device = choose_device(num_gpus)
    dtype = choose_dtype(settings.dtype, device)
    torch.set_num_threads(choose_threads(settings, device))
    checkpoint = load(served_model.checkpoint, dtype=dtype, device=device)
    layout = _lay_out(checkpoint, settings)
    config = checkpoint.model.config.text_config
    slots = choose_slots(settings, config, dtype, device, num_gpus)
    cache_bytes = slots * slot_bytes(config, settings.slot_tokens, dtype)
    spare_bytes = free_bytes(device, num_gpus) / KEPT_FOR_CACHE - cache_bytes
    logger.info(
        "serving %s from %s on %s in %s (%s), %d slots, %d torch threads",
        served_model.id,
        served_model.checkpoint,
        device,
        dtype,
        layout,
        slots,
        torch.get_num_threads(),
    )
    return Engine(
        checkpoint,
        slots=slots,
        slot_tokens=settings.slot_tokens,
        longest_s=settings.utterance_limit_s,
        admission_s=choose_admission(settings, dtype, device, spare_bytes),
        piece_tokens=choose_piece(dtype, device),
        graphs=device.type == "cuda" and settings.cuda_graphs,
        compiled=device.type == "cuda" and settings.torch_compile,
    )


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
