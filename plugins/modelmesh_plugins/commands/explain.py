"""``modelmesh explain``: where a request would go, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from modelmesh.errors import unknown_name
from modelmesh.explanation import ExplainedPool, Explanation
from modelmesh.mesh import ModelMesh
from modelmesh.router import RoutingOptions
from modelmesh_plugins.commands.configuration import VARIABLE, ConfigurationPath
from modelmesh_plugins.commands.store_warnings import WarningPlugins
from modelmesh_plugins.commands.tables import print_whole


@click.command("explain")
@click.argument("pool")
@click.option(
    "--config",
    type=ConfigurationPath(),
    envvar=VARIABLE,
    required=True,
    show_envvar=True,
    help="The configuration file.",
)
@click.option("--request", "request_file", type=click.Path(dir_okay=False), help="A request's body as JSON.")
@click.option("--stream", is_flag=True, help="As for a streamed request.")
@click.option("--provider", help="As for a request that prefers this provider.")
@click.option("--session", help="As for a request of this session.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(
    pool: str,
    config: str,
    request_file: str | None,
    stream: bool,
    provider: str | None,
    session: str | None,
    as_json: bool,
) -> int:
    """Show where a request to POOL would go; nothing is sent.

    POOL may be a capability or a model as well. Each candidate is listed with what removed it or its score, in the
    order they would be tried. The exit status is 1 when nobody can serve the request.
    """
    payload = None if request_file is None else _body(request_file)
    mode = "streaming" if stream or (payload or {}).get("stream") else "sync"
    with ModelMesh(plugins=WarningPlugins()) as mesh:
        mesh.initialize(Path(config), only_look=True)
        if provider is not None and provider not in mesh.provider_status():
            raise click.ClickException(unknown_name("provider", provider, list(mesh.provider_status())))
        options = RoutingOptions(mode, provider, session)
        explanation = mesh.get_router().explain(pool, payload, options)
    if as_json:
        click.echo(json.dumps(explanation.to_dict(), indent=2))
    else:
        _show(explanation)
    return 0 if explanation.order else 1


def _body(file: str) -> dict[str, Any]:
    try:
        body = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise click.ClickException(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise click.ClickException(f"{file}: is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise click.ClickException(f"{file}: a request's body is a JSON object")
    return body


def _show(explanation: Explanation) -> None:
    console = Console(highlight=False)
    console.print(f"{explanation.capability}, {explanation.delivery_mode}", markup=False)
    for pool in explanation.pools:
        console.print(f"\npool {pool.name} (strategy: {pool.strategy})", markup=False)
        print_whole(console, _table(pool))
        if pool.error:
            console.print(pool.error, markup=False, soft_wrap=True)
    if explanation.order:
        console.print(f"\norder: {' → '.join(explanation.order)}", markup=False, soft_wrap=True)


def _table(pool: ExplainedPool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("", justify="right")
    table.add_column("model")
    table.add_column("provider")
    table.add_column("score", justify="right")
    table.add_column("why")
    for each in pool.candidates:
        why = f"{each.removed_by}: {each.reason}" if each.removed_by else each.reason
        score = "" if each.score is None else f"{each.score:.4g}"
        table.add_row("" if each.place is None else str(each.place), each.model_id, each.provider_id, score, why)
    return table
