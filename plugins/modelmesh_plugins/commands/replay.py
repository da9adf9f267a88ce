"""``modelmesh replay``: what would another configuration have made of the requests in a log?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import click
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from modelmesh.errors import ConfigurationError
from modelmesh_plugins.commands.refusals import refusal_lines
from modelmesh_plugins.commands.tables import print_whole
from modelmesh_plugins.replay.comparison import Comparison, compare
from modelmesh_plugins.replay.records import LogError, read_log
from modelmesh_plugins.replay.run import replay

_NOBODY = "nobody"
_MOVES = 10
_COMPRESSED = {b"\x1f\x8b": "gunzip -c", b"BZh": "bunzip2 -c", b"\xfd7zXZ": "unxz -c", b"\x28\xb5\x2f\xfd": "unzstd -c"}
"""What unpacks a file that begins so."""


@click.command("replay")
@click.argument("log", type=click.File(encoding="utf-8", errors="replace"))
@click.option(
    "--config", "file", type=click.Path(path_type=Path), required=True, help="The configuration to try the requests on."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what the configuration draws by lot.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(log: TextIO, file: Path, seed: int, as_json: bool) -> int:
    """Replay the requests of a LOG on another configuration.

    Nothing is sent anywhere, and no key is needed. LOG is what the file or json-log connector wrote, or - for standard
    input. Each request is routed when it came, by the real router; providers answer as the log says they did then.
    What cannot be known is listed at the end.
    """
    _refuse_compressed(log, file)
    try:
        recorded = read_log(log)
    except LogError as error:
        raise click.ClickException(f"{log.name}: {error.message}") from None
    except OSError as error:
        raise click.ClickException(f"{log.name} cannot be read: {error.strerror}") from None
    try:
        found = compare(recorded, replay(recorded.requests, file, seed=seed))
    except ConfigurationError as error:
        raise click.ClickException("\n".join(refusal_lines(error))) from None
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_whole(Console(), shown(found))
    return 0


def _refuse_compressed(log: TextIO, file: Path) -> None:
    peek = getattr(getattr(log, "buffer", None), "peek", None)
    try:
        beginning = b"" if peek is None else peek(8)
    except OSError:
        return  # told when the log is read
    for magic, unpack in _COMPRESSED.items():
        if beginning.startswith(magic):
            how = f", with {unpack}"
            if log.name != "<stdin>":
                parts = (shlex.quote(log.name), shlex.quote(str(file)))
                how = f": {unpack} {parts[0]} | modelmesh replay - --config {parts[1]}"
            raise click.ClickException(f"{log.name}: is compressed; unpack it first{how}")


def shown(found: Comparison) -> Group:
    """Return a comparison as tables and sentences."""
    parts: list[object] = [_totals(found), "", _models(found)]
    if found.moved:
        parts += ["", _moves(found)]
    if found.newly_failed:
        ids = ", ".join(found.newly_failed[:3]) + (", …" if len(found.newly_failed) > 3 else "")
        why = ", ".join(f"{name} ({times:,})" for name, times in found.failures.items())
        text = f"{len(found.newly_failed):,} requests that were answered would fail: {ids}; by error: {why}"
        parts += ["", Text(text, style="red")]
    if found.newly_answered:
        parts += ["", Text(f"{len(found.newly_answered):,} requests that failed would be answered", style="green")]
    parts += ["", Text("What this cannot know:", style="bold"), *(Text(f"- {each}") for each in found.unknown)]
    return Group(*parts)  # type: ignore[arg-type]  # texts and tables are what it renders


def _totals(found: Comparison) -> Table:
    before, after = found.recorded, found.replayed
    table = _table(f"{found.requests:,} requests", "", "recorded", "replayed", "difference")
    answered = (found.requests - before.failed, found.requests - after.failed)
    for name, old, new in (
        ("answered", *answered),
        ("failed", before.failed, after.failed),
        ("attempts", before.attempts, after.attempts),
        ("rotated", before.rotated, after.rotated),
    ):
        table.add_row(name, f"{old:,}", f"{new:,}", f"{new - old:+,}" if new != old else "")
    share = "" if found.costed == found.requests else f" of {found.costed:,}"
    table.add_row(f"cost ${share}", f"{before.cost:,.4f}", f"{after.cost:,.4f}", _change(before.cost, after.cost))
    timed = "" if found.timed == found.requests else f" of {found.timed:,}"
    for name in ("mean", "p50", "p95"):
        old_ms, new_ms = before.latency_ms[name], after.latency_ms[name]
        table.add_row(
            f"{name} latency ms{timed}",
            f"{old_ms:,.0f}" if found.timed else "?",
            f"{new_ms:,.0f}" if found.timed else "?",
            _change(old_ms, new_ms),
        )
    return table


def _models(found: Comparison) -> Table:
    table = _table("answers by model", "model", "recorded", "replayed", "difference")
    before, after = found.recorded.answers, found.replayed.answers
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name, 0), after.get(name, 0)
        table.add_row(Text(name), f"{old:,}", f"{new:,}", f"{new - old:+,}" if new != old else "")
    return table


def _moves(found: Comparison) -> Table:
    table = _table("who answers in whose place", "recorded", "replayed", "requests")
    moved: Mapping[tuple[str | None, str | None], int] = found.moved
    for (before, after), times in list(moved.items())[:_MOVES]:
        table.add_row(Text(before or _NOBODY), Text(after or _NOBODY), f"{times:,}")
    if len(moved) > _MOVES:
        table.add_row(f"… and {len(moved) - _MOVES:,} more", "", f"{sum(list(moved.values())[_MOVES:]):,}")
    return table


def _change(old: float, new: float) -> str:
    if not old:
        return "" if old == new else "new"
    change = f"{(new - old) / old:+.1%}"
    return "" if change in ("+0.0%", "-0.0%") else change


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        numeric = column in ("recorded", "replayed", "difference", "requests") and title[0] != "w"
        table.add_column(column, justify="right" if numeric or column == "requests" else "left")
    return table
