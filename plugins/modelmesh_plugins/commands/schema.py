"""``modelmesh schema``: what editors need to check configurations while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import click

from modelmesh.config import build_schema
from modelmesh.plugins import PluginHost
from modelmesh_plugins.commands.files import write_whole


@click.command("schema")
@click.option("--output", "-o", type=click.Path(dir_okay=False), help="Write to this file instead of the terminal.")
def command(output: str | None) -> None:
    """Print the JSON Schema of configurations.

    It holds the settings of every installed connector, and serves editors for completion.
    """
    text = json.dumps(build_schema(PluginHost()), indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
        return
    try:
        write_whole(Path(output), f"{text}\n")
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    click.echo(f"written to {output}")
