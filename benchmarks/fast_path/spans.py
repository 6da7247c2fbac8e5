"""Where the time of a request goes: how long its OpenTelemetry spans last, written by every process to a file."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

FOLDER = "FAST_PATH_SPANS"
"""The environment variable that names the folder."""


class _Writer(SpanProcessor):
    """A line for each span that ends: its trace, its name and its nanoseconds."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / f"{os.getpid()}").open("a", buffering=1, encoding="utf-8")
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        """Write it."""
        if span.start_time is None or span.end_time is None:
            return
        trace = f"{span.context.trace_id:032x}" if span.context else "-"
        lengths = {span.name: span.end_time - span.start_time}
        if span.attributes and isinstance(decoded_s := span.attributes.get("asr.media_decode_seconds"), float):
            lengths["decode"] = round(decoded_s * 1e9)  # the span lasts while the file is listened to as well
        with self._lock:
            self._file.writelines(f"{trace}\t{name}\t{ns}\n" for name, ns in lengths.items())


def write_spans() -> list[SpanProcessor]:
    """Called by Serve in each of its processes, as `exporter_import_path`."""
    return [_Writer(Path(os.environ[FOLDER]))]


def milliseconds(folder: Path, traces: int) -> dict[str, float]:
    """The median of each span's length in the latest `traces` requests, in ms, with some of them put together.

    A span that a request has more than once counts with its sum.
    """
    lengths: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for trace, name, ns in _lines(folder):
        lengths[trace][name] += ns / 1e6
    requests = [spans for spans in lengths.values() if "recognise" in spans][-traces:]
    for spans in requests:
        spans["find speech, join"] = spans["recognise"] - spans["decode"] - spans.get("call", 0.0)
        if "replica_handle_request ASR transcribe" in spans:
            spans["to the model and back"] = spans["call"] - spans["replica_handle_request ASR transcribe"]
    names = {name for spans in requests for name in spans}
    return {name: median(spans[name] for spans in requests if name in spans) for name in sorted(names)}


def _lines(folder: Path) -> Iterator[tuple[str, str, int]]:
    for path in folder.iterdir():
        for line in path.read_text(encoding="utf-8").splitlines():
            trace, name, ns = line.split("\t")
            yield trace, name, int(ns)
