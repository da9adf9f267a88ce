"""``modelmesh stats``: what a running server has done, as tables that may refresh themselves, or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from time import sleep
from typing import Any
from urllib.parse import urlsplit

import click
import httpx
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modelmesh_plugins.commands.tables import Whole, print_whole
from modelmesh_plugins.server.settings import STATS, is_loopback

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_VARIABLE = "MODELMESH_API_KEY"
_TIMEOUT = 10.0
_SCOPES = ("pools", "models", "providers")
_GOOD = frozenset({"active", "up", "-"})


class CannotAskError(click.ClickException):
    """There are no statistics to show; the message says why and what to do."""


@click.command("stats")
@click.argument("url", default=DEFAULT_URL, envvar="MODELMESH_URL")
@click.option(
    "--api-key-env",
    "variable",
    default=KEY_VARIABLE,
    show_default=True,
    metavar="NAME",
    help="Environment variable that holds the server's key.",
)
@click.option("--scope", type=click.Choice(_SCOPES), help="Only this table.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables; with --watch a line each time.")
@click.option(
    "--watch",
    type=click.FloatRange(min=0.1),
    is_flag=False,
    flag_value=2.0,
    metavar="SECONDS",
    help="Ask again and again, every 2 seconds unless told otherwise; Ctrl-C ends it.",
)
def command(url: str, variable: str, scope: str | None, as_json: bool, watch: float | None) -> None:
    """Show the statistics of a running `modelmesh serve` at URL.

    URL is http://127.0.0.1:8080 (or MODELMESH_URL) by default. Figures cover the server's retention window, a week
    unless configured otherwise.
    """
    key = os.environ.get(variable)
    if not key and variable != KEY_VARIABLE:
        raise CannotAskError(f"--api-key-env {variable}: the environment holds no key under this name")
    source = Source(url, key, variable)
    try:
        if watch is None:
            show(source.fetch(), scope=scope, as_json=as_json)
        elif as_json:
            _write_line(source, scope)
            _repeat(lambda: _write_line(source, scope), watch)
        else:
            _watch(source, scope, watch)
    finally:
        source.close()


class Source:
    """A server's statistics.

    Args:
        url: Of the server; ``host:port`` will do, and a trailing ``/v1`` does no harm.
        key: What it asks for, or None.
        variable: Where a key would be looked for, for messages.
    """

    def __init__(self, url: str, key: str | None, variable: str) -> None:
        self.url = _base(url)
        self._variable = variable
        self._has_key = bool(key)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        host = urlsplit(self.url).hostname or ""
        # A proxy that is set for the world outside does not reach this machine.
        local = host == "localhost" or is_loopback(host)
        self._http = httpx.Client(headers=headers, timeout=_TIMEOUT, trust_env=not local)

    def fetch(self) -> dict[str, Any]:
        """Ask once.

        Raises:
            CannotAskError: Nobody listens, the key is wrong, or what answers is no ModelMesh server.
        """
        try:
            answer = self._http.get(f"{self.url}{STATS}")
        except httpx.TimeoutException:
            raise CannotAskError(f"{self.url} did not answer in {_TIMEOUT:g} s") from None
        except (httpx.TransportError, httpx.InvalidURL, UnicodeError) as error:
            raise CannotAskError(
                f"nobody answers at {self.url} ({type(error).__name__})\n"
                "  try: modelmesh serve, or the URL of a running server: modelmesh stats http://HOST:PORT"
            ) from None
        if answer.status_code in (401, 403):
            problem = "does not know the key" if self._has_key else "asks for a key"
            raise CannotAskError(
                f"{self.url} {problem}\n"
                f"  try: put one of its keys into {self._variable}, or name the variable with --api-key-env"
            )
        if answer.status_code != 200:
            raise CannotAskError(
                f"{self.url} answers {answer.status_code} to {STATS}: it is no ModelMesh server, an older one, or its "
                "proxy.endpoints leave this path out"
            )
        try:
            report = answer.json()
        except ValueError:
            report = None
        if not isinstance(report, dict) or not all(isinstance(report.get(scope), dict) for scope in _SCOPES):
            raise CannotAskError(f"what answers at {self.url} is no ModelMesh server")
        return report

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def show(report: Mapping[str, Any], *, scope: str | None, as_json: bool, console: Console | None = None) -> None:
    """Print a report once."""
    if as_json:
        click.echo(json.dumps(_chosen(report, scope), indent=2))
    else:
        print_whole(console or Console(), tables(report, scope))


def tables(report: Mapping[str, Any], scope: str | None = None) -> Group:
    """Return a report as tables: pools, models and providers, and connectors that lost something."""
    parts: list[Any] = [
        _table("pools", report["pools"], ("now", "model"), _pool_cells),
        _table("models", report["models"], ("now", "provider"), _model_cells),
        _table("providers", report["providers"], ("now",), _provider_cells),
    ]
    if scope is not None:
        return Group(parts[_SCOPES.index(scope)])
    return Group(*parts, *_losses(report.get("observability") or {}))


def _table(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    columns: tuple[str, ...],
    cells: Callable[[Mapping[str, Any]], tuple[str, ...]],
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", overflow="fold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in ("requests", "failed", "p50 ms", "p95 ms", "p99 ms", "tokens", "cost $", "moves", "down"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        first, *rest = cells(row)
        state = Text(first, style="green" if first in _GOOD else "red")
        table.add_row(Text(name), state, *(Text(each) for each in rest), *_figures(row.get("figures")))
    return table


def _pool_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    active, total = row["active"], row["active"] + row["standby"]
    return ("up" if active == total else f"{active} of {total} active"), str(row["current_model"] or "-")


def _model_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    status, reason = str(row["status"]), row["reason"]
    return (status if reason is None or status == "active" else f"{status}: {reason}"), str(row["provider"])


def _provider_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return ("up" if row["available"] else f"down: {row['reason'] or 'unknown'}",)


def _figures(figures: Mapping[str, Any] | None) -> tuple[str, ...]:
    if figures is None:
        return ("-",) * 9
    requests, failed = figures["total_requests"], figures["failed_requests"]
    share = f"{failed:,} ({figures['error_rate']:.1%})" if failed else "0"
    return (
        f"{requests:,}",
        share,
        *(f"{figures[name]:,.0f}" if requests else "-" for name in ("p50_latency_ms", "p95_latency_ms")),
        f"{figures['p99_latency_ms']:,.0f}" if requests else "-",
        f"{figures['total_tokens_in'] + figures['total_tokens_out']:,}",
        f"{figures['total_cost']:,.4f}",
        f"{figures['rotation_events']:,}",
        _span(figures["downtime_total"]),
    )


def _losses(connectors: Mapping[str, Mapping[str, Any]]) -> list[Text]:
    """Say which observability connectors lost records: what is not shown elsewhere would never be missed."""
    return [
        Text(f"{name}: {counts['dropped']:,} records dropped, {counts['failed']:,} failed", style="yellow")
        for name, counts in connectors.items()
        if counts.get("dropped") or counts.get("failed")
    ]


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3_600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"


def _chosen(report: Mapping[str, Any], scope: str | None) -> Mapping[str, Any]:
    return report if scope is None else {scope: report[scope]}


def _write_line(source: Source, scope: str | None) -> None:
    click.echo(json.dumps(_chosen(source.fetch(), scope)))


def _watch(source: Source, scope: str | None, seconds: float) -> None:
    """Show tables until Ctrl-C. A server that goes away later is waited for; one that never was is an error."""
    console = Console()
    shown = tables(source.fetch(), scope)
    if not console.is_terminal:
        print_whole(console, shown)
        _repeat(lambda: print_whole(console, tables(source.fetch(), scope)), seconds)
        return
    with Live(Whole(shown), console=console, screen=True, auto_refresh=False) as live:

        def refresh() -> None:
            try:
                live.update(Whole(tables(source.fetch(), scope)), refresh=True)
            except CannotAskError as error:
                live.update(Text(f"{error.message}\nasking again every {seconds:g} s", style="yellow"), refresh=True)

        _repeat(refresh, seconds)


def _repeat(step: Callable[[], None], seconds: float) -> None:
    """Do something every so many seconds until Ctrl-C, which is how a watch is meant to end."""
    try:
        while True:
            sleep(seconds)
            step()
    except KeyboardInterrupt:
        return


def _base(url: str) -> str:
    """Return a server's base URL from what people write."""
    whole = url if "://" in url else f"http://{url}"
    try:
        is_web = urlsplit(whole).scheme in ("http", "https")
    except ValueError:
        is_web = False
    if is_web and "@" in urlsplit(whole).netloc:
        raise CannotAskError("the URL must not hold credentials; put the server's key into the environment")
    if not is_web:
        raise CannotAskError(f"{whole!r} is no http or https URL; write it as http://HOST:PORT")
    return whole.rstrip("/").removesuffix("/v1").rstrip("/")
