"""The hostile recordings are what they claim to be, the same every time, and wrong answers are told from right ones."""

import httpx
import numpy as np
import pytest

from benchmarks import hostile
from benchmarks.hostile import KINDS, Case, Outcome, judge, make_case, rows_of
from benchmarks.hostile_sounds import SOUNDS, at_level, coloured_noise
from deployments.audio.waveform import SAMPLE_RATE


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_each_case_follows_from_its_number(number: int) -> None:
    case = make_case(number)
    assert case == make_case(number)
    assert case.upload
    assert case.kind == list(KINDS)[number]


def test_other_numbers_are_other_cases() -> None:
    assert len({make_case(3 + i * len(KINDS)).upload for i in range(4)}) == 4


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("seconds", [0.05, 1.0, 7.3])
def test_sounds_have_their_length_and_stay_within_full_scale(name: str, seconds: float) -> None:
    for seed in range(3):
        samples = SOUNDS[name](np.random.default_rng(seed), seconds)
        assert samples.dtype == np.float32
        assert len(samples) == round(seconds * SAMPLE_RATE)
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1


def test_levels_and_colours() -> None:
    rng = np.random.default_rng(1)
    white, brown = (coloured_noise(rng, 4.0, exponent) for exponent in (0.0, -1.0))
    assert float(np.sqrt(np.mean(at_level(white, -30) ** 2))) == pytest.approx(10 ** (-30 / 20), rel=0.01)
    high = [np.abs(np.fft.rfft(noise))[16_000:].mean() for noise in (white, brown)]
    assert high[0] > 10 * high[1]


@pytest.mark.parametrize(
    ("case", "text", "heard", "wrong"),
    [
        (Case("noise", b"x"), "", False, None),
        (Case("noise", b"x"), "Thank you.", False, "invented"),
        (Case("noise", b"x"), "谢谢观看", False, "invented"),
        (Case("noise", b"x"), "Thank you.", True, None),
        (Case("noise", b"x"), "thank you " * 20, True, "loop"),
        (Case("speech", b"x", most_words=4), "One two three four.", False, None),
        (Case("speech", b"x", most_words=4), "One two three four five.", False, "invented"),
        (Case("speech", b"x", most_words=4), "", False, None),
        (Case("speech", b"x", most_words=4, must_be_heard=True), "", False, "nothing heard"),
    ],
)
def test_judging(case: Case, text: str, heard: bool, wrong: str | None) -> None:
    problem = judge(case, text, heard=heard)
    assert (problem is None) is (wrong is None)
    assert wrong is None or wrong in str(problem)


DELTA = 'data: {"type":"transcript.text.delta","delta":"Hi"}\n\n'
DONE = 'data: {"type":"transcript.text.done","text":"%s"}\n\n'


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (DELTA + DONE % "Hi" + "data: [DONE]\n\n", None),
        (DELTA + DONE % "Hi." + "data: [DONE]\n\n", "deltas"),
        (DELTA, "without an end"),
        (DONE % "" + "data: [DONE]\n\n", None),
    ],
)
def test_streams_must_end_and_join_to_their_text(body: str, wrong: str | None) -> None:
    _, problem = hostile._text(httpx.Response(200, text=body), streamed=True)
    assert (problem is None) is (wrong is None)
    assert wrong is None or wrong in str(problem)


async def test_a_server_that_fails_or_is_not_there_is_wrong() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        if b"hang up" in request.content:
            raise httpx.ReadError("gone")
        return httpx.Response(500, text="Internal Server Error")

    async with httpx.AsyncClient(base_url="http://x/v1/", transport=httpx.MockTransport(answer)) as http:
        failed = await hostile.send(http, Case("noise", b"x"), heard=False)
        gone = await hostile.send(http, Case("noise", b"hang up"), heard=False)
    assert failed.problem == "500 Internal Server Error"
    assert gone.problem == "ReadError gone"


def test_the_table_counts_by_kind_and_in_all() -> None:
    noise, broken = Case("noise", b"x"), Case("broken off", b"x")
    outcomes = [
        Outcome(noise, 200, "", 0.5, None),
        Outcome(noise, 200, "Oh.", 0.25, "invented"),
        Outcome(broken, 400, "", 0.125, None),
    ]
    assert rows_of(outcomes) == [
        ["noise", 2, 0, 1, 1, 1, 0.5],
        ["broken off", 1, 1, 0, 0, 0, 0.125],
        ["all", 3, 1, 1, 1, 1, 0.5],
    ]
