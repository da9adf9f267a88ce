"""One JSON Schema for editors, made from the configuration's models and those of the installed plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from modelmesh.config.models import Configuration, PoolConfig, ProviderConfig

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class LoadedConnectors(Protocol):
    """Where the classes of installed connectors come from."""

    def load_all(self, kind: str) -> Mapping[str, type[Any]]:
        """Return the usable classes of a kind by ID."""
        ...


def build_schema(connectors: LoadedConnectors) -> dict[str, Any]:
    """Return a JSON Schema (draft 2020-12) of the whole configuration.

    Entries of ``providers`` and ``pools`` take the settings of the connector they name; where several connectors
    have a setting of the same name, either shape is accepted.
    """
    schema = Configuration.model_json_schema(mode="validation")
    schema["$schema"] = _DIALECT
    schema["title"] = "ModelMesh configuration"
    definitions = schema["$defs"]
    _extend(definitions, ProviderConfig, connectors.load_all("providers"))
    _extend(definitions, PoolConfig, connectors.load_all("strategies"))
    _open(definitions, "ObservabilityConfig", connectors.load_all("observability"))
    if "StorageConfig" in definitions:
        _extend_properties(definitions, "StorageConfig", connectors.load_all("state_stores"))
    for hidden in ("settings", "strategy_settings", "strategy_instance", "instance", "target", "resolver"):
        for definition in (*definitions.values(), schema):
            definition.get("properties", {}).pop(hidden, None)
    return schema


def _extend(definitions: dict[str, Any], model: type[BaseModel], classes: Mapping[str, type[Any]]) -> None:
    _extend_properties(definitions, model.__name__, classes)


def _extend_properties(definitions: dict[str, Any], name: str, classes: Mapping[str, type[Any]]) -> None:
    """Add the settings of every connector to a definition's properties."""
    properties = definitions[name].setdefault("properties", {})
    for connector_id, cls in classes.items():
        settings = getattr(cls, "config_model", None)
        if settings is None:
            continue
        own = settings.model_json_schema(mode="validation", ref_template="#/$defs/{model}")
        definitions.update({key: value for key, value in own.pop("$defs", {}).items() if key not in definitions})
        for key, value in own.get("properties", {}).items():
            shape = {**value, "description": f"{value.get('description', '')} ({connector_id})".strip()}
            known = properties.get(key)
            if known is None:
                properties[key] = shape
            elif "anyOf" in known and known.get("x-connectors"):
                known["anyOf"].append(shape)
            elif _bare(known) != _bare(shape):
                properties[key] = {"anyOf": [known, shape], "x-connectors": True}


def _open(definitions: dict[str, Any], name: str, classes: Mapping[str, type[Any]]) -> None:
    """Let ``observability`` and its sections name a connector and hold its settings."""
    sections = (name, "RoutingEventsConfig", "LoggingConfig", "StatisticsConfig", "TracingConfig")
    for section in sections:
        if section in definitions:
            definitions[section].setdefault("properties", {})["connector"] = {"type": "string"}
            _extend_properties(definitions, section, classes)
    definitions[name]["properties"]["console"] = {"type": "object"}


def _bare(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in shape.items() if key not in ("description", "title", "default")}
