"""``modelmesh plugins``: what is installed, what works, and why the rest does not."""

from __future__ import annotations

import json
import os
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelmesh.plugins import KINDS, PluginHost, PluginRow
from modelmesh_plugins.commands.tables import print_whole

_COLOURS = {"loaded": "green", "found": "cyan", "needs": "default", "broken": "red"}
_ENOUGH = 24
"""Characters below which a summary says too little to be shown."""


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--kind", type=click.Choice(list(KINDS)), help="Only this kind.")
@click.option("--load/--no-load", default=True, help="Whether to import the plugins, to see which of them work.")
def command(as_json: bool, kind: str | None, load: bool) -> None:
    """List the installed connectors.

    Those that wait for an optional library, and those that are broken, are followed by what to do.
    """
    rows = PluginHost().list_plugins([kind] if kind else list(KINDS), load=load)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    console = Console()
    # A pipe has room for everything, unless COLUMNS says how much there is.
    width = console.width if console.is_terminal or os.environ.get("COLUMNS") else None
    for each in dict.fromkeys(row.kind for row in rows):
        console.print(f"[bold]{each}[/]")
        print_whole(console, _table([row for row in rows if row.kind == each], width=width))
    for line in [*_hints(rows), *_failures(rows)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _hints(rows: list[PluginRow]) -> list[str]:
    """Return a line for each optional library that is missing, with all that would use it."""
    waiting: dict[str, list[str]] = {}
    for row in rows:
        if row.status == "needs":
            waiting.setdefault(row.remedy, []).append(row.id)
    return [f"to use {', '.join(ids)}: {remedy}" for remedy, ids in waiting.items()]


def _failures(rows: list[PluginRow]) -> list[str]:
    return [
        f"{row.kind} {row.id} ({row.distribution} {row.version}): {row.reason}\n  try: {row.remedy}"
        for row in rows
        if row.status == "broken"
    ]


def _table(rows: list[PluginRow], *, width: int | None) -> Table:
    """Return a grid of one kind; what a connector does is cut, or left out where there is no room for it.

    Args:
        rows: Of that kind.
        width: How much room there is; None when there is no end of it.
    """
    cells = [(row.id, f"{row.status} {row.needs}".rstrip(), f"{row.distribution} {row.version}") for row in rows]
    widths = [max(len(cell[place]) for cell in cells) for place in range(3)]
    table = Table.grid(padding=(0, 2))
    # Cut here and not by the table, which takes from every column alike and so cuts the IDs, too.
    room = None if width is None else width - sum(widths) - 2 * (len(widths) + 1)
    for row, (name, status, origin) in zip(rows, cells, strict=True):
        # A missing library is told below the tables, once for all that wait for it.
        rest = Text(row.summary or ("" if row.needs else row.reason))
        if room is not None:
            rest.truncate(max(0, room), overflow="ellipsis")
        state = Text(status, style=_COLOURS[row.status])
        table.add_row("", name, state, origin, *([rest] if room is None or room >= _ENOUGH else []))
    return table
