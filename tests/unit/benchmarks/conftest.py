"""The tiny random checkpoint and the engine on it, as the tests of the engine use them."""

from tests.unit.asr.conftest import checkpoint, engine, native_folder, odd_folder
from tests.unit.tiny_models import one_thread

__all__ = ["checkpoint", "engine", "native_folder", "odd_folder", "one_thread"]
