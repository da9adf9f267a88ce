"""A mesh that is only looked at, or tried out on stand-ins for its providers: nobody is told anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelmesh.interfaces.provider import AttemptRecord, ProviderRequest
from modelmesh.mesh import ModelMesh
from modelmesh.plugins import PluginHost

_PLACEHOLDER = "no-key-is-needed"


class SilentPlugins(PluginHost):
    """The installed plugins, except that nothing is reported and no hook is called."""

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a connector, or what stands in for it."""
        if kind == "observability":
            return super().build(kind, "modelmesh.null.v1", None)
        return super().build(kind, connector_id, settings)

    def startup(self, mesh: ModelMesh) -> list[str]:
        """Call no hook: nothing that happens here is real."""
        return []

    def shutdown(self, mesh: ModelMesh) -> list[str]:
        """Call no hook."""
        return []

    def before_attempt(self, request: ProviderRequest, context: Mapping[str, Any]) -> list[str]:
        """Call no hook."""
        return []

    def after_attempt(self, request: ProviderRequest, record: AttemptRecord) -> list[str]:
        """Call no hook."""
        return []


class OfflinePlugins(SilentPlugins):
    """The installed plugins, except that providers are stand-ins and that nothing is written or kept anywhere.

    Args:
        stand_in: Called with a provider's connector class; returns what stands in for a provider of it.
    """

    def __init__(self, stand_in: Callable[[object], Any]) -> None:
        super().__init__()
        self._stand_in = stand_in

    def build(self, kind: str, connector_id: str, settings: Any) -> Any:
        """Return a connector, or what stands in for it."""
        if kind == "providers":
            return self._stand_in(self.find(kind, connector_id))
        if kind == "state_stores":
            return super().build(kind, "modelmesh.memory.v1", None)
        return super().build(kind, connector_id, settings)


class Secretless(Mapping[str, str]):
    """The environment, in which every secret that is missing has a value: nobody is called, so none is needed."""

    def __getitem__(self, name: str) -> str:
        return os.environ.get(name, _PLACEHOLDER)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)
