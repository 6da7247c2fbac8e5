"""A recording that is decoded while it is transcribed."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Executor
from contextlib import suppress

from deployments.audio.waveform import Waveform


async def read_blocks(blocks: Generator[Waveform, None, None], threads: Executor) -> AsyncGenerator[Waveform, None]:
    """Draw blocks one by one, each in one of `threads`: a long recording holds none while nobody wants its next block.

    Raises:
        InvalidAudio: whatever `blocks` raises.
    """
    loop = asyncio.get_running_loop()
    turn = threading.Lock()
    unwanted = threading.Event()

    def draw() -> Waveform | None:
        with turn:
            block = next(blocks, None)
        if unwanted.is_set():
            close()
        return block

    def close() -> None:
        # A generator cannot be closed while it runs, and a thread cannot be cancelled: then it closes it afterwards,
        # and no second thread waits for it.
        if turn.acquire(blocking=False):
            try:
                blocks.close()
            finally:
                turn.release()

    try:
        while (block := await loop.run_in_executor(threads, draw)) is not None:
            yield block
    finally:
        unwanted.set()
        with suppress(RuntimeError):  # the application has ended
            threads.submit(close)
