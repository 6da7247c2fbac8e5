"""A model card that says what was measured."""

import json
from pathlib import Path
from typing import Any

TABLE_START, TABLE_END = "<!-- metrics -->", "<!-- end of metrics -->"


def write_metrics(checkpoint: Path, metrics: list[dict[str, Any]], table: str) -> None:
    """Write `metrics.json`, and the table between its two marks in the model card if there is one."""
    (checkpoint / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    card = checkpoint / "README.md"
    if not card.exists():
        return
    before, _, rest = card.read_text(encoding="utf-8").partition(TABLE_START)
    _, _, after = rest.partition(TABLE_END)
    card.write_text(f"{before}{TABLE_START}\n{table}\n{TABLE_END}{after}", encoding="utf-8")
