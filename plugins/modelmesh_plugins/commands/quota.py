"""``modelmesh quota``: what is left of budgets and quotas, until when, and for how long at this pace."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from modelmesh.config import MeshConfig, load_config
from modelmesh.lasting import lasting
from modelmesh.mesh import ModelMesh
from modelmesh.quota import HeadroomRow, QuotaRow, RollingQuota, rolling_quotas
from modelmesh_plugins.commands.configuration import VARIABLE, ConfigurationPath
from modelmesh_plugins.commands.store_warnings import WarningPlugins
from modelmesh_plugins.commands.tables import print_whole


@click.command("quota")
@click.argument("config", type=ConfigurationPath(), envvar=VARIABLE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def command(config: str, as_json: bool) -> int:
    """Show what is used and left of the limits of CONFIG.

    CONFIG is by default the file that MODELMESH_CONFIG names. Limits that no file sets and providers told of in their
    answers are shown as well. All are kept where the storage section says; without one they are this process's own, and
    empty. What is left of a rolling quota is not kept as a number, and rate limits are not shown. Times are UTC.
    """
    source = MeshConfig.from_file(config)
    with ModelMesh(plugins=WarningPlugins()) as mesh:
        mesh.initialize(source, only_look=True)
        configuration = load_config(source, connectors=mesh.plugins, environ=os.environ)
        rows, said = mesh.get_quota(), [word for row in mesh.get_headroom() for word in _words(row)]
    rolling = rolling_quotas(configuration)
    if as_json:
        limits = [{**asdict(row), "left": row.left} for row in rows]
        click.echo(json.dumps([*limits, *map(_data, rolling), *(asdict(word) for word in said)], indent=2))
        return 0
    rates = [name for name, entry in configuration.providers.items() if entry.enabled and entry.rate_limit is not None]
    if rows or rolling or said:
        print_whole(Console(highlight=False), _table(rows, rolling, said))
    elif not rates:
        click.echo(f"{config}: sets no budget, quota or other limit, and no provider has named one")
    if rates:
        names = f"provider{'s' * (len(rates) > 1)} {', '.join(map(repr, rates))}"
        click.echo(f"the rate limits of {names} are not shown: what is left of them changes by the second")
    return 0


@dataclass(slots=True)
class _Word:
    """What a provider said of one of its limits; in JSON beside the configured ones, with the same names."""

    subject: str
    unit: str
    limit: int | None
    spent: int | None
    left: int
    resets_at: float | None
    runs_out_at: float | None
    seen_at: float | None


def _words(row: HeadroomRow) -> Iterator[_Word]:
    status = row.status
    for unit, limit, left in (
        ("requests", status.requests_limit, status.requests_remaining),
        ("tokens", status.tokens_limit, status.tokens_remaining),
    ):
        if left is None:
            continue
        seen = "" if row.seen_at is None else f" at {_moment(row.seen_at)}"
        spent = None if limit is None else max(0, limit - left)
        subject = f"{unit} a window, as provider {row.provider!r} said{seen}"
        yield _Word(subject, unit, limit, spent, left, row.resets_at, row.runs_out_at, row.seen_at)


def _data(quota: RollingQuota) -> dict[str, Any]:
    """Return a rolling quota under the names of the others, nothing standing for what nobody knows."""
    unknown = dict.fromkeys(("spent", "reserved", "resets_at", "runs_out_at", "left"))
    return {"subject": quota.subject, "unit": quota.unit, "limit": quota.limit, "period": quota.period, **unknown}


def _table(rows: list[QuotaRow], rolling: list[RollingQuota], said: list[_Word]) -> Table:
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
    for quota in rolling:
        table.add_row(quota.subject, "", "", "not kept as a number", f"flows back over {lasting(quota.period)}", "")
    for word in said:
        table.add_row(
            word.subject,
            "" if word.spent is None else _amount(word.spent, word.unit),
            "",
            _amount(word.left, word.unit),
            "" if word.resets_at is None else _second(word.resets_at),
            "" if word.runs_out_at is None else _second(word.runs_out_at),
        )
    return table


def _amount(value: float, unit: str) -> str:
    return f"${value:.4f}" if unit == "USD" else f"{value:,.0f}"


def _moment(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M}"


def _second(unix: float) -> str:
    return f"{datetime.fromtimestamp(unix, UTC):%Y-%m-%d %H:%M:%S}"
