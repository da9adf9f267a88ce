"""The Grafana dashboard asks for metrics that exist, with labels they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelmesh_plugins.observability.prometheus.catalogue import CATALOGUE, Metric

DASHBOARD = Path(__file__).parents[3] / "docs" / "dashboards" / "modelmesh.json"
PARTS = ("_bucket", "_sum", "_count")
_SELECTED = re.compile(r"(modelmesh_\w+)(?:\{([^}]*)\})?")


def series() -> dict[str, Metric]:
    """Every series name a query may use, and the metric it is of."""
    return {
        name: metric
        for metric in CATALOGUE
        for name in ([metric.name + part for part in PARTS] if metric.kind == "histogram" else [metric.name])
    }


def strings(value: Any) -> Iterator[str]:
    """Every text somewhere in a JSON value."""
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def queries() -> list[str]:
    """Queries of panels and variables."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = [each["query"]["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]
    return [*panels, *variables]


@pytest.mark.parametrize("query", queries())
def test_a_query_names_metrics_and_labels_that_exist(query: str) -> None:
    """Selectors, groupings and variables use the labels of their metric."""
    known = series()
    found = _SELECTED.findall(query)

    assert found
    for name, selector in found:
        assert name in known
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        labels |= {each.strip() for group in re.findall(r"by \(([^)]*)\)", query) for each in group.split(",")} - {"le"}
        labels |= set(re.findall(r"label_values\(\w+, (\w+)\)", query))
        assert labels <= set(known[name].labels)


def test_every_metric_is_on_the_dashboard() -> None:
    """One that nobody looks at is not worth its memory."""
    shown = {name for query in queries() for name, _ in _SELECTED.findall(query)}
    known = series()

    assert {known[name].name for name in shown} == {metric.name for metric in CATALOGUE}


def test_nothing_else_in_the_dashboard_names_metrics() -> None:
    """All queries are among those the other tests read."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))

    assert {text for text in strings(dashboard) if "modelmesh_" in text} == set(queries())


def test_every_metric_is_documented() -> None:
    """The page's table is the catalogue."""
    page = (DASHBOARD.parents[1] / "how-to" / "watch-with-prometheus.md").read_text(encoding="utf-8")

    for metric in CATALOGUE:
        assert f"| `{metric.name}` | {metric.kind} | {', '.join(metric.labels)} | {metric.help} |" in page


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    """Grafana shows one of two panels with an ID, and lays one over the other."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    cells = [
        (x, y)
        for each in panels
        for x in range(each["gridPos"]["x"], each["gridPos"]["x"] + each["gridPos"]["w"])
        for y in range(each["gridPos"]["y"], each["gridPos"]["y"] + each["gridPos"]["h"])
    ]

    assert len({each["id"] for each in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
