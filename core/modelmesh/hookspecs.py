"""The contract with plugins: one hook a connector kind, two for the life of a mesh, two around each attempt.

A plugin is found by its entry point (``modelmesh.providers`` and its siblings); the entry point's name is the
connector ID and its object a class or a module with implementations of these hooks. Classes that inherit from the
CDK carry their hook already. See ``docs/how-to/write-a-connector.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from modelmesh.interfaces.observability import ObservabilityConnector
    from modelmesh.interfaces.provider import AttemptRecord, ProviderConnector, ProviderRequest
    from modelmesh.interfaces.state_store import StateStore
    from modelmesh.interfaces.strategy import SelectionStrategy
    from modelmesh.mesh import ModelMesh

PROJECT = "modelmesh"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def modelmesh_providers() -> Mapping[str, type[ProviderConnector]]:  # type: ignore[empty-body]
    """Offer provider classes, keyed by connector ID.

    Called once per plugin, when the configuration first names one of its connectors. Return classes, not instances:
    the core builds one instance per configured provider, from the class's settings model (``config_model``).
    The empty key stands for the name of the plugin's own entry point. Do not open connections, start threads or read
    credentials here. An ID that another plugin offers too is an error that names both distributions.
    """


@hookspec
def modelmesh_strategies() -> Mapping[str, type[SelectionStrategy]]:  # type: ignore[empty-body]
    """Offer selection strategy classes, keyed by connector ID.

    Called once per plugin, when a pool first names one of its strategies. The core builds one instance per pool.
    Same rules as `modelmesh_providers`.
    """


@hookspec
def modelmesh_state_stores() -> Mapping[str, type[StateStore]]:  # type: ignore[empty-body]
    """Offer state store classes, keyed by connector ID.

    Called once per plugin, when ``storage.connector`` names one of them. The core builds one instance per mesh.
    Same rules as `modelmesh_providers`.
    """


@hookspec
def modelmesh_observability() -> Mapping[str, type[ObservabilityConnector]]:  # type: ignore[empty-body]
    """Offer observability connector classes, keyed by connector ID.

    Called once per plugin, when a section of ``observability`` first names one of them. The core builds one instance
    per configured connector. Same rules as `modelmesh_providers`.
    """


@hookspec
def modelmesh_startup(mesh: ModelMesh) -> None:
    """Take note that a mesh is ready, before it answers its first request.

    Called once per mesh, on the thread that initialises it, for each loaded plugin. May read the mesh; must not send
    requests through it. An exception is traced as a warning and the mesh goes on.
    """


@hookspec
def modelmesh_shutdown(mesh: ModelMesh) -> None:
    """Take note that a mesh ends, after its last request and before its connectors are closed.

    Called once per mesh. An exception is traced as a warning; the shutdown goes on.
    """


@hookspec
def modelmesh_before_attempt(request: ProviderRequest, context: Mapping[str, Any]) -> None:
    """See each attempt just before its call.

    Called on the request's path, by the event loop: be quick, never block. ``context`` holds ``model_id``,
    ``provider_id``, ``pool_id`` and ``attempt`` (1-based). The return value is ignored; the request may not be
    changed. An exception is traced and does not fail the attempt.
    """


@hookspec
def modelmesh_after_attempt(request: ProviderRequest, record: AttemptRecord) -> None:
    """See each attempt just after it ended, successful or not; same rules as `modelmesh_before_attempt`."""
