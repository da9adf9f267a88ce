"""The ``modelmesh`` command: finds its sub-commands by entry points and imports one when it is called."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from modelmesh.distributions import installed_entry_points
from modelmesh.errors import ModelMeshError, unknown_name
from modelmesh.plugins import COMMANDS_GROUP
from modelmesh.redaction import Redactor
from modelmesh_plugins.commands.refusals import refusal


class PluginGroup(click.Group):
    """A group whose commands are entry points; a broken one is a line, not a crash."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._found: dict[str, Any] | None = None

    def _entry_points(self) -> dict[str, Any]:
        if self._found is None:
            self._found = {each.name: each for each in installed_entry_points(COMMANDS_GROUP)}
        return self._found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        return sorted(self._entry_points())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Answer an unknown command with the near match."""
        if args and not args[0].startswith("-") and args[0] not in self._entry_points():
            ctx.fail(unknown_name("command", args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None when there is none of this name."""
        entry_point = self._entry_points().get(cmd_name)
        if entry_point is None:
            return None
        try:
            command = entry_point.load()
        except Exception as error:
            return _broken(cmd_name, entry_point, error)
        if not isinstance(command, click.Command):
            return _broken(cmd_name, entry_point, TypeError(f"{entry_point.value} is no click command"))
        return command


def _broken(name: str, entry_point: Any, error: Exception) -> click.Command:
    """Stand in for a command that cannot be imported."""
    owner = entry_point.dist.name if entry_point.dist is not None else "an unknown distribution"
    reason = Redactor().text(str(error).split("\n")[0])
    remedy, state = f"pip install --upgrade '{owner}'", f"broken: {type(error).__name__}"
    if isinstance(error, ModuleNotFoundError):
        own = "cli" if error.name == "rich" else "server"
        extra = own if owner == "modelmesh-router" else None
        remedy = f"pip install '{owner}[{extra}]'" if extra else f"pip install {error.name}"
        state = f"needs [{extra}]" if extra else f"needs {error.name}"

    def explain() -> None:
        raise click.ClickException(
            f"cannot run {name!r}, declared by {owner}\n  reason: {type(error).__name__}: {reason}\n  try: {remedy}"
        )

    return click.Command(name, callback=explain, help=f"({state})", short_help=f"({state})")


@click.group(cls=PluginGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modelmesh-router", prog_name="modelmesh")
def cli() -> None:
    """Route AI requests by capability over many providers."""


def main() -> int:
    """Run the command line; every error it knows becomes plain text, with exit status 1 (2 for wrong usage)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # An arrow that the terminal's encoding lacks is no reason to end half-way through a table.
            stream.reconfigure(errors="replace")
    try:
        result = cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        print("interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has had enough of it (``modelmesh plugins | head``).
        sys.stderr.close()
        return 0
    except OSError as error:
        # A full disk behind a redirection, for instance.
        if os.environ.get("MODELMESH_DEBUG"):
            raise
        print(f"Error: {Redactor().text(str(error))}", file=sys.stderr)
        return 1
    except ModelMeshError as error:
        if os.environ.get("MODELMESH_DEBUG"):
            raise
        print(f"Error: {refusal(error)}", file=sys.stderr)
        return 1
    return result if isinstance(result, int) else 0
