"""The metrics are named as Prometheus wants it, documented, and the dashboard uses no others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from deployments.observation.metrics import METRICS, PREFIX, RAY_METRICS, Metric

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "k8s" / "grafana" / "dashboard.json").read_text(encoding="utf-8"))

OURS = {metric.exported_name: metric for metric in METRICS}
BY_SERVE = {"application", "deployment", "replica"}


def _panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _expressions() -> list[str]:
    queries = [variable["query"] for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    return [target["expr"] for panel in _panels() for target in panel["targets"]] + [
        query["query"] for query in queries
    ]


def _series(expression: str) -> list[str]:
    return re.findall(rf"\b{PREFIX}\w+", expression)


def _known(series: str) -> tuple[str, bool]:
    """The metric that a series belongs to, and whether it is a part of a histogram."""
    base = re.sub(r"_(bucket|sum|count)$", "", series)
    return (base, True) if base != series and (base in OURS or base in RAY_METRICS) else (series, False)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"asr_[a-z][a-z_]*[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert not {"le", *BY_SERVE} & set(metric.labels), "Serve's own"
    assert metric.meaning.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_documented(metric: Metric) -> None:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    assert f"| `{metric.exported_name}` | {metric.kind} | {labels} | {metric.meaning} |" in OPERATIONS


def test_no_metric_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(rf"`({PREFIX}(?:asr|serve|component)_\w+)`", OPERATIONS))
    assert {name for name in named if _known(name)[0] not in OURS.keys() | RAY_METRICS.keys()} == set()


def test_the_dashboard_uses_metrics_that_exist() -> None:
    used = {_known(series)[0] for expression in _expressions() for series in _series(expression)}
    assert used - OURS.keys() - RAY_METRICS.keys() == set()
    assert OURS.keys() - used == set(), "and shows all of ours"
    assert RAY_METRICS.keys() - used == set(), "what it does not use need not be listed"


@pytest.mark.parametrize("expression", _expressions())
def test_the_dashboard_uses_series_and_labels_that_exist(expression: str) -> None:
    allowed = {"le"} if "_bucket" in expression else set()
    for series in _series(expression):
        name, part_of_histogram = _known(series)
        if name in OURS:
            assert part_of_histogram == (OURS[name].kind == "histogram"), series
            allowed |= {*OURS[name].labels, *BY_SERVE}
        else:
            allowed |= set(RAY_METRICS[name])
    grouped = [label for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(", ")]
    matched = [
        label for matchers in re.findall(r"\{([^}]*)\}", expression) for label in re.findall(r"(\w+)=", matchers)
    ]
    assert {*grouped, *matched} <= allowed


def test_counters_are_only_looked_at_as_rates() -> None:
    for expression in _expressions():
        counted = re.findall(r"(\w+)\((ray_\w+(?:_total|_bucket))\b", expression)
        assert len(counted) == len(re.findall(r"ray_\w+(?:_total|_bucket)\b", expression)), expression
        assert {function for function, _ in counted} <= {"rate", "increase"}


def test_the_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
