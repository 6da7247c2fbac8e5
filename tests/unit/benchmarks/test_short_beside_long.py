"""Who is sent when, and what is made of the times."""

import asyncio
from typing import cast

import pytest

from benchmarks.client import Client, Clip, Exchange
from benchmarks.short_beside_long import Times, measure


class OneAtATime:
    """A service that takes a hundredth of a clip's length for it, and answers one after the other."""

    def __init__(self) -> None:
        self.came: list[float] = []
        self._turn = asyncio.Lock()

    async def transcribe(self, clip: Clip) -> Exchange:
        self.came.append(clip.seconds)
        began_at = asyncio.get_running_loop().time()
        async with self._turn:
            await asyncio.sleep(clip.seconds / 100)
        return Exchange(clip, asyncio.get_running_loop().time() - began_at, text="")


def test_the_short_one_is_sent_behind_the_long_one_and_its_wait_is_told() -> None:
    service = OneAtATime()
    both = [Times(1.0, 5), Times(20.0, 9)]
    asyncio.run(measure(cast(Client, service), both, rounds=2, after_s=0.0))
    assert service.came == [1.0, 20.0] + 2 * [1.0, 20.0, 20.0, 1.0]
    uploads = {exchange.clip.upload for times in both for exchange in (*times.alone, *times.beside)}
    assert len(uploads) == 8, "no recording is sent twice"
    short, long = (times.row() for times in both)
    assert short[:3] == ["1 s, 5 tokens", 2, 0]
    assert cast(float, short[4]) >= 0.2, "it waited for the long one"
    assert short[-1] == pytest.approx(cast(float, short[4]) / cast(float, short[3]))
    assert both[0].alone[0].clip.fields["max_new_tokens"] == "5"
    assert long[0] == "20 s, 9 tokens"


def test_what_fails_is_counted_and_has_no_times() -> None:
    times = Times(1.0, 5)
    failed = Exchange(times.clip(seed=1), 0.1, text=None, error="503")
    times.alone.append(failed)
    times.beside.append(failed)
    assert times.row() == ["1 s, 5 tokens", 1, 2, None, None, None, None]
