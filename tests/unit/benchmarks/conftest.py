"""The tiny random checkpoint and the engine on it, as the tests of the engine use them."""

from tests.unit.asr.conftest import _one_thread, checkpoint, engine, native_folder

__all__ = ["_one_thread", "checkpoint", "engine", "native_folder"]
