"""Error rates and speed on an evaluation set, at a given concurrency, with limits for CI.

    python -m benchmarks.asr_ci                                               # the demo set, on a service of its own
    python -m benchmarks.asr_ci --url http://127.0.0.1:8000/v1 --dataset seedtts_testset/en --concurrency 32 \\
        --max-wer 0.0134 --max-p95-s 0.209 --min-requests-per-s 223

Without `--url` it starts this project's service, with its settings from the environment (`ASR_MODEL=...`), and ends it
afterwards. Every limit that is missed is named, and makes the exit status 1; so does a request that fails. Reported are
the corpus word error rate of languages with spaces and the character error rate of the others, after lower case and
without punctuation. Each recording's language is sent with it where the set tells it, unless `--detect-language`.
"""

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import clips, datasets, machine, results
from benchmarks.client import Client, Clip, Run, Statistics, closed_loop, failures
from benchmarks.datasets import DatasetError, Recording
from benchmarks.load import form_field
from benchmarks.results import Cell
from benchmarks.scoring import ErrorRates, Pair, error_rate
from benchmarks.service import Service, settings_in_environment
from deployments.exceptions import InvalidAudio
from deployments.transcription.languages import NAME_TO_CODE

WARM_UP_S = 2.0
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the set gave."""

    speed: Statistics
    errors: ErrorRates


@dataclass(frozen=True)
class Gate:
    """A figure that may be limited on the command line."""

    option: str
    """Its limit, such as `max_p95_s`: `max_` or `min_` and the name of the figure."""
    figure: Callable[[Evaluation], float | None]
    help: str

    def verdict(self, evaluation: Evaluation, limit: float) -> str | None:
        """One sentence if the limit is missed."""
        kind, name = self.option.split("_", 1)
        found = self.figure(evaluation)
        if found is None:
            return f"{name} was not measured, the limit is {limit:g}"
        if kind == "max" and found > limit:
            return f"{name} is {found:.4g}, above the limit of {limit:g}"
        if kind == "min" and found < limit:
            return f"{name} is {found:.4g}, below the limit of {limit:g}"
        return None


GATES = (
    Gate("max_wer", lambda e: _fraction(e.errors.wer_percent), "corpus word error rate, as a fraction"),
    Gate("max_cer", lambda e: _fraction(e.errors.cer_percent), "corpus character error rate, as a fraction"),
    Gate("max_clip_error", lambda e: _fraction(e.errors.worst_clip_percent), "error rate of the worst recording"),
    Gate("max_failed", lambda e: e.speed.failed, "failed requests"),
    Gate("max_mean_s", lambda e: e.speed.mean_s, "mean latency"),
    Gate("max_p95_s", lambda e: e.speed.p95_s, "95th percentile of the latency"),
    Gate("max_rtf_mean", lambda e: e.speed.rtf_mean, "mean real-time factor"),
    Gate("max_rtf_p95", lambda e: e.speed.rtf_p95, "95th percentile of the real-time factor"),
    Gate("min_requests_per_s", lambda e: e.speed.requests_per_s, "answered requests a second"),
    Gate("min_audio_s_per_s", lambda e: e.speed.audio_s_per_s, "seconds of audio transcribed a second"),
)

FIGURES: dict[str, Callable[[Evaluation], Cell]] = {
    "clips": lambda e: e.speed.requests,
    "failed": lambda e: e.speed.failed,
    "WER %": lambda e: e.errors.wer_percent,
    "CER %": lambda e: e.errors.cer_percent,
    "worst clip %": lambda e: e.errors.worst_clip_percent,
    "mean s": lambda e: e.speed.mean_s,
    "p95 s": lambda e: e.speed.p95_s,
    "RTF mean": lambda e: e.speed.rtf_mean,
    "RTF p95": lambda e: e.speed.rtf_p95,
    "requests/s": lambda e: e.speed.requests_per_s,
    "audio s/s": lambda e: e.speed.audio_s_per_s,
}


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def missed(evaluation: Evaluation, limits: dict[str, float | None]) -> list[str]:
    """One sentence for each limit that is not kept."""
    verdicts = (gate.verdict(evaluation, limit) for gate in GATES if (limit := limits[gate.option]) is not None)
    return [verdict for verdict in verdicts if verdict is not None]


async def transcribe(
    client: Client, recordings: list[Recording], concurrency: int, *, detect_language: bool = False
) -> Run:
    """Warm up with noise, which leaves nothing in any cache, then send every recording once."""
    noise = [clips.noise(WARM_UP_S, seed=seed, fields=clips.ALL_IS_SPEECH) for seed in range(concurrency)]
    await closed_loop(client, noise, concurrency)
    uploads = [_upload(recording, None if detect_language else recording.language) for recording in recordings]
    return await closed_loop(client, uploads, concurrency)


def _upload(recording: Recording, language: str | None) -> Clip:
    try:
        return clips.recorded(recording.path, {"language": NAME_TO_CODE[language]} if language else {})
    except InvalidAudio as error:
        raise DatasetError(f"{recording.path}: {error.message}") from None


def pairs(recordings: list[Recording], run: Run) -> list[Pair]:
    """What was said and heard, of the answered requests."""
    return [
        Pair(recording.text, exchange.text, recording.language)
        for recording, exchange in zip(recordings, run.exchanges, strict=True)
        if exchange.text is not None
    ]


@contextlib.contextmanager
def _service(url: str | None) -> Iterator[str]:
    """The base URL to measure: the given one, or that of a service started for it."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, Service(Path(folder) / "serve.log") as service:
        service.wait_until_ready()
        yield f"{service.url}/v1"


