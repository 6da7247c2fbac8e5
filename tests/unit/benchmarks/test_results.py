"""What benchmarks save, and the page that shows it."""

import json
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.results import Cell

COLUMNS = ["load", "requests", "p50 s"]
PAGE = """# Title
<!-- results:load -->
old
<!-- end of results:load -->
text
<!-- results:other -->
<!-- end of results:other -->
"""
ROWS: list[list[Cell]] = [["concurrency 1", 32, 0.5], ["concurrency 8", 32, None]]


def test_the_pages_show_what_was_saved() -> None:
    """No figure in the documentation is written by hand: `python -m benchmarks.report` changes nothing."""
    pages = [path.read_text(encoding="utf-8") for path in report.PAGES]
    report.check_places(pages, report.saved())
    assert [report.render(page, report.saved()) for page in pages] == pages


def test_saving_and_rendering(tmp_path: Path) -> None:
    path = results.save("load", "python -m benchmarks.load", {"ASR_MODEL": "demo"}, COLUMNS, ROWS, to=tmp_path)
    assert path == tmp_path / "load.json"
    assert json.loads(path.read_text())["rows"] == ROWS
    rendered = report.render(PAGE, report.saved(tmp_path))
    assert "| concurrency 1 | 32 | 0.500 |\n| concurrency 8 | 32 | – |" in rendered
    assert "`python -m benchmarks.load`, 20" in rendered
    assert "ASR_MODEL=demo" in rendered
    assert "torch 2." in rendered
    assert "old" not in rendered
    assert "text\n<!-- results:other -->\nNot measured yet.\n<!-- end of results:other -->\n" in rendered
    assert report.render(rendered, report.saved(tmp_path)) == rendered


def test_a_result_without_a_place_is_told(tmp_path: Path) -> None:
    results.save("lost", "x", {}, COLUMNS, ROWS, to=tmp_path)
    with pytest.raises(ValueError, match="has a place for the result 'lost': add the lines <!-- results:lost -->"):
        report.check_places([PAGE], report.saved(tmp_path))


@pytest.mark.parametrize("row", [["too", "short"], ["not", "finite", float("nan")]])
def test_a_row_that_says_nothing_is_refused(tmp_path: Path, row: list[Cell]) -> None:
    with pytest.raises(ValueError, match=r"cells|JSON"):
        results.save("bad", "x", {}, COLUMNS, [row], to=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        (None, "–"),
        (3, "3"),
        (0.0, "0"),
        (0.00123456, "0.0012"),
        (0.0275, "0.0275"),
        (7.8, "7.80"),
        (248.6, "249"),
        (1234.5, "1234"),
    ],
)
def test_figures_have_three_significant_digits(cell: Cell, written: str) -> None:
    assert results.table(["x"], [[cell]]).splitlines()[-1] == f"| {written} |"
