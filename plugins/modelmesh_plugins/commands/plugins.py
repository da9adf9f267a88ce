"""``modelmesh plugins``: what is installed, what works, and why the rest does not."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from modelmesh.plugins import KINDS, PluginHost, PluginRow
from rich.console import Console
from rich.table import Table

_COLOURS = {"loaded": "green", "found": "cyan", "broken": "red"}


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only this kind.")
@click.option("--load/--no-load", default=True, help="Whether to import the plugins, to see which of them work.")
def command(as_json: bool, kind: str | None, load: bool) -> None:
    """List the installed connectors, with the reason and the remedy for those that cannot be used."""
    rows = PluginHost().list_plugins([kind] if kind else list(KINDS), load=load)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    console = Console()
    for each in dict.fromkeys(row.kind for row in rows):
        console.print(f"[bold]{each}[/]")
        console.print(_table([row for row in rows if row.kind == each], wide=console.width >= 100))
    for row in rows:
        if row.status == "broken":
            text = f"{row.kind} {row.id} ({row.distribution} {row.version}): {row.reason}\n  try: {row.remedy}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(rows: list[PluginRow], *, wide: bool) -> Table:
    """Return a grid of one kind; what a connector does is left out where there is no room for it."""
    cells = [(f"  {row.id}", row.status, f"{row.distribution} {row.version}") for row in rows]
    table = Table.grid(padding=(0, 2))
    for place in range(3):
        table.add_column(no_wrap=True, min_width=max(len(cell[place]) for cell in cells))
    if wide:
        table.add_column(no_wrap=True, overflow="ellipsis")
    for row, (name, status, origin) in zip(rows, cells, strict=True):
        rest = [row.summary or row.reason] if wide else []
        table.add_row(name, f"[{_COLOURS[status]}]{status}[/]", origin, *rest)
    return table
