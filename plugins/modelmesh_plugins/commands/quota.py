"""``modelmesh quota``: what is left of budgets and quotas, until when, and for how long at this pace."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from modelmesh.mesh import ModelMesh
from modelmesh.quota import QuotaRow
from modelmesh_plugins.commands.tables import print_whole
from modelmesh_plugins.offline import SilentPlugins


@click.command("quota")
@click.argument("config", type=click.Path(), envvar="MODELMESH_CONFIG")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(config: str, as_json: bool) -> int:
    """Show what is used and left of the limits of CONFIG.

    Limits are kept where the storage section says; without one they are this process's own, and empty. Times are UTC.
    """
    with ModelMesh(plugins=SilentPlugins()) as mesh:
        mesh.initialize(Path(config), only_look=True)
        rows = mesh.get_quota()
    if as_json:
        click.echo(json.dumps([{**asdict(row), "left": row.left} for row in rows], indent=2))
        return 0
    if not rows:
        click.echo(f"{config}: sets no budget, quota or other limit")
        return 0
    print_whole(Console(highlight=False), _table(rows))
    return 0


def _table(rows: list[QuotaRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("limit")
    for name in ("used", "on their way", "left"):
        table.add_column(name, justify="right")
    table.add_column("begins anew")
    table.add_column("used up")
    for row in rows:
        table.add_row(
            row.subject,
            _amount(row.spent, row.unit),
            _amount(row.reserved, row.unit),
            _amount(row.left, row.unit),
            "" if row.resets_at is None else _moment(row.resets_at),
            "" if row.runs_out_at is None else _moment(row.runs_out_at),
        )
    return table


def _amount(value: float, unit: str) -> str:
    return f"${value:.4f}" if unit == "USD" else f"{value:,.0f}"


def _moment(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M}"
