"""Recordings that make speech recognisers invent text, loop, hang or fail. This service may do none of it.

    python -m benchmarks.hostile                                       # 200 of them; starts the service and ends it
    python -m benchmarks.hostile --url http://127.0.0.1:8000/v1 --only 17
    python -m benchmarks.hostile --hour silence noise music            # an hour of each
    python -m benchmarks.hostile --heard                               # the model hears all of it, speech or not

Silence, noise of all colours, hum, tones, music, samples that are no numbers, headers that lie, files that break off:
in these nobody speaks, and the text must be empty. Words said dozens of times, speech that is hardly audible or covered
by noise: in these somebody does, and the answer may not have more words than can have been said. Each case follows from
its number alone. Some are streamed, some have a prompt. A refusal with a 400 is a good answer to a broken file.

With `--heard` speech finding is switched off (`threshold` 0), so that the model is asked about everything: that it
invents text then is its own affair, and counted; that it neither loops nor hangs nor fails is what is tried.

Exits with 1 where an answer is wrong. `--hour` with `--url` needs a service with a large `max_upload_bytes`.
"""

import argparse
import asyncio
import io
import json
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import httpx
import numpy as np
from numpy.random import Generator

from benchmarks import hostile_sounds as sounds
from benchmarks import machine, results
from benchmarks.clips import ALL_IS_SPEECH
from benchmarks.fuzz import verdict
from benchmarks.hostile_sounds import SOUNDS, at_level
from benchmarks.results import Cell
from benchmarks.scoring import Pair, units
from benchmarks.service import serving, settings_in_environment
from deployments.audio.decode import decode
from deployments.audio.waveform import SAMPLE_RATE, Waveform
from deployments.transcription.guards import has_loop
from tests.media import encode
from tests.speech import RECORDINGS, Recording

COLUMNS = ["recordings", "sent", "refused", "empty", "with text", "wrong", "slowest s"]
CASES = 200
TIMEOUT_S = 120
HOUR_TIMEOUT_S = 1800
FASTEST_SPEECH = 6.0
"""Words a second, or characters of Chinese."""
AUDIBLE_DBFS = -55
"""Speech of this level must not be taken for silence."""
PROMPT = "Names: Ada Lovelace, Grace Hopper. 名字：张伟。"
_SETTINGS = {
    "ASR_MAX_UPLOAD_BYTES": "1000000000",
    "ASR_REQUEST_TIMEOUT_S": str(HOUR_TIMEOUT_S),
    **settings_in_environment(),
}
_CONTAINERS = ("mp3", "flac", "opus", "ogg-vorbis", "m4a", "webm", "wav", "mka", "aac")


