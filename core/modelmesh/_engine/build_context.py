"""What a connector is handed when it is built."""

from __future__ import annotations

from modelmesh._engine.telemetry import Telemetry
from modelmesh.interfaces.runtime import Clock, ConnectorContext, Random


def context_of(kind: str, name: str, telemetry: Telemetry, clock: Clock, random: Random) -> ConnectorContext:
    """Return clock, randomness and trace of a connector, as ``<kind>.<name>``."""
    component = f"{kind}.{name}"
    return ConnectorContext(
        name, clock, random, lambda severity, message: telemetry.trace(severity, component, message)
    )
