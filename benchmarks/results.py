"""Every benchmark's figures as JSON, with what they were measured on: `docs/performance.md` is rendered from these."""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine

FOLDER = Path(__file__).parent / "results"

Cell = str | int | float | None


@dataclass(frozen=True)
class Result:
    """One table, and how it came about."""

    measured_at: str
    """UTC, ISO 8601."""
    command: str
    machine: str
    versions: dict[str, str]
    settings: dict[str, Cell]
    """What the figures depend on and the command line does not show."""
    columns: list[str]
    rows: list[list[Cell]]


def save(
    name: str, command: str, settings: dict[str, Cell], columns: list[str], rows: list[list[Cell]], *, to: Path = FOLDER
) -> Path:
    """Write a table to `NAME.json` in the folder `to`, over an older one of that name. Returns the file.

    Args:
        name: of the result, as in `<!-- results:NAME -->` of the documentation.
        command: what a reader types to measure it again; see `command_line`.
        settings: what the figures depend on and the command does not show.
        columns: headings, with units.
        rows: one cell for each column; None for what was not measured.

    Raises:
        ValueError: a row is not as long as there are columns, or a figure is not finite.
    """
    if wrong := [row for row in rows if len(row) != len(columns)]:
        raise ValueError(f"{len(columns)} columns but {len(wrong[0])} cells: {wrong[0]}")
    result = Result(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        machine=machine.hardware(),
        versions=machine.versions(),
        settings=settings,
        columns=columns,
        rows=rows,
    )
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"{name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def load(path: Path) -> Result:
    """Read what `save` wrote."""
    return Result(**json.loads(path.read_text(encoding="utf-8")))


def command_line(module: str) -> str:
    """The running command as a user types it: `python -m MODULE` with its arguments."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Markdown, with figures to three significant digits."""
    lines = [columns, ["---"] * len(columns), *([_written(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(cell: Cell) -> str:
    if cell is None:
        return "–"
    if not isinstance(cell, float) or cell == 0:
        return f"{cell:g}" if isinstance(cell, float) else str(cell)
    digits = 2 - math.floor(math.log10(abs(cell)))
    return f"{cell:.{max(0, min(digits, 4))}f}"
