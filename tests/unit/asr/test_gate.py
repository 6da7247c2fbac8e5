"""Arrivals during a running batch wait and are let through together; a caller that goes away blocks nobody."""

import asyncio

import pytest

from deployments.asr.gate import BatchGate


class Batcher:
    """Stands in for `@serve.batch` at its worst: it cuts a batch of whatever is there at every turn of the loop."""

    def __init__(self, capacity: int, seconds: float = 0.05):
        self.gate = BatchGate(capacity)
        self.batches: list[list[int]] = []
        self._seconds = seconds
        self._queue: list[tuple[int, asyncio.Future[int]]] = []

    async def call(self, item: int) -> int:
        async with self.gate.admission():
            done = asyncio.get_running_loop().create_future()
            self._queue.append((item, done))
            if len(self._queue) == 1:
                self._task = asyncio.create_task(self._run())
            return await done

    async def _run(self) -> None:
        await asyncio.sleep(0)
        batch, self._queue = self._queue, []
        with self.gate.running():
            self.batches.append([item for item, _ in batch])
            await asyncio.sleep(self._seconds)
        for item, done in batch:
            if not done.cancelled():
                done.set_result(item)


async def test_arrivals_during_a_batch_form_the_next_one_together() -> None:
    batcher = Batcher(capacity=8)
    calls = []
    for item in range(20):
        calls.append(asyncio.create_task(batcher.call(item)))
        await asyncio.sleep(0.004)
    assert await asyncio.gather(*calls) == list(range(20))
    assert batcher.batches[0] == [0]
    assert len(batcher.batches) <= 4
    assert all(len(batch) <= 8 for batch in batcher.batches)
    assert [item for batch in batcher.batches for item in batch] == list(range(20)), "first come, first served"


async def test_a_caller_cancelled_while_waiting_leaves_its_place() -> None:
    gate = BatchGate(1)
    async with gate.admission():
        waiting = asyncio.create_task(_enter(gate))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await asyncio.wait_for(_enter(gate), 1)


async def test_a_caller_cancelled_just_after_it_was_let_in_gives_its_place_back() -> None:
    gate = BatchGate(1)
    async with gate.admission():
        waiting = asyncio.create_task(_enter(gate))
        await asyncio.sleep(0)
    waiting.cancel()  # let in by the line above, but it has not run since
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(_enter(gate), 1)


async def test_a_caller_cancelled_inside_gives_its_place_back() -> None:
    gate = BatchGate(1)
    inside = asyncio.create_task(_enter(gate, stay=60))
    await asyncio.sleep(0)
    inside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inside
    await asyncio.wait_for(_enter(gate), 1)


async def test_resizing_lets_more_in_at_once() -> None:
    gate = BatchGate(1)
    async with gate.admission():
        waiting = asyncio.create_task(_enter(gate))
        await asyncio.sleep(0)
        assert not waiting.done()
        gate.resize(2)
        await asyncio.wait_for(waiting, 1)


async def test_a_failed_batch_opens_the_gate_again() -> None:
    gate = BatchGate(1)
    with pytest.raises(RuntimeError), gate.running():
        raise RuntimeError
    await asyncio.wait_for(_enter(gate), 1)


async def _enter(gate: BatchGate, stay: float = 0.0) -> None:
    async with gate.admission():
        await asyncio.sleep(stay)
