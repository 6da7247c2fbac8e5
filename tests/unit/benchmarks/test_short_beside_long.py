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
    asyncio.run(measure(cast(Client, service), both, rounds=2, after_s=[0.01, 0.3]))
    assert service.came == [1.0, 20.0] + 2 * [1.0, 20.0, 20.0, 1.0, 20.0, 1.0]
    uploads = {
        exchange.clip.upload for times in both for each in (times.alone, *times.beside.values()) for exchange in each
    }
    assert len(uploads) == 12, "no recording is sent twice"
    (short, later), (long, _) = ([times.row(after_s) for after_s in (0.01, 0.3)] for times in both)
    assert short[:4] == ["1 s, 5 tokens", 0.01, 2, 0]
    assert later[1] == 0.3
    assert cast(float, short[5]) > 0.15, "it waited for the long one"
    assert cast(float, later[5]) < cast(float, short[5]), "which had ended"
    assert short[-1] == pytest.approx(cast(float, short[5]) / cast(float, short[4]))
    assert both[0].alone[0].clip.fields["max_new_tokens"] == "5"
    assert long[0] == "20 s, 9 tokens"


def test_what_fails_is_counted_and_has_no_times() -> None:
    times = Times(1.0, 5)
    failed = Exchange(times.clip(seed=1), 0.1, text=None, error="503")
    times.alone.append(failed)
    times.beside[0.5].append(failed)
    assert times.row(0.5) == ["1 s, 5 tokens", 0.5, 1, 2, None, None, None, None]
