"""From a YAML file to a checked configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelmesh.config.configuration import Configuration
    from modelmesh.config.load import ConnectorCatalogue, load_config
    from modelmesh.config.mesh_config import MeshConfig
    from modelmesh.config.schema import build_schema

__all__ = ["Configuration", "ConnectorCatalogue", "MeshConfig", "build_schema", "load_config"]

_HOMES = {
    "Configuration": "configuration",
    "ConnectorCatalogue": "load",
    "MeshConfig": "mesh_config",
    "build_schema": "schema",
    "load_config": "load",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: pydantic and YAML cost tens of milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
