"""``modelmesh check``: is this configuration right?"""

from __future__ import annotations

import os
from typing import Any

import click

from modelmesh.config import MeshConfig, load_config
from modelmesh.config.configuration import Configuration
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost
from modelmesh_plugins.commands.configuration import VARIABLE, ConfigurationPath
from modelmesh_plugins.commands.files import PIPED, read_piped
from modelmesh_plugins.commands.refusals import refusal_lines
from modelmesh_plugins.offline import SilentPlugins
from modelmesh_plugins.server.settings import settings_of


@click.command("check")
@click.argument("file", type=ConfigurationPath(), envvar=VARIABLE)
def command(file: str) -> int:
    """List everything that is wrong with a configuration FILE.

    FILE is - for what comes through a pipe, and by default the one that MODELMESH_CONFIG names. Connectors are loaded
    and secrets looked up; nothing is sent anywhere, and no state is opened.
    """
    text, file = (_text_piped(), PIPED) if file == "-" else (None, file)
    try:
        source = MeshConfig.from_file(file) if text is None else MeshConfig.from_yaml(text, file=file)
        configuration = load_config(source, connectors=PluginHost(), environ=os.environ)
        _check_proxy(source, configuration)
        with ModelMesh(plugins=_UnkeptPlugins()) as mesh:  # what only shows when all is put together
            mesh.initialize(source, only_look=True)
    except ConfigurationError as error:
        lines = refusal_lines(error)
        for line in lines:
            click.echo(line, err=True)
        count = len(lines)
        click.echo(f"{file}: {count} problem{'' if count == 1 else 's'}", err=True)
        return 1
    click.echo(f"{file}: ok")
    providers = ", ".join(name for name, entry in configuration.providers.items() if entry.enabled)
    click.echo(f"  providers: {providers}")
    click.echo(f"  models:    {', '.join(configuration.models)}")
    for name, pool in configuration.pools.items():
        click.echo(f"  pool {name}: {pool.capability or name}, {pool.strategy}")
    return 0


class _UnkeptPlugins(SilentPlugins):
    """The installed plugins, nobody told of anything and no state store opened."""

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a connector, or what stands in for it."""
        if kind == "state_stores":
            return super().build(kind, "modelmesh.memory.v1", None)
        return super().build(kind, connector_id, settings)


def _text_piped() -> str:
    try:
        return read_piped().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.ClickException("what comes through the pipe is not UTF-8") from None


def _check_proxy(source: MeshConfig, configuration: Configuration) -> None:
    """Refuse what only the server would, when it starts; the core does not know its paths."""
    try:
        settings_of(configuration)
    except ConfigurationError as error:
        line = source.lines.get(("proxy", "endpoints"))
        message = error.message.removeprefix("proxy.endpoints: ")
        raise ConfigurationError.from_problems([Problem(message, "proxy.endpoints", source.file, line)]) from None
