"""``modelmesh simulate``: what would happen to errors, latency and cost if a provider were down for an hour?"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.errors import ConfigurationError
from modelmesh_plugins.commands.configuration import VARIABLE, ConfigurationPath
from modelmesh_plugins.commands.files import write_whole
from modelmesh_plugins.commands.refusals import refusal_lines
from modelmesh_plugins.simulate.plot import svg
from modelmesh_plugins.simulate.report import Figures, as_json, spans, total
from modelmesh_plugins.simulate.run import Simulated, simulate


@click.command("simulate")
@click.argument("file", type=ConfigurationPath(path_type=Path), envvar=VARIABLE)
@click.option(
    "--scenario", type=click.Path(path_type=Path), required=True, help="Traffic, and what happens: a YAML file."
)
@click.option("--svg", "drawing", type=click.Path(path_type=Path), help="Draw it into this file as well.")
@click.option("--json", "as_data", is_flag=True, help="Print JSON instead of tables.")
def command(file: Path, scenario: Path, drawing: Path | None, as_data: bool) -> int:
    """Run the configuration FILE through a scenario, in virtual time.

    FILE is by default the one that MODELMESH_CONFIG names.
    The real router decides; providers answer as the scenario says. Nothing is sent anywhere, and no key is needed.
    """
    try:
        found = simulate(file, scenario)
    except ConfigurationError as error:
        raise click.ClickException("\n".join(refusal_lines(error))) from None
    if not found.asked:
        raise click.ClickException(f"{scenario}: no request comes in it: raise rate, or duration")
    if drawing is not None:
        try:
            write_whole(drawing, svg(found))
        except OSError as error:
            raise click.ClickException(f"{drawing} cannot be written: {error.strerror}") from None
    if as_data:
        click.echo(json.dumps(as_json(found), indent=2))
    else:
        Console().print(shown(found))
    return 0


def shown(found: Simulated) -> Group:
    """Return the figures as tables, and what requests failed with as a line."""
    whole = total(found)
    parts = spans(found)
    shown: list[RenderableType] = [
        _spans(found, parts, whole),
        "",
        _answers(found, parts, whole),
        "",
        _providers(found),
    ]
    if whole.errors:
        errors = ", ".join(f"{name} ({count:,})" for name, count in whole.errors.items())
        shown += ["", Text(f"requests failed with {errors}", style="red")]
    return Group(*shown)


def _spans(found: Simulated, parts: list[Figures], whole: Figures) -> Table:
    table = _table(f"pool {found.pool}", "from", "what happens")
    for column in ("requests", "errors", "p50 s", "p95 s", "cost $"):
        table.add_column(column, justify="right", no_wrap=True)
    for place, figures in enumerate([*parts, whole] if len(parts) > 1 else parts):
        if place == len(parts):
            table.add_section()
        table.add_row(
            clock(figures.start) if place < len(parts) else "all",
            Text(figures.title if place < len(parts) else ""),
            f"{figures.requests:,}",
            Text(f"{figures.error_rate:.2%}", style="red" if figures.failed else ""),
            _seconds(figures.p50),
            _seconds(figures.p95),
            f"{figures.cost:,.4f}",
        )
    return table


def _answers(found: Simulated, parts: list[Figures], whole: Figures) -> Table:
    table = _table("answers by provider", "from")
    for name in found.providers:
        table.add_column(Text(name), justify="right")
    for place, figures in enumerate([*parts, whole] if len(parts) > 1 else parts):
        if place == len(parts):
            table.add_section()
        shares = [figures.answered_by.get(name, 0) / (figures.requests or 1) for name in found.providers]
        table.add_row(
            clock(figures.start) if place < len(parts) else "all",
            *(f"{share:.1%}" if share else "-" for share in shares),
        )
    return table


def _providers(found: Simulated) -> Table:
    table = _table("calls", "provider")
    for column in ("calls", "failed", "quota used", "cost $"):
        table.add_column(column, justify="right")
    for each in found.providers.values():
        quota = "-" if each.quota is None else f"{each.taken:,} of {each.quota:,}"
        table.add_row(Text(each.name), f"{each.calls:,}", f"{each.failures:,}", quota, f"{each.cost:,.4f}")
    return table


def clock(seconds: float) -> str:
    """Return a moment of the scenario as hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3_600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
