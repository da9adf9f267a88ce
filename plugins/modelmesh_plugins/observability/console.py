"""Readable lines on the terminal."""

from __future__ import annotations

from modelmesh_cdk.console import ConsoleObservability


class ConsoleConnector(ConsoleObservability):
    """Writes events, requests, statistics and traces as readable lines."""
