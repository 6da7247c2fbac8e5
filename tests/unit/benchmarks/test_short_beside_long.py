"""Who is sent when, and what is made of the times."""

import asyncio
from typing import cast

import pytest

from benchmarks.client import Client, Clip, Exchange
from benchmarks.short_beside_long import Times, measure, table


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
    uploads = {exchange.clip.upload for times in both for each in times.exchanges.values() for exchange in each}
    assert len(uploads) == 12, "no recording is sent twice"
    columns, (alone, behind, later) = table(both, [0.01, 0.3])
    assert [columns[3], columns[6]] == ["1 s, 5 tokens: p50 s", "20 s, 9 tokens: p50 s"]
    assert alone[:3] == ["alone", 2, 0]
    assert behind[:3] == [0.01, 2, 0]
    assert later[0] == 0.3
    assert cast(float, behind[3]) > 0.15, "it waited for the long one"
    assert cast(float, later[3]) < cast(float, behind[3]), "which had ended"
    assert behind[5] == pytest.approx(cast(float, behind[3]) / cast(float, alone[3]))
    assert behind[7] == pytest.approx(cast(float, behind[6]) / cast(float, alone[6]))
    assert both[0].exchanges[None][0].clip.fields["max_new_tokens"] == "5"


def test_what_fails_is_counted_and_has_no_times() -> None:
    both = [Times(1.0, 5), Times(20.0, 9)]
    for times in both:
        failed = Exchange(times.clip(seed=1), 0.1, text=None, error="503")
        times.exchanges[None].append(failed)
        times.exchanges[0.5].append(failed)
    _, rows = table(both, [0.5])
    assert rows == [["alone", 1, 2, *5 * [None]], [0.5, 1, 2, *5 * [None]]]
