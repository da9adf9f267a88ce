"""``modelmesh check``: is this configuration right?"""

from __future__ import annotations

import os

import click

from modelmesh.config import MeshConfig, load_config
from modelmesh.config.models import Configuration
from modelmesh.errors import ConfigurationError, Problem
from modelmesh.plugins import PluginHost
from modelmesh_plugins.server.settings import settings_of


@click.command("check")
@click.argument("file", type=click.Path())
def command(file: str) -> int:
    """List everything that is wrong with a configuration FILE.

    Connectors are loaded and secrets looked up; nothing is sent anywhere.
    """
    try:
        configuration = load_config(file, connectors=PluginHost(), environ=os.environ)
        _check_proxy(file, configuration)
    except ConfigurationError as error:
        for problem in error.problems or (error,):
            click.echo(str(problem), err=True)
        count = len(error.problems) or 1
        click.echo(f"{file}: {count} problem{'' if count == 1 else 's'}", err=True)
        return 1
    click.echo(f"{file}: ok")
    providers = ", ".join(name for name, entry in configuration.providers.items() if entry.enabled)
    click.echo(f"  providers: {providers}")
    click.echo(f"  models:    {', '.join(configuration.models)}")
    for name, pool in configuration.pools.items():
        click.echo(f"  pool {name}: {pool.capability or name}, {pool.strategy}")
    return 0


def _check_proxy(file: str, configuration: Configuration) -> None:
    """Refuse what only the server would, when it starts; the core does not know its paths."""
    try:
        settings_of(configuration)
    except ConfigurationError as error:
        line = MeshConfig.from_file(file).lines.get(("proxy", "endpoints"))
        message = error.message.removeprefix("proxy.endpoints: ")
        raise ConfigurationError.from_problems([Problem(message, "proxy.endpoints", file, line)]) from None
