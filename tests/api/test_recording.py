"""A recording is decoded as fast as it is wanted, in threads, and let go of whatever happens."""

import asyncio
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from deployments.audio.waveform import Waveform
from deployments.exceptions import InvalidAudio
from deployments.ingress.recording import read_blocks


class Blocks:
    """Three blocks, and what was done with them."""

    def __init__(self) -> None:
        self.drawn = 0
        self.threads: set[str] = set()
        self.closed = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.error: Exception | None = None

    def __call__(self) -> Generator[Waveform, None, None]:
        try:
            for number in range(3):
                self.drawn += 1
                self.threads.add(threading.current_thread().name)
                self.may_go_on.wait(5)
                yield np.full(10, number, np.float32)
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


@pytest.fixture
def blocks() -> Blocks:
    return Blocks()


@contextmanager
def pool(size: int = 2) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(size, thread_name_prefix="decode") as threads:
        yield threads


async def test_all_blocks_in_order(blocks: Blocks) -> None:
    with pool() as threads:
        assert [block[0] async for block in read_blocks(blocks(), threads)] == [0, 1, 2]
    assert all(name.startswith("decode") for name in blocks.threads)


async def test_nothing_is_read_ahead(blocks: Blocks) -> None:
    with pool() as threads:
        items = read_blocks(blocks(), threads)
        await anext(items)
        await asyncio.sleep(0.05)
        assert blocks.drawn == 1
        await items.aclose()
    assert blocks.closed.is_set()


async def test_a_thread_is_free_while_nobody_wants_a_block(blocks: Blocks) -> None:
    with pool(1) as threads:
        long = read_blocks(blocks(), threads)
        await anext(long)
        assert len([block async for block in read_blocks(Blocks()(), threads)]) == 3
        await long.aclose()


async def test_errors_are_raised(blocks: Blocks) -> None:
    blocks.error = InvalidAudio("The file is truncated.")
    with pool() as threads, pytest.raises(InvalidAudio, match="truncated"):
        async for _ in read_blocks(blocks(), threads):
            pass


async def test_cancelled_while_a_thread_is_at_it(blocks: Blocks) -> None:
    blocks.may_go_on.clear()
    with pool() as threads:
        items = read_blocks(blocks(), threads)
        drawing = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.05)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        assert not blocks.closed.is_set(), "a running generator cannot be closed"
        blocks.may_go_on.set()
    assert blocks.closed.is_set()


async def test_one_that_is_given_up_holds_no_other_thread(blocks: Blocks) -> None:
    blocks.may_go_on.clear()
    with pool(2) as threads:
        items = read_blocks(blocks(), threads)
        drawing = asyncio.ensure_future(anext(items))
        await asyncio.sleep(0.05)
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        others = [read_blocks(Blocks()(), threads) for _ in range(3)]
        assert [(await asyncio.wait_for(anext(other), 1))[0] for other in others] == [0, 0, 0]
        for other in others:
            await other.aclose()
        blocks.may_go_on.set()
    assert blocks.closed.is_set()


async def test_after_the_application_has_ended(blocks: Blocks) -> None:
    with pool() as threads:
        items = read_blocks(blocks(), threads)
        await anext(items)
    await items.aclose()
