"""Observability that goes nowhere: the default of the library."""

from __future__ import annotations

from modelmesh_cdk.observability import BaseObservability, BaseObservabilityConfig


class NullObservability(BaseObservability[BaseObservabilityConfig]):
    """Takes nothing and costs nothing: the core does not even build records for it."""

    is_null = True
