"""Put the measured figures into the pages of `docs/`, each table between the two marks that name it.

    python -m benchmarks.report

The tables come from `benchmarks/results/*.json`, which the benchmarks write with `--save NAME`. Run it as often as you
like: the same results give the same pages.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks import results
from benchmarks.results import Result

DOCS = Path(__file__).parents[1] / "docs"
PAGES = (DOCS / "performance.md", DOCS / "scaling.md", DOCS / "operations.md")
NOT_MEASURED = "Not measured yet."

_BLOCK = re.compile(r"<!-- results:(?P<name>[\w-]+) -->\n.*?<!-- end of results:(?P=name) -->", re.DOTALL)


def render(page: str, measured: dict[str, Result]) -> str:
    """The page with every table as measured."""

    def fill(block: re.Match[str]) -> str:
        name = block["name"]
        content = _written(measured[name]) if name in measured else NOT_MEASURED
        return f"<!-- results:{name} -->\n{content}\n<!-- end of results:{name} -->"

    return _BLOCK.sub(fill, page)


def check_places(pages: Iterable[str], measured: dict[str, Result]) -> None:
    """Every result is shown on some page.

    Raises:
        ValueError: none has a place for one of them.
    """
    places = {block["name"] for page in pages for block in _BLOCK.finditer(page)}
    if homeless := sorted(measured.keys() - places):
        name = homeless[0]
        raise ValueError(
            f"No page has a place for the result {name!r}: add the lines <!-- results:{name} --> and "
            f"<!-- end of results:{name} --> where its table belongs."
        )


def _written(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    settings = "".join(f" {name}={value}." for name, value in result.settings.items())
    return (
        f"{results.table(result.columns, result.rows)}\n\n"
        f"`{result.command}`, {result.measured_at[:10]}, on {result.machine}; {versions}.{settings}"
    )


def saved(folder: Path = results.FOLDER) -> dict[str, Result]:
    """All saved results by name."""
    return {path.stem: results.load(path) for path in sorted(folder.glob("*.json"))}


def main() -> None:
    """Render the pages in place."""
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    measured = saved()
    try:
        check_places(pages.values(), measured)
    except ValueError as error:
        sys.exit(str(error))
    for path, page in pages.items():
        path.write_text(render(page, measured), encoding="utf-8")


if __name__ == "__main__":
    main()
