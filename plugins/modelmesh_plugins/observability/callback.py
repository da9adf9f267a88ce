"""Records handed to functions of the application."""

from __future__ import annotations

from modelmesh_cdk.callback import CallbackObservability


class CallbackConnector(CallbackObservability):
    """Calls the application's functions with events, requests, statistics and traces."""
