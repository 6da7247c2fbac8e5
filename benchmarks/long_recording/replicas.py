"""One recording on one ASR replica, and spread over two.

    python -m benchmarks.long_recording.replicas
    ASR_MODEL=.work/random-0.6B ASR_LOOP_DETECTION=false python -m benchmarks.long_recording.replicas \\
        --minutes 2 --max-new-tokens 40

Each replica computes with one thread, so that two of them have two cores; the ingress and the client share these. The
processor's seconds tell how the work was spread, and what it took in all.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from benchmarks import machine, results
from benchmarks.client import Client, Clip, Exchange
from benchmarks.long_recording.speech import join, speak
from benchmarks.results import Cell
from benchmarks.service import ROOT, Service, serving, settings_in_environment

COLUMNS = ["ASR replicas", "minutes", "s", "audio s/s", "times as fast", "processor s of each", "of the ingress"]
SENTENCES = 200
_SETTINGS = {
    "ASR_TORCH_THREADS": "1",
    "ASR_NUM_CPUS": "0.5",
    "ASR_MAX_UPLOAD_BYTES": "1000000000",
    **settings_in_environment(),
}


@dataclass(frozen=True)
class Measured:
    """The recording, sent some times to so many replicas; seconds are medians."""

    seconds: float
    took_s: float
    each_s: tuple[float, ...]
    """Processor time of each replica, most first."""
    ingress_s: float
    failed: tuple[str, ...]

    def row(self, one: "Measured") -> list[Cell]:
        """Of the table, beside one replica."""
        return [
            len(self.each_s),
            self.seconds / 60,
            self.took_s,
            self.seconds / self.took_s,
            one.took_s / self.took_s,
            " + ".join(f"{seconds:.1f}" for seconds in self.each_s),
            self.ingress_s,
        ]


def measure(replicas: int, clip: Clip, rounds: int) -> Measured:
    """On a service of its own with so many replicas."""
    with tempfile.TemporaryDirectory() as folder:
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
        (asr,) = (each for each in config["applications"][0]["deployments"] if each["name"] == "ASR")
        asr["num_replicas"] = replicas
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        with serving(_SETTINGS, path) as service:
            return asyncio.run(_send(service, clip, rounds))


async def _send(service: Service, clip: Clip, rounds: int) -> Measured:
    exchanges: list[Exchange] = []
    shares: list[list[float]] = []
    async with Client(f"{service.url}/v1") as client:
        await client.transcribe(clip)
        asr, (ingress,) = service.replicas("ASR"), service.replicas("Ingress")
        for _ in range(rounds):
            before = [_processor_s(process) for process in (*asr, ingress)]
            exchanges.append(await client.transcribe(clip))
            shares.append([_processor_s(process) - s for process, s in zip((*asr, ingress), before, strict=True)])
    *each, of_ingress = (statistics.median(values) for values in zip(*shares, strict=True))
    return Measured(
        clip.seconds,
        statistics.median(exchange.latency_s for exchange in exchanges),
        tuple(sorted(each, reverse=True)),
        of_ingress,
        tuple(exchange.error for exchange in exchanges if exchange.error is not None),
    )


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure, print the figures, save them where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the recording")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="times that it is sent")
    parser.add_argument("--save", metavar="NAME", help="write the figures to benchmarks/results/NAME.json")
    parser.add_argument("--max-new-tokens", type=int, help="of each utterance; random weights know no end")
    arguments = parser.parse_args()
    print(machine.describe())
    fields = {} if arguments.max_new_tokens is None else {"max_new_tokens": str(arguments.max_new_tokens)}
    clip = join(speak(SENTENCES), 60 * arguments.minutes, seed=0).clip(**fields)
    measured = [measure(replicas, clip, arguments.rounds) for replicas in arguments.replicas]
    rows = [each.row(measured[0]) for each in measured]
    print(results.table(COLUMNS, rows))
    if arguments.save:
        command = results.command_line("benchmarks.long_recording.replicas")
        print(results.save(arguments.save, command, {**_SETTINGS}, COLUMNS, rows))
    if failed := [error for each in measured for error in each.failed]:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
