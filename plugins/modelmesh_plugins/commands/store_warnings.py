"""What a state store warns of while a command looks into it, said beside what the command prints."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from modelmesh.interfaces.observability import Severity
from modelmesh.interfaces.runtime import ConnectorContext
from modelmesh_plugins.offline import SilentPlugins


class _SystemClock:
    """The clock of this computer."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)
    sleep = staticmethod(asyncio.sleep)


class WarningPlugins(SilentPlugins):
    """The installed plugins, nobody else told of anything; what a state store warns of is said on the error output.

    A damaged file is such a thing: without a word, what was spent before would seem to be nothing.
    """

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a connector, a state store with its trace turned to the error output."""
        connector = super().build(kind, connector_id, settings)
        bind = getattr(connector, "bind", None)
        if kind == "state_stores" and bind is not None:
            with suppress(AttributeError):  # a stranger's class may have slots
                connector.bind = lambda context: bind(replace(context, trace=_say))
        return connector

    def build_alone(self, connector_id: str, settings: Any) -> Any:
        """Return a state store for use without a mesh."""
        store = self.build("state_stores", connector_id, settings)
        if hasattr(store, "bind"):
            store.bind(ConnectorContext(connector_id, _SystemClock(), random, _say))
        return store


def _say(severity: Severity, message: str) -> None:
    if severity not in (Severity.DEBUG, Severity.INFO):
        click.echo(f"Warning: {message}", err=True)