@dataclass(frozen=True)
class Case:
    """One recording, and what may be answered to it."""

    kind: str
    upload: bytes
    name: str = "recording.wav"
    fields: Mapping[str, str] = field(default_factory=dict)
    most_words: int = 0
    """More words than that were not said in it: 0 where nobody speaks."""
    must_be_heard: bool = False
    said: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came back."""

    case: Case
    status: int | None
    text: str
    took_s: float
    problem: str | None
    warnings: str = ""


def make_case(number: int) -> Case:
    """The case of that number."""
    kinds = list(KINDS)
    kind = kinds[number % len(kinds)]
    rng = np.random.default_rng(number)
    case = KINDS[kind](rng)
    fields = dict(case.fields)
    if rng.random() < 0.3:
        fields["prompt"] = PROMPT
    fields |= ({}, {"stream": "true"}, {"response_format": "verbose_json"})[rng.integers(3)]
    return Case(kind, case.upload, case.name, fields, case.most_words, case.must_be_heard, case.said)


def _nobody(make: sounds.Maker) -> Callable[[Generator], Case]:
    def case(rng: Generator) -> Case:
        return Case("", _wav(make(rng, _seconds(rng))))

    return case


def _short(rng: Generator) -> Case:
    """A tenth of a second of something, or less."""
    make = SOUNDS[rng.choice(list(SOUNDS))]
    return Case("", _wav(make(rng, rng.uniform(0.001, 0.2))))


def _mixed(rng: Generator) -> Case:
    """Several sounds at once, and one after the other."""
    seconds = _seconds(rng)
    chosen = [SOUNDS[name] for name in rng.choice(list(SOUNDS), 3, replace=False)]
    at_once = sum((make(rng, seconds) for make in chosen), np.zeros(round(seconds * SAMPLE_RATE), np.float32))
    in_turn = np.concatenate([make(rng, seconds / 3) for make in chosen])
    return Case("", _wav(np.clip(np.concatenate([at_once, in_turn]), -1, 1)))


def _no_numbers(rng: Generator) -> Case:
    """Float WAV with samples that are infinite or no numbers, or far beyond full scale."""
    waveform = SOUNDS[rng.choice(["silence", "white noise", "chords"])](rng, _seconds(rng)).copy()
    places = rng.integers(0, len(waveform), rng.choice([1, 100, len(waveform)]))
    waveform[places] = rng.choice(np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45], np.float32), len(places))
    return Case("", _wav(waveform, float_samples=True))


def _lying_header(rng: Generator) -> Case:
    """A WAV header that says something else than what follows it."""
    samples = _wav(SOUNDS[rng.choice(["silence", "pink noise", "mains hum"])](rng, _seconds(rng)))[44:]
    fmt = struct.pack(
        "<HHIIHH",
        rng.choice([0, 1, 3, 6, 7, 0xFFFE]),
        rng.choice([0, 1, 2, 9]),
        rng.choice([0, 1, 4_000, 8_000, 44_100, 192_000, 0xFFFFFFFF]),
        rng.choice([0, 32_000, 0xFFFFFFFF]),
        rng.choice([0, 1, 2, 4, 0xFFFF]),
        rng.choice([0, 1, 8, 16, 24, 32, 64]),
    )
    size = rng.choice([0, 1, len(samples), 2 * len(samples), 0xFFFFFFFF])
    head = b"RIFF" + struct.pack("<I", rng.choice([0, size, 0xFFFFFFFF])) + b"WAVEfmt " + struct.pack("<I", len(fmt))
    return Case("", head + fmt + b"data" + struct.pack("<I", size) + samples)


def _breaks_off(rng: Generator) -> Case:
    """A file of some format that ends too early, or has a hole."""
    kind = str(rng.choice(_CONTAINERS))
    whole = encode(SOUNDS[rng.choice(["pink noise", "chords", "mains hum"])](rng, _seconds(rng)), kind)
    cut = whole[: rng.integers(1, len(whole))]
    if rng.random() < 0.3:
        cut += bytes(rng.integers(0, 5000)) + whole[len(cut) + 1000 :]
    return Case("", cut, f"recording.{kind.split('-')[0]}")


def _no_media(rng: Generator) -> Case:
    """Random bytes behind a beginning that promises media."""
    start = rng.choice(
        [b"RIFF", b"fLaC", b"OggS", b"ID3\x04", b"\x1aE\xdf\xa3", b"\x00\x00\x00\x20ftypM4A ", b"%PDF-1.7"]
    )
    return Case("", bytes(start) + rng.bytes(rng.choice([0, 40, 4_000, 60_000])), "recording.mp3")


def _looping(rng: Generator) -> Case:
    """A second of speech or less, said dozens of times without a pause or with one."""
    recording, waveform = _spoken(rng)
    length = rng.uniform(0.25, 1.0)
    start = rng.integers(4800, max(4801, len(waveform) - 4800 - round(length * SAMPLE_RATE)))
    word = waveform[start : start + round(length * SAMPLE_RATE)]
    pause = np.zeros(round(rng.choice([0, 0.05, 0.4]) * SAMPLE_RATE), np.float32)
    looped = np.tile(np.concatenate([word, pause]), rng.integers(8, 60))
    return _speech_case(recording, looped, said=None)


def _quiet(rng: Generator) -> Case:
    """Speech that a microphone hardly caught."""
    recording, waveform = _spoken(rng)
    level = rng.uniform(-65, -45)
    return _speech_case(recording, at_level(waveform, level), must_be_heard=level > AUDIBLE_DBFS)


def _covered(rng: Generator) -> Case:
    """Speech in the middle of a sound that is softer."""
    recording, waveform = _spoken(rng)
    before, after = rng.uniform(1, 20, 2)
    samples = np.concatenate([np.zeros(round(before * SAMPLE_RATE)), waveform, np.zeros(round(after * SAMPLE_RATE))])
    make = SOUNDS[rng.choice(["pink noise", "mains hum", "music", "clicks", "engine", "offset"])]
    cover = at_level(make(rng, len(samples) / SAMPLE_RATE + 0.01)[: len(samples)], rng.uniform(-60, -25))
    return _speech_case(recording, np.clip(at_level(samples, -26) + cover, -1, 1), must_be_heard=True)


def _at_an_end(rng: Generator) -> Case:
    """Speech at the very end of long silence."""
    recording, waveform = _spoken(rng)
    samples = np.concatenate([sounds.silence(rng, rng.uniform(20, 90)), waveform])
    return _speech_case(recording, samples, must_be_heard=True)


KINDS: dict[str, Callable[[Generator], Case]] = {
    **{name: _nobody(make) for name, make in SOUNDS.items()},
    "0.2 s or less": _short,
    "mixed sounds": _mixed,
    "no numbers": _no_numbers,
    "lying header": _lying_header,
    "broken off": _breaks_off,
    "no media": _no_media,
    "a word over and over": _looping,
    "very quiet speech": _quiet,
    "covered speech": _covered,
    "speech after silence": _at_an_end,
}


def _seconds(rng: Generator) -> float:
    return float(rng.choice([rng.uniform(0.2, 3), rng.uniform(3, 30), rng.uniform(30, 75)]))


def _spoken(rng: Generator) -> tuple[Recording, Waveform]:
    recording = RECORDINGS[rng.integers(len(RECORDINGS))]
    with recording.path.open("rb") as file:
        return recording, decode(file, max_duration_s=60)


def _speech_case(
    recording: Recording, waveform: Waveform, *, must_be_heard: bool = False, said: str | None = ""
) -> Case:
    """With `said` None nobody knows what is said in it, but how fast it can have been."""
    if said is None:
        most = round(FASTEST_SPEECH * len(waveform) / SAMPLE_RATE) + 2
    else:
        said = recording.text
        most = round(1.5 * len(_words(said))) + 2
    return Case("", _wav(waveform), most_words=most, must_be_heard=must_be_heard, said=said)


def _words(text: str) -> list[str]:
    return units(text, by_character=Pair(text, text, None).by_character)


def _wav(waveform: Waveform, *, float_samples: bool = False) -> bytes:
    if float_samples:
        data, tag, width = waveform.astype("<f4").tobytes(), 3, 4
    else:
        data, tag, width = (np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes(), 1, 2
    file = io.BytesIO()
    file.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt \x10\0\0\0")
    file.write(struct.pack("<HHIIHH", tag, 1, SAMPLE_RATE, SAMPLE_RATE * width, width, 8 * width))
    file.write(b"data" + struct.pack("<I", len(data)) + data)
    return file.getvalue()


async def send(http: httpx.AsyncClient, case: Case, *, heard: bool) -> Outcome:
    """Send one case and judge its answer; never raises for what the service does."""
    fields = {"model": await _model(http), **case.fields, **(ALL_IS_SPEECH if heard else {})}
    started = time.perf_counter()
    try:
        answer = await http.post("audio/transcriptions", data=fields, files={"file": (case.name, case.upload)})
    except httpx.HTTPError as error:
        return Outcome(case, None, "", time.perf_counter() - started, f"{type(error).__name__} {error}".strip())
    took_s = time.perf_counter() - started
    problem, text = verdict(answer), ""
    if problem is None and answer.status_code == 200:
        text, problem = _text(answer, streamed=fields.get("stream") == "true")
        problem = problem or judge(case, text, heard=heard)
    return Outcome(case, answer.status_code, text, took_s, problem, answer.headers.get("x-asr-warnings", ""))


def judge(case: Case, text: str, *, heard: bool) -> str | None:
    """What is wrong with the text of an answer; None if nothing is.

    Args:
        case: what was sent.
        text: what came back.
        heard: whether the model was made to hear what is no speech; what it invents then is no fault of the service.
    """
    if has_loop(text):
        return f"a loop: {text[:100]!r}"
    words = _words(text)
    if not heard and len(words) > case.most_words:
        return f"invented, {len(words)} words where at most {case.most_words} were said: {text[:100]!r}"
    if case.must_be_heard and not words:
        return "nothing heard where somebody speaks"
    return None


def _text(answer: httpx.Response, *, streamed: bool) -> tuple[str, str | None]:
    """The text of an answer, and what is wrong with its form."""
    if not streamed:
        return str(answer.json()["text"]), None
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    if not events or events[-1] != "[DONE]":
        return "", f"a stream without an end: {answer.text[-200:]!r}"
    told = [json.loads(event) for event in events[:-1]]
    deltas = "".join(event["delta"] for event in told if event["type"].endswith(".delta"))
    text = told[-1]["text"]
    return text, None if deltas == text else f"deltas {deltas[-100:]!r} for the text {text[-100:]!r}"


async def _model(http: httpx.AsyncClient) -> str:
    answer = await http.get("models")
    answer.raise_for_status()
    return str(answer.json()["data"][0]["id"])


async def run(url: str, numbers: range, concurrency: int, *, heard: bool) -> list[Outcome]:
    """Send the cases of these numbers."""
    waiting = iter(numbers)
    outcomes: dict[int, Outcome] = {}

    async with _client(url, TIMEOUT_S) as http:

        async def work() -> None:
            for number in waiting:
                outcomes[number] = await send(http, await asyncio.to_thread(make_case, number), heard=heard)
                if problem := outcomes[number].problem:
                    print(f"case {number}, {outcomes[number].case.kind}: {problem}", flush=True)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    return [outcomes[number] for number in numbers]


async def run_hours(url: str, kinds: list[str]) -> list[Outcome]:
    """Send an hour of each kind of sound, one after the other."""
    outcomes = []
    async with _client(url, HOUR_TIMEOUT_S) as http:
        for kind in kinds:
            outcomes.append(await send(http, await asyncio.to_thread(hour_of, kind), heard=False))
            print(f"an hour of {kind}: {outcomes[-1].problem or 'empty text'}, {outcomes[-1].took_s:.1f} s", flush=True)
    return outcomes


def hour_of(kind: str) -> Case:
    """An hour of silence, noise or music, minute by minute another, as a FLAC or MP3 file."""
    rng = np.random.default_rng(len(kind))
    minutes = [HOURS[kind](rng, 60.0) for _ in range(60)]
    codec = "flac" if kind == "silence" else "mp3"
    return Case(f"an hour of {kind}", encode(np.concatenate(minutes), codec), f"hour.{codec}")


def _any_noise(rng: Generator, seconds: float) -> Waveform:
    return sounds.noise(rng.choice(list(sounds.NOISE_EXPONENTS.values())))(rng, seconds)


HOURS: dict[str, sounds.Maker] = {"silence": sounds.silence, "noise": _any_noise, "music": sounds.music}


def rows_of(outcomes: list[Outcome]) -> list[list[Cell]]:
    """One row of the table for each kind, and one for all."""
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.case.kind].append(outcome)
    if len(by_kind) > 1:
        by_kind["all"] = outcomes
    return [
        [
            kind,
            len(these),
            sum(outcome.status is not None and 400 <= outcome.status < 500 for outcome in these),
            sum(outcome.status == 200 and not outcome.text for outcome in these),
            sum(bool(outcome.text) for outcome in these),
            sum(outcome.problem is not None for outcome in these),
            max(outcome.took_s for outcome in these),
        ]
        for kind, these in by_kind.items()
    ]


def _client(url: str, timeout_s: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"{url.rstrip('/')}/", timeout=timeout_s, trust_env=False)


async def _show(url: str, number: int, *, heard: bool) -> None:
    case = make_case(number)
    async with _client(url, TIMEOUT_S) as http:
        outcome = await send(http, case, heard=heard)
    print(f"{case.kind}, {len(case.upload)} bytes, {dict(case.fields)}, said: {case.said}")
    print(f"{outcome.status}, {outcome.took_s:.1f} s, {outcome.text!r}", outcome.warnings, outcome.problem, sep="\n")


def main() -> None:
    """Send all cases, or hours, or show one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running service; without it one is started")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--heard", action="store_true", help="have the model hear what is no speech, too")
    parser.add_argument("--only", type=int, help="send this case alone and show its answer")
    parser.add_argument("--hour", nargs="+", choices=HOURS, help="send an hour of these in place of the cases")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    print(machine.describe())
    with nullcontext() if arguments.url else serving(_SETTINGS) as service:
        url = f"{service.url}/v1" if service is not None else arguments.url
        if arguments.only is not None:
            asyncio.run(_show(url, arguments.only, heard=arguments.heard))
            return
        if arguments.hour:
            outcomes = asyncio.run(run_hours(url, arguments.hour))
        else:
            numbers = range(arguments.first, arguments.first + arguments.cases)
            outcomes = asyncio.run(run(url, numbers, arguments.concurrency, heard=arguments.heard))
    rows = rows_of(outcomes)
    print(results.table(COLUMNS, rows))
    if arguments.save:
        settings: dict[str, Cell] = {} if arguments.url else {**_SETTINGS}
        print(results.save(arguments.save, results.command_line("benchmarks.hostile"), settings, COLUMNS, rows))
    if any(outcome.problem for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
