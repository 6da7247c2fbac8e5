"""Requests by OpenAI's own SDK, with its own retries, and whether the answers are right."""

import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import openai

from benchmarks.scoring import Pair, error_rate
from benchmarks.soak.cases import Case, Recording

MODEL = "qwen3-asr-demo"
TIMEOUT_S = 600
MAX_ERROR_RATE = 0.25
"""Of an answer that is not word for word the one that the recording got when nothing else ran."""

RIGHT, DIFFERS, WRONG = "right", "right, in other words", "WRONG"
REFUSED, HUNG_UP = "refused, as it must be", "hung up"
GOOD = frozenset({RIGHT, DIFFERS, REFUSED, HUNG_UP})


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    case: Case
    kind: str
    """One of those above, or what went wrong."""
    latency_s: float
    """From its arrival to the whole answer, with all tries."""
    ended_at: float
    """By the monotonic clock."""
    detail: str = ""


@dataclass
class Client:
    """Sends cases to a service.

    Args:
        url: the SDK's `base_url`.
        max_retries: the SDK's.
    """

    url: str
    max_retries: int = openai.DEFAULT_MAX_RETRIES
    tries: Counter[str] = field(default_factory=Counter)
    """Answers by status, each try counted, and tries that got none."""
    alone: dict[str, str] = field(default_factory=dict)
    """What each recording got when nothing else ran."""

    def __post_init__(self) -> None:
        self._sdk = openai.AsyncOpenAI(
            base_url=self.url,
            api_key="none",
            max_retries=self.max_retries,
            timeout=TIMEOUT_S,
            http_client=openai.DefaultAsyncHttpxClient(
                trust_env=False,
                timeout=TIMEOUT_S,
                event_hooks={"request": [self._sent], "response": [self._answered]},
            ),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._sdk.close()

    async def learn(self, recordings: list[Recording]) -> list[Recording]:
        """Send each recording alone, and return those that the model understands: of the others nothing follows."""
        known = []
        for recording in recordings:
            answer = await self._sdk.audio.transcriptions.create(file=("a.wav", recording.upload), model=MODEL)
            if error_rate([Pair(recording.text, answer.text, recording.language)]) <= MAX_ERROR_RATE:
                self.alone[recording.name] = answer.text
                known.append(recording)
        self.tries.clear()
        return known

    async def send(self, case: Case) -> Outcome:
        """Send a case and wait for what comes of it; raises nothing that a service can be guilty of."""
        arrived_at = time.monotonic()
        detail = ""
        try:
            async with asyncio.timeout(case.hangs_up_after_s):
                text = await self._ask(case)
        except TimeoutError:
            kind = HUNG_UP
        except openai.BadRequestError as error:
            kind, detail = (REFUSED, "") if case.recording is None else ("400", str(error))
        except openai.APIStatusError as error:
            kind, detail = f"{error.status_code}", f"{error.message} {error.response.text[:300]}"
        except (openai.APIConnectionError, openai.APIError) as error:
            kind, detail = type(error).__name__, f"{error} {error.__cause__!r}"
        except Exception as error:  # what the SDK does not expect of a service, such as a stream that breaks off
            kind, detail = type(error).__name__, repr(error)
        else:
            kind, detail = self._judge(case, text)
        now = time.monotonic()
        return Outcome(case, kind, now - arrived_at, now, detail)

    def _judge(self, case: Case, text: str) -> tuple[str, str]:
        if case.recording is None:
            return WRONG, f"a bad file was answered with {text[:200]!r}"
        expected = self.alone[case.recording.name]
        if _letters(text) == _letters(expected):
            return RIGHT, ""
        if error_rate([Pair(case.recording.text, text, case.recording.language)]) <= MAX_ERROR_RATE:
            return DIFFERS, f"{text!r}, alone {expected!r}"
        return WRONG, f"{text!r}, alone {expected!r}"

    async def _ask(self, case: Case) -> str:
        create: Any = self._sdk.audio.transcriptions.create
        file = ("a.wav", case.upload)
        match case.form:
            case "stream":
                deltas, done = [], None
                async for event in await create(file=file, model=MODEL, stream=True):
                    if event.type == "transcript.text.delta":
                        deltas.append(event.delta)
                    else:
                        done = event.text
                if done is None or "".join(deltas) != done:
                    raise ValueError(f"a stream of {deltas} ended with {done!r}")
                return str(done)
            case "json":
                return str((await create(file=file, model=MODEL)).text)
            case "verbose_json":
                return str((await create(file=file, model=MODEL, response_format="verbose_json")).text)
            case "segments":
                answer = await create(
                    file=file, model=MODEL, response_format="verbose_json", timestamp_granularities=["segment"]
                )
                return " ".join(segment.text for segment in answer.segments or [])
            case "srt" | "vtt":
                return _spoken(str(await create(file=file, model=MODEL, response_format=case.form)))
            case "text":
                return str(await create(file=file, model=MODEL, response_format="text"))

    async def _sent(self, _: object) -> None:
        self.tries["no answer"] += 1

    async def _answered(self, response: Any) -> None:
        self.tries["no answer"] -= 1
        self.tries[str(response.status_code)] += 1
        if response.status_code >= 400:
            await response.aread()
            if not _has_envelope(response):
                self.tries[f"{response.status_code} without OpenAI's envelope"] += 1


def _has_envelope(response: Any) -> bool:
    try:
        return set(json.loads(response.text)["error"]) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        return False


def _spoken(subtitles: str) -> str:
    """The text of subtitles without numbers and times."""
    lines = [line for line in subtitles.splitlines() if "-->" not in line]
    return " ".join(line for line in lines if line != "WEBVTT" and not re.fullmatch(r"\d*", line))


def _letters(text: str) -> str:
    """A text without blanks: where lines are broken is another matter."""
    return "".join(text.split())
