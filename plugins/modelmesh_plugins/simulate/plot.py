"""Draws a simulated scenario as SVG: errors, latency, cost and who answered, over time, with events shaded."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from modelmesh_plugins.simulate.report import Figures, steps
from modelmesh_plugins.simulate.run import Simulated

_WIDTH, _PANEL, _LEFT, _RIGHT, _GAP, _TOP = 900, 130, 80, 170, 42, 40
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Told apart by people who see fewer colours, too (Okabe and Ito)."""

Line = tuple[str, Sequence[float | None]]


def svg(found: Simulated) -> str:
    """Return a plot as the text of an SVG file."""
    figures = steps(found)
    panels: list[tuple[str, list[Line]]] = [
        ("errors, %", [("errors", [100.0 * each.error_rate if each.requests else None for each in figures])]),
        ("latency, s", [("p50", [each.p50 for each in figures]), ("p95", [each.p95 for each in figures])]),
        ("cost, USD/min", [("cost", [each.cost * 60.0 / (each.end - each.start) for each in figures])]),
        (
            "answers/s",
            [
                (name, [each.answered_by.get(name, 0) / (each.end - each.start) for each in figures])
                for name in found.providers
            ],
        ),
    ]
    height = _TOP + len(panels) * (_PANEL + _GAP)
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {_WIDTH} {height}",
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": "#ffffff"})
    _text(root, _LEFT, 20, f"pool {found.pool}, {len(found.asked):,} requests", size=14)
    for place, (title, lines) in enumerate(panels):
        _panel(root, _TOP + place * (_PANEL + _GAP), title, lines, figures, found)
    return tostring(root, encoding="unicode") + "\n"


def _panel(root: Element, top: float, title: str, lines: list[Line], figures: list[Figures], found: Simulated) -> None:
    right, bottom = _WIDTH - _RIGHT, top + _PANEL
    duration = found.scenario.duration

    def across(seconds: float) -> float:
        return _LEFT + (right - _LEFT) * seconds / duration

    for event in found.scenario.events:
        if event.rate is None:
            start, end = across(event.at), across(min(event.ends, duration))
            shade = {"x": f"{start:.1f}", "y": f"{top}", "width": f"{end - start:.1f}", "height": f"{_PANEL}"}
            SubElement(
                SubElement(root, "rect", {**shade, "fill": "#000000", "opacity": "0.06"}), "title"
            ).text = event.title
    highest = max((value for _, values in lines for value in values if value is not None), default=0.0) or 1.0
    axis = {"x1": f"{_LEFT}", "x2": f"{right}", "stroke": "#999999"}
    SubElement(root, "line", {**axis, "y1": f"{bottom}", "y2": f"{bottom}"})
    _text(root, _LEFT, top - 6, title)
    _text(root, _LEFT - 6, top + 10, f"{highest:.3g}", anchor="end")
    _text(root, _LEFT - 6, bottom, "0", anchor="end")
    _text(root, _LEFT, bottom + 15, "0")
    _text(root, right, bottom + 15, _span(duration), anchor="end")
    for place, (name, values) in enumerate(lines):
        colour = _COLOURS[place % len(_COLOURS)]
        _text(root, right + 12, top + 12 + 15 * place, name, fill=colour)
        for points in _runs(values):
            drawn = " ".join(
                f"{across((figures[at].start + figures[at].end) / 2):.1f},{bottom - _PANEL * value / highest:.1f}"
                for at, value in points
            )
            SubElement(root, "polyline", {"points": drawn, "fill": "none", "stroke": colour, "stroke-width": "1.5"})


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Cut a line where there is nothing to draw."""
    runs: list[list[tuple[int, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((place, value))
    return [run for run in runs if run]


def _text(
    root: Element, x: float, y: float, said: str, *, anchor: str = "start", size: int = 12, fill: str = "#333333"
) -> None:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": f"{size}", "fill": fill}
    SubElement(root, "text", place).text = said


def _span(seconds: float) -> str:
    if seconds >= 7_200:
        return f"{seconds / 3_600:g} h"
    return f"{seconds / 60:g} min" if seconds >= 120 else f"{seconds:g} s"