async def _measure(arguments: argparse.Namespace, url: str, recordings: list[Recording]) -> Run:
    async with Client(url, arguments.model, arguments.api_key, dict(arguments.extra)) as client:
        return await transcribe(client, recordings, arguments.concurrency, detect_language=arguments.detect_language)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="base URL of a running service")
    parser.add_argument("--model", help="by default the first that the service lists")
    parser.add_argument("--api-key", default="none")
    parser.add_argument("--dataset", default=datasets.DEMO, help="`demo`, a meta.lst or its folder, or a .jsonl file")
    parser.add_argument("--targets", action="store_true", help="of a meta.lst, the target sentences, not the prompts")
    parser.add_argument("--samples", type=int, help="only the first so many recordings")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--detect-language", action="store_true", help="do not tell the service the language")
    parser.add_argument("--extra", type=form_field, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    limits = parser.add_argument_group("limits; a missed one makes the exit status 1")
    for gate in GATES:
        default = 0.0 if gate.option == "max_failed" else None
        limits.add_argument(f"--{gate.option.replace('_', '-')}", type=float, default=default, help=gate.help)
    return parser


def main() -> None:
    """Transcribe the set, print the figures, hold them against the limits."""
    arguments = _parser().parse_args()
    print(machine.describe())
    try:
        recordings = datasets.read(arguments.dataset, targets=arguments.targets)[: arguments.samples]
        with _service(arguments.url) as url:
            run = asyncio.run(_measure(arguments, url, recordings))
    except DatasetError as error:
        sys.exit(str(error))
    except aiohttp.ClientError as error:
        sys.exit(f"{arguments.url} does not list its models: {error}. Is the service running? Else name one: --model.")
    found = pairs(recordings, run)
    for pair in sorted(found, key=lambda pair: -error_rate([pair]))[:SHOWN_ERRORS]:
        if rate := error_rate([pair]):
            print(f"{100 * rate:.0f} % wrong\n    said:  {pair.said}\n    heard: {pair.heard}")
    evaluation = Evaluation(Statistics.of(run), ErrorRates.of(found))
    columns = ["set", "concurrency", *FIGURES]
    name = Path(arguments.dataset).name
    row: list[Cell] = [name, arguments.concurrency, *(figure(evaluation) for figure in FIGURES.values())]
    print(results.table(columns, [row]))
    for line in failures([run]):
        print(line)
    if arguments.save:
        settings: dict[str, Cell] = {} if arguments.url else {**settings_in_environment()}
        print(results.save(arguments.save, results.command_line("benchmarks.asr_ci"), settings, columns, [row]))
    if verdicts := missed(evaluation, vars(arguments)):
        sys.exit("\n".join(verdicts))


if __name__ == "__main__":
    main()
